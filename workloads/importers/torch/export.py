"""A torch module as an fx graph of functional ATen operations, in one spelling each.

Exported by `torch.export`, then rewritten: in-place operations became functional ones in the
export; here views become reshapes, copies vanish, every convolution spells out all its arguments,
what holds matrix products is written out as those, and they are ``matmul``, or ``linear`` where a
factor is a parameter.
"""

from __future__ import annotations

import io
import logging
import math
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.fx.graph import CodeGen
from torch.utils._pytree import TreeSpec, tree_unflatten

from bfpsim.workloads.graph.product import Letters
from bfpsim.workloads.importers.torch.recurrent import Whole, restore
from bfpsim.workloads.importers.torch.watch import deciding_values, place
from bfpsim.workloads.layer import WorkloadError

aten = torch.ops.aten

# What these return is their first argument, in evaluation and where nothing is written in place.
_SAME = (
    aten.alias.default, aten.clone.default, aten.contiguous.default, aten.detach.default,
    aten.detach_.default, aten.dropout.default, aten.feature_dropout.default,
    aten.lift_fresh_copy.default,
)  # fmt: skip
_DROPOUTS = (aten.dropout.default, aten.feature_dropout.default)
_VIEWS = (aten.view.default, aten._unsafe_view.default)
# Convolution -> how many dimensions its windows have.
_CONVOLUTIONS = {
    aten.conv1d.default: 1, aten.conv1d.padding: 1, aten.conv2d.default: 2, aten.conv2d.padding: 2,
}  # fmt: skip
_TRANSPOSED = {aten.conv_transpose1d.default: 1, aten.conv_transpose2d.input: 2}
_TURNS = (
    aten.t.default, aten.numpy_T.default, aten.transpose.int, aten.permute.default,
)  # fmt: skip


def export(module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[fx.GraphModule, bool]:
    """Return the module's graph, and whether the inputs' first extent is free in it.

    The module must be in evaluation mode; the graph has its parameters, under its names for them.
    Raises `WorkloadError`, with the first line of torch's reason, if torch cannot export it.
    """
    free = all(x.ndim and len(x) == len(inputs[0]) for x in inputs)
    if free and inputs:
        # An extent of 1 would be taken for a constant; and torch marks tensors as it exports.
        several = tuple(torch.cat([x, x]) if len(x) == 1 else x.clone() for x in inputs)
        try:
            return _export(module, several, ({0: torch.export.Dim.DYNAMIC},) * len(inputs)), True
        except Exception:  # of no common class; the next attempt says what is wrong
            pass
    try:
        return _export(module, inputs, None), False
    except Exception as error:
        values = deciding_values(module, inputs, error)
        reason = f"{first_line(error)}{place(error)}"
        if values:
            reason = (
                f"its forward goes by the values of {values}, and a graph is one for all values; "
                "allowed: torch.where, or a forward that goes by shapes"
            )
        raise WorkloadError(
            f"module {type(module).__name__}: torch.export fails: {reason}"
        ) from None


def first_line(error: BaseException) -> str:
    """Return the first line of an error's text that says something, with the error's kind."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


@contextmanager
def written_out() -> Iterator[None]:
    """Have attention run as the operations it is made of, not as one fused kernel.

    Padding that is the same on no two sides runs too, without the warning that it takes a copy.
    """
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Using padding='same' with even kernel", UserWarning)
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


def constants(graph: fx.Graph) -> set[fx.Node]:
    """Return the nodes whose values depend on no input, but for its extents, nor on chance."""
    found: set[fx.Node] = set()
    for node in graph.nodes:
        chance = torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ())
        fixed = not chance and all(source in found for source in node.all_input_nodes)
        stored = node.op == "get_attr" or node.target == aten.sym_size.int
        if stored or (node.op == "call_function" and fixed):
            found.add(node)
    return found


def _export(module: nn.Module, inputs: tuple[Tensor, ...], dynamic: Any) -> fx.GraphModule:
    with written_out(), _quiet(), warnings.catch_warnings():
        # torch's own use of its pytree module.
        warnings.filterwarnings("ignore", r"`isinstance\(treespec, LeafSpec\)`", FutureWarning)
        # Lists that recurrent layers keep of their parameters; the parameters are exported.
        warnings.filterwarnings("ignore", "The tensor attributes? .* assigned during", UserWarning)
        with Whole():
            program = torch.export.export(module, inputs, dynamic_shapes=dynamic, strict=False)
        program = program.run_decompositions(_PRODUCTS)
        exported = program.module()
        assert isinstance(exported, fx.GraphModule)
        _plain(exported.graph, program.call_spec.out_spec)
    graph = exported.graph
    for node in list(graph.nodes):
        restore(node)
        _rewrite(graph, node)
    graph.eliminate_dead_code()
    _find_linear(graph)
    graph.eliminate_dead_code()
    graph.lint()
    return exported


@contextmanager
def _quiet() -> Iterator[None]:
    """Have torch neither log nor print what it makes of an export: what fails is raised.

    Loggers that TORCH_LOGS names have levels of their own, and keep them.
    """
    log = logging.getLogger("torch")
    before = log.level
    log.setLevel(logging.CRITICAL + 1)
    try:
        with redirect_stderr(io.StringIO()):
            yield
    finally:
        log.setLevel(before)


def _plain(graph: fx.Graph, structure: TreeSpec | None) -> None:
    """Have the graph itself take single inputs and give outputs in their structure.

    torch.export wraps graphs in code that takes such structures apart and builds them.
    """
    output = next(iter(reversed(graph.nodes)))
    if structure is not None:
        output.args = (tree_unflatten(output.args[0], structure),)
    graph.set_codegen(CodeGen())


def _rewrite(graph: fx.Graph, node: fx.Node) -> None:
    if node.op not in ("call_function", "call_module"):
        return
    if not node.users and (node.op == "call_module" or _checks_or_writes(node)):
        graph.erase_node(node)
    elif node.target in _SAME and not _drops(node):
        node.replace_all_uses_with(node.args[0])  # type: ignore[arg-type]
        graph.erase_node(node)
    elif node.target in _VIEWS:
        node.target = aten.reshape.default
    elif node.target in (aten.mm.default, aten.bmm.default):
        node.target = aten.matmul.default
    elif node.target == aten.pad.default:
        _, pads, mode, value = arguments_of(node, (None, None, "constant", None))
        if mode == "constant":
            node.target = aten.constant_pad_nd.default
            node.args, node.kwargs = (node.args[0], pads, value or 0.0), {}
    elif node.target == aten._native_batch_norm_legit_no_training.default:
        _spell_batch_norm(graph, node)
    elif node.target in _CONVOLUTIONS:
        _spell_convolution(graph, node)
    elif node.target in _TRANSPOSED:
        axes = _TRANSPOSED[node.target]
        x, weight, bias, *window = arguments_of(node, (None, None, None, 1, 0, 0, 1, 1))
        stride, padding, extra, groups, dilation = window
        pairs = [each(value, axes) for value in (stride, padding, extra, dilation)]
        node.args = (x, weight, bias, *pairs[:3], groups, pairs[3])


def _drops(node: fx.Node) -> bool:
    """Return whether a dropout is one in evaluation, too."""
    return node.target in _DROPOUTS and bool(arguments_of(node, (None, 0.0, False))[2])


def _checks_or_writes(node: fx.Node) -> bool:
    """Return whether a node asserts something, or writes back what was changed in place."""
    return "_assert" in str(node.target) or node.target == aten.copy_.default


def _spell_batch_norm(graph: fx.Graph, node: fx.Node) -> None:
    """Have batch normalisation return its one result, not what training would need besides."""
    x, weight, bias, mean, variance, momentum, eps = node.args
    node.target = aten.batch_norm.default
    node.args = (x, weight, bias, mean, variance, False, momentum, eps, False)
    node.meta["val"] = node.meta["val"][0]
    for reader in list(node.users):
        reader.replace_all_uses_with(node)
        graph.erase_node(reader)


def _spell_convolution(graph: fx.Graph, node: fx.Node) -> None:
    """Spell out all arguments; padding that a convolution's own cannot express becomes a pad."""
    axes = _CONVOLUTIONS[node.target]  # type: ignore[index]
    x, weight, bias, stride, padding, dilation, groups = arguments_of(
        node, (None, None, None, 1, 0, 1, 1)
    )
    assert isinstance(weight, fx.Node)
    dilations = each(dilation, axes)
    if padding == "same":
        kernel = weight.meta["val"].shape[2:]
        total = [step * (taps - 1) for step, taps in zip(dilations, kernel, strict=True)]
        padding = [each // 2 for each in total]
        if any(each % 2 for each in total):
            # torch puts the odd one behind; its list of pads begins with the last axis.
            sides = [(each // 2, each - each // 2) for each in reversed(total)]
            pads = [side for pair in sides for side in pair]
            with graph.inserting_before(node):
                x = graph.call_function(aten.constant_pad_nd.default, (x, pads, 0.0))
            x.meta["nn_module_stack"] = node.meta.get("nn_module_stack", {})
            padding = 0
    elif padding == "valid":
        padding = 0
    node.target = aten.conv1d.default if axes == 1 else aten.conv2d.default
    node.kwargs = {}
    node.args = (
        x, weight, bias, each(stride, axes), each(padding, axes), dilations, groups,
    )  # fmt: skip


def _find_linear(graph: fx.Graph) -> None:
    """Write a product with a matrix of parameters as ``linear``, with the bias behind it."""
    fixed = constants(graph)
    for node in list(graph.nodes):
        if node in fixed:
            continue
        if node.target == aten.matmul.default:
            left, right = node.args
            if right in fixed and right.meta["val"].ndim == 2 and left not in fixed:
                node.target = aten.linear.default
                node.args = (left, _turned(graph, node, right, fixed), None)
        elif node.target == aten.linear.default:
            x, weight, bias = arguments_of(node, (None, None, None))
            node.args, node.kwargs = (x, weight, bias), {}
        elif node.target == aten.add.Tensor and not node.kwargs:
            for product, added in (node.args, node.args[::-1]):
                if _is_bias(product, added, fixed):
                    product.args = (*product.args[:2], added)
                    _move_before(product, added)
                    node.replace_all_uses_with(product)
                    graph.erase_node(node)
                    break


def _is_bias(product: Any, added: Any, fixed: set[fx.Node]) -> bool:
    return (
        isinstance(product, fx.Node)
        and product.target == aten.linear.default
        and product not in fixed
        and product.args[2] is None
        and len(product.users) == 1
        and isinstance(added, fx.Node)
        and added in fixed
        and added.meta["val"].shape == product.args[1].meta["val"].shape[:1]  # type: ignore[union-attr]
    )


def _move_before(product: fx.Node, added: fx.Node) -> None:
    """Put what computes a constant before the product that reads it."""
    for source in added.all_input_nodes:
        _move_before(product, source)
    if product < added:
        product.prepend(added)


def _turned(graph: fx.Graph, node: fx.Node, matrix: fx.Node, fixed: set[fx.Node]) -> fx.Node:
    """Return the transposed matrix; of one that is a transposed one itself, what that was."""
    before, *order = matrix.args if matrix.target in _TURNS else (None,)
    # The axes that change places, or all in their new order: both axes, either way.
    if isinstance(before, fx.Node) and order in ([], [0, 1], [1, 0], [-2, -1], [-1, -2], [[1, 0]]):
        return before
    with graph.inserting_before(node):
        turned = graph.call_function(aten.transpose.int, (matrix, 0, 1))
    turned.meta["val"] = matrix.meta["val"].t()
    fixed.add(turned)
    return turned


def arguments_of(node: fx.Node, defaults: tuple[Any, ...]) -> tuple[Any, ...]:
    """Return all positional arguments of a node, given the defaults of those left out."""
    names = [argument.name for argument in node.target._schema.arguments]  # type: ignore[union-attr]
    given = dict(zip(names, node.args, strict=False)) | node.kwargs
    return tuple(given.get(name, default) for name, default in zip(names, defaults, strict=False))


def each(value: Any, axes: int) -> list[int]:
    """Return a value per axis of one for all, or of as many as there are."""
    values = list(value) if isinstance(value, list | tuple) else [value]
    return values * axes if len(values) == 1 else values


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
    product = Letters.einsum(equation)
    if len(operands) != 2 or product is None or not product.contracted:
        return NotImplemented  # type: ignore[no-any-return]
    left, right, out = product.left, product.right, product.out
    batch, rows, columns = [*product.batch], [*product.rows], [*product.columns]
    contracted = [x for x in left if x in product.contracted]
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
    result = torch.matmul(
        grouped(operands[0], left, apart, merged, contracted),
        grouped(operands[1], right, batch, contracted, columns),
    )
    letters = [*batch, *rows, *columns]
    if [*result.shape] != [extents[x] for x in letters]:
        result = result.reshape([extents[x] for x in letters])
    order = [letters.index(x) for x in out]
    return result if order == sorted(order) else result.permute(order)


def _extent(extents: dict[str, int], letters: list[str]) -> int:
    total = 1
    for letter in letters:
        total = total * extents[letter]
    return total


# Operator -> what writes it as products; what the rules do not cover they leave as it is. Traced by
# torch, so that all extents may be symbolic.
_PRODUCTS: dict[Any, Callable[..., Tensor]] = {
    aten.scaled_dot_product_attention.default: attention,
    aten.einsum.default: einsum,
    aten.addmm.default: addmm,
    aten.baddbmm.default: addmm,
}
