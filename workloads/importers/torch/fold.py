"""Folding batch normalisation into the layer before it, in an fx graph."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor, fx, nn

from bfpsim.workloads.batch_norm import scale_and_shift
from bfpsim.workloads.importers.torch.export import aten

# Layer -> the axis of its weight that holds output channels; of a transposed one, per group.
_LAYERS: dict[Any, int] = {
    aten.conv1d.default: 0,
    aten.conv2d.default: 0,
    aten.conv_transpose1d.default: 1,
    aten.conv_transpose2d.input: 1,
    aten.linear.default: 0,
}


@dataclass(frozen=True)
class _Pair:
    """A layer whose output a batch normalisation alone reads."""

    layer: fx.Node
    norm: fx.Node

    @property
    def parameters(self) -> tuple[object, ...]:
        """What both read besides the layer's input; equal where the same two modules run again."""
        layer = self.layer.args[1:]
        return (*map(str, layer), *map(str, self.norm.args[1:]))


def fold_batch_norm(module: fx.GraphModule) -> None:
    """Fold every batch normalisation that alone reads a layer's output into the layer, in place.

    With scale = gamma / sqrt(variance + epsilon), a filter is multiplied by its channel's scale,
    and the bias becomes (bias - mean) * scale + beta; in float64, rounded once. Weight and bias
    stay parameters of the layer's names, or become one (``conv.bias``). A layer that runs several
    times is folded if the same normalisation follows each time; one whose weight is computed, or
    read by others too, is not.
    """
    pairs: dict[fx.Node, list[_Pair]] = {}
    for node in module.graph.nodes:
        pair = _pair(node)
        if pair is not None:
            weight = pair.layer.args[1]
            assert isinstance(weight, fx.Node)
            pairs.setdefault(weight, []).append(pair)
    for weight, together in pairs.items():
        alike = len({pair.parameters for pair in together}) == 1
        bias = together[0].layer.args[2]
        read = set(weight.users) | (set(bias.users) if isinstance(bias, fx.Node) else set())
        taken = bias is None and hasattr(*_place(module, _bias_name(together[0].layer, weight)))
        if alike and not taken and read == {pair.layer for pair in together}:
            _fold(module, weight, together)
    module.graph.eliminate_dead_code()


def _pair(norm: fx.Node) -> _Pair | None:
    if norm.target != aten.batch_norm.default or norm.args[5]:
        return None
    layer, *statistics = norm.args[:5]
    if not isinstance(layer, fx.Node) or layer.target not in _LAYERS or len(layer.users) > 1:
        return None
    # Statistics on axis 1 are the features' only of a linear layer that gives (N, features).
    if layer.target == aten.linear.default and layer.meta["val"].ndim != 2:
        return None
    read = [*layer.args[1:3], *statistics]
    if any(each is not None and getattr(each, "op", "") != "get_attr" for each in read):
        return None
    return None if statistics[2] is None else _Pair(layer, norm)


def _fold(module: fx.GraphModule, weight: fx.Node, pairs: list[_Pair]) -> None:
    layer = pairs[0].layer
    given: tuple[Any, ...] = layer.args
    normalised: tuple[Any, ...] = pairs[0].norm.args
    gamma, beta, mean, variance, *_, eps, _ = (
        _values(module, x) if isinstance(x, fx.Node) else x for x in normalised[1:]
    )
    own = _values(module, weight)
    bias = None if given[2] is None else _values(module, given[2])
    scale, shift = scale_and_shift(gamma, beta, mean, variance, float(eps), bias)
    if _LAYERS[layer.target] == 1:
        # (channels in, K per group, ...): each group's inputs have the group's scales.
        grouped = own.reshape(given[6], -1, *own.shape[1:])
        per_filter = scale.reshape(given[6], 1, -1, *[1] * (own.ndim - 2))
        folded = (grouped * per_filter).reshape(own.shape)
    else:
        folded = own * scale.reshape(-1, *[1] * (own.ndim - 1))
    name = _bias_name(layer, weight)
    old = _tensor(module, str(weight.target))
    for target, values in ((str(weight.target), folded), (name, shift)):
        part, own_name = _place(module, target)
        if hasattr(part, own_name):
            delattr(part, own_name)
        new = nn.Parameter(values.to(old.dtype), requires_grad=old.requires_grad)
        part.register_parameter(own_name, new)
    for pair in pairs:
        if pair.layer.args[2] is None:
            with module.graph.inserting_before(pair.layer):
                read = module.graph.get_attr(name)
            pair.layer.args = (*pair.layer.args[:2], read, *pair.layer.args[3:])
        pair.norm.replace_all_uses_with(pair.layer)


def _values(module: fx.GraphModule, node: fx.Node) -> Tensor:
    return _tensor(module, str(node.target)).detach().double()


def _bias_name(layer: fx.Node, weight: fx.Node) -> str:
    bias = layer.args[2]
    if isinstance(bias, fx.Node):
        return str(bias.target)
    stem = str(weight.target)
    return f"{stem.removesuffix('weight')}bias" if stem.endswith("weight") else f"{stem}_bias"


def _tensor(module: fx.GraphModule, name: str) -> Tensor:
    found = getattr(*_place(module, name))
    assert isinstance(found, Tensor)
    return found


def _place(module: fx.GraphModule, name: str) -> tuple[nn.Module, str]:
    owner, _, own = name.rpartition(".")
    return module.get_submodule(owner), own
