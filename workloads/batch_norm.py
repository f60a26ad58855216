"""Batch normalisation as what it is after training, and folded into a module's layers."""

from __future__ import annotations

import copy
from collections import Counter

import torch
from torch import Tensor, fx, nn

_Layer = nn.Conv1d | nn.Conv2d | nn.Conv3d | nn.Linear
_Norm = nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d


def scale_and_shift(
    gamma: Tensor | None,
    beta: Tensor | None,
    mean: Tensor,
    variance: Tensor,
    epsilon: float,
    bias: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """Return what a layer's filters are multiplied by, and its bias, to fold the normalisation.

    With scale = gamma / sqrt(variance + epsilon), the bias is (bias - mean) * scale + beta; no
    gamma is 1, no beta and no bias are 0. All are per channel, in the arguments' own precision.
    """
    scale = 1 / (variance + epsilon).sqrt()
    scale = scale if gamma is None else scale * gamma
    shift = (-mean if bias is None else bias - mean) * scale
    return scale, shift if beta is None else shift + beta


def fold_batch_norm(module: nn.Module) -> nn.Module:
    """Return a copy, ready for evaluation, that computes the same with fewer normalisations.

    A normalisation that alone reads what a convolution or linear layer gives is folded into it,
    and leaves an ``nn.Identity``; any other stays. With scale = gamma / sqrt(variance + epsilon),
    a filter is multiplied by its channel's scale, and the bias becomes (bias - mean) * scale +
    beta; computed in float64, rounded once.

    What reads what is found by `torch.fx`, without running the module: it raises
    `torch.fx.proxy.TraceError` where control flow depends on data. A linear layer before a
    ``BatchNorm1d`` is taken to give (N, features).
    """
    folded = copy.deepcopy(module).eval()
    for layer, norm in _pairs(folded):
        _fold(layer, norm)
        for name, part in list(folded.named_modules(remove_duplicate=False)):
            if part is norm:
                folded.set_submodule(name, nn.Identity())
    return folded.eval()


def _pairs(module: nn.Module) -> list[tuple[_Layer, _Norm]]:
    """Return each normalisation that can be folded, behind the layer whose output it reads."""
    parts = dict(module.named_modules())
    if not any(isinstance(part, _Norm) for part in parts.values()):
        return []
    nodes = list(fx.Tracer().trace(module).nodes)
    uses = Counter(node.target for node in nodes if node.op == "call_module")
    # Layers whose parameters the module also reads itself, where they must stay what they are.
    uses.update(str(node.target).rpartition(".")[0] for node in nodes if node.op == "get_attr")
    pairs = []
    for node in nodes:
        norm = parts.get(str(node.target)) if node.op == "call_module" else None
        # Without running statistics each batch has a scale of its own.
        if not isinstance(norm, _Norm) or norm.running_mean is None:
            continue
        source = node.all_input_nodes[0]
        layer = parts.get(str(source.target)) if source.op == "call_module" else None
        if not isinstance(layer, _Layer) or len(layer.weight) != norm.num_features:
            continue
        if len(source.users) == uses[source.target] == uses[node.target] == 1:
            pairs.append((layer, norm))
    return pairs


def _fold(layer: _Layer, norm: _Norm) -> None:
    assert norm.running_mean is not None
    assert norm.running_var is not None
    with torch.no_grad():
        scale, bias = scale_and_shift(
            norm.weight.double() if norm.affine else None,
            norm.bias.double() if norm.affine else None,
            norm.running_mean.double(),
            norm.running_var.double(),
            norm.eps,
            None if layer.bias is None else layer.bias.double(),
        )
        per_filter = scale.reshape(-1, *[1] * (layer.weight.ndim - 1))
        weight = layer.weight.double() * per_filter
        dtype = layer.weight.dtype
        layer.weight = nn.Parameter(weight.to(dtype))
        layer.bias = nn.Parameter(bias.to(dtype))
