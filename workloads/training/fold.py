"""Folding batch normalisation into the convolutions and linear layers before it."""

from __future__ import annotations

import copy
from collections import Counter

import torch
from torch import Tensor, fx, nn

from bfpsim.workloads.batch_norm import scale_and_shift

_Layer = nn.Conv1d | nn.Conv2d | nn.Conv3d | nn.Linear
_Norm = nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d


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


def max_difference(one: nn.Module, other: nn.Module, images: Tensor) -> float:
    """Return the largest absolute difference of two modules' outputs on the images."""
    with torch.no_grad():
        return float((one(images) - other(images)).abs().max())


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
