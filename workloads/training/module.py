"""A network as a torch module."""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from workloads.checkpoint import LayerWeights
from workloads.layer import ConvLayer, WorkloadError
from workloads.network import Network
from workloads.node import Node


class NetworkModule(nn.Module):
    """Runs a `Network`'s nodes in order, on any batch; maps are (N, C, H, W) as torch has them.

    With ``batch_norm`` every convolution but the last has no bias and is followed by batch
    normalisation, as for training; without, every one has a bias, as after folding.
    """

    def __init__(self, network: Network, *, batch_norm: bool) -> None:
        super().__init__()
        self.network = network
        last = network.layers[-1]
        # Lists, by position: a ModuleDict would not take the dots in the layers' names.
        self.convs = nn.ModuleList()
        self.norms = nn.ModuleList()
        self._positions = {layer.name: index for index, layer in enumerate(network.layers)}
        for layer in network.layers:
            normed = batch_norm and layer is not last
            self.convs.append(_conv(layer, bias=not normed))
            self.norms.append(nn.BatchNorm2d(layer.G * layer.K) if normed else nn.Identity())

    def forward(self, images: Tensor) -> Tensor:
        """Return the last node's output for images (n, C, H, W)."""
        outputs: dict[str, Tensor] = {}
        for node in self.network.nodes:
            sources = [outputs[source] for source in node.inputs]
            outputs[node.name] = self._run(node, sources or [images])
        return outputs[self.network.nodes[-1].name]

    def _run(self, node: Node, sources: list[Tensor]) -> Tensor:
        x = sources[0]
        match node.op:
            case "input":
                return x
            case "conv" | "linear":
                index = self._positions[node.name]
                return cast(Tensor, self.norms[index](self.convs[index](_pad(x, node))))
            case "relu":
                return F.relu(x)
            case "add":
                return sum(sources[1:], x)
            case "concat":
                return torch.cat(sources, 1)
            case "avgpool":
                return x.mean((2, 3), keepdim=True)
            case "maxpool":
                pool = node.pool
                assert pool is not None
                return F.max_pool2d(x, pool.kernel, pool.stride, pool.padding, ceil_mode=pool.ceil)
            case _:
                raise WorkloadError(f"node {node.name!r}: op {node.op!r} is not run in torch")


def folded_module(network: Network, weights: Mapping[str, LayerWeights]) -> NetworkModule:
    """Return the network with these weights and biases, ready for evaluation."""
    module = NetworkModule(network, batch_norm=False)
    for layer, conv in zip(network.layers, module.convs, strict=True):
        assert isinstance(conv, nn.Conv2d)
        assert conv.bias is not None
        with torch.no_grad():
            conv.weight.copy_(torch.from_numpy(weights[layer.name].weight))
            conv.bias.copy_(torch.from_numpy(weights[layer.name].bias))
    return module.eval()


def _conv(layer: ConvLayer, *, bias: bool) -> nn.Conv2d:
    conv = nn.Conv2d(
        layer.G * layer.C,
        layer.G * layer.K,
        (layer.R, layer.S),
        stride=layer.strides,
        dilation=layer.dilations,
        padding=_symmetric_padding(layer) or 0,
        groups=layer.G,
        bias=bias,
    )
    nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
    return conv


def _symmetric_padding(layer: ConvLayer) -> tuple[int, int] | None:
    top, bottom, left, right = layer.paddings
    return (top, left) if (top, left) == (bottom, right) else None


def _pad(x: Tensor, node: Node) -> Tensor:
    """Pad by what torch's convolution cannot: different amounts on opposite sides."""
    assert node.layer is not None
    if _symmetric_padding(node.layer) is not None:
        return x
    top, bottom, left, right = node.layer.paddings
    return F.pad(x, (left, right, top, bottom))
