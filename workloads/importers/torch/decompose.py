"""Operations of torch that hold matrix products, written out as those products.

They are given to `torch.export.ExportedProgram.run_decompositions` and traced by it, so that all
extents may be symbolic; what the rules here do not cover they leave as it is.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

_aten = torch.ops.aten


def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    *,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """Write scaled dot-product attention as matmul, scale, mask, softmax, matmul; no dropout."""
    if enable_gqa:
        key = key.repeat_interleave(query.size(-3) // key.size(-3), -3)
        value = value.repeat_interleave(query.size(-3) // value.size(-3), -3)
    scores = torch.matmul(query, key.transpose(-2, -1))
    scores = scores * (1 / math.sqrt(query.size(-1)) if scale is None else scale)
    if is_causal:
        rows, columns = query.size(-2), key.size(-2)
        ones = torch.ones(rows, columns, dtype=torch.bool, device=query.device)
        scores = scores.masked_fill(ones.tril().logical_not(), -math.inf)
    if attn_mask is not None and attn_mask.dtype == torch.bool:
        scores = scores.masked_fill(attn_mask.logical_not(), -math.inf)
    elif attn_mask is not None:
        scores = scores + attn_mask
    return torch.matmul(torch.softmax(scores, -1), value)


def addmm(
    added: Tensor, left: Tensor, right: Tensor, *, beta: float = 1, alpha: float = 1
) -> Tensor:
    """Write ``beta`` * added + ``alpha`` * left right as a product and a sum; of batches too."""
    product = torch.matmul(left, right)
    if alpha != 1:
        product = product * alpha
    if beta == 0:
        return product
    return product + (added if beta == 1 else added * beta)


def einsum(equation: str, operands: list[Tensor], *, path: list[int] | None = None) -> Tensor:
    """Write the einsum of two operands as one matmul, where it is one."""
    terms, arrow, out = equation.replace(" ", "").partition("->")
    factors = terms.split(",")
    if len(factors) != 2 or "." in equation:
        return NotImplemented  # type: ignore[no-any-return]
    left, right = factors
    if not arrow:
        out = "".join(sorted(x for x in {*left, *right} if (left + right).count(x) == 1))
    batch = [x for x in left if x in right and x in out]
    rows = [x for x in left if x not in right]
    columns = [x for x in right if x not in left]
    contracted = [x for x in left if x in right and x not in out]
    # A letter twice in a term is a diagonal, one that the result lacks is a sum of one operand.
    once = all(len({*term}) == len(term) for term in (left, right, out))
    if not once or not contracted or {*rows, *columns} - {*out}:
        return NotImplemented  # type: ignore[no-any-return]
    extents = dict(zip(left, operands[0].shape, strict=True))
    extents.update(zip(right, operands[1].shape, strict=True))

    def grouped(operand: Tensor, letters: str, *groups: list[str]) -> Tensor:
        order = [letters.index(x) for group in groups for x in group]
        if order != sorted(order):
            operand = operand.permute(order)
        shape = [_extent(extents, group) for group in groups[-2:]]
        outer = [extents[x] for group in groups[:-2] for x in group]
        single = all(len(group) == 1 for group in groups[-2:])
        return operand if single else operand.reshape([*outer, *shape])

    # Rows beside a matrix that all samples share stay apart, as in a linear layer.
    apart, merged = (batch, rows) if batch or not rows else (rows[:-1], rows[-1:])
    product = torch.matmul(
        grouped(operands[0], left, apart, merged, contracted),
        grouped(operands[1], right, batch, contracted, columns),
    )
    found = [*batch, *rows, *columns]
    if [*product.shape] != [extents[x] for x in found]:
        product = product.reshape([extents[x] for x in found])
    order = [found.index(x) for x in out]
    return product if order == sorted(order) else product.permute(order)


def _extent(extents: dict[str, int], letters: list[str]) -> int:
    total = 1
    for letter in letters:
        total = total * extents[letter]
    return total


DECOMPOSITIONS: dict[Any, Callable[..., Tensor]] = {
    _aten.scaled_dot_product_attention.default: attention,
    _aten.einsum.default: einsum,
    _aten.addmm.default: addmm,
    _aten.baddbmm.default: addmm,
}
"""Operator -> what writes it as products."""
