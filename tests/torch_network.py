"""A network as a torch module: what the library computes, computed by torch instead."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from bfpsim.workloads import ConvLayer, LayerWeights, Network, Node


class NetworkModule(nn.Module):
    """Runs a network's nodes in order, on any batch; maps are (N, C, H, W) as torch has them."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network
        # A list, by position: a ModuleDict would not take the dots in the layers' names.
        self.convs = nn.ModuleList(_conv(layer) for layer in network.layers)
        self._positions = {layer.name: index for index, layer in enumerate(network.layers)}

    def forward(self, images: Tensor) -> Tensor:
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
                top, bottom, left, right = node.layer.paddings
                return self.convs[self._positions[node.name]](F.pad(x, (left, right, top, bottom)))
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
                return F.max_pool2d(x, pool.kernel, pool.stride, pool.padding, ceil_mode=pool.ceil)
            case _:
                raise ValueError(f"node {node.name!r}: op {node.op!r} is not run in torch")


def weighted_module(network: Network, weights: Mapping[str, LayerWeights]) -> NetworkModule:
    """Return the network with these weights and biases, ready for evaluation."""
    module = NetworkModule(network)
    for layer, conv in zip(network.layers, module.convs, strict=True):
        with torch.no_grad():
            conv.weight.copy_(torch.from_numpy(weights[layer.name].weight))
            conv.bias.copy_(torch.from_numpy(weights[layer.name].bias))
    return module.eval()


def _conv(layer: ConvLayer) -> nn.Conv2d:
    return nn.Conv2d(
        layer.G * layer.C,
        layer.G * layer.K,
        (layer.R, layer.S),
        stride=layer.strides,
        dilation=layer.dilations,
        groups=layer.G,
    )
