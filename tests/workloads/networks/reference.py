"""Blocks of the larger networks written directly in torch, and the layers that torch runs of them.

Everything runs on the meta device: shapes only. Host operations that change no shape are left out.
"""

from __future__ import annotations

import re
from collections import Counter
from itertools import pairwise
from math import prod

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from bfpsim.workloads import Network

Key = tuple[object, ...]


class Product(nn.Module):
    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return a @ b


def layers_in_torch(module: nn.Module, *inputs: object) -> Counter[Key]:
    """Run the module; count its convolutions, linear layers and products by what they compute."""
    found: Counter[Key] = Counter()

    def hook(layer: nn.Module, arguments: tuple[Tensor, ...], output: Tensor) -> None:
        match layer:
            case nn.ConvTranspose2d():
                assert layer.kernel_size == layer.stride
                filters = layer.out_channels * prod(layer.kernel_size)
                n, c, h, w = arguments[0].shape
                found["transposed", c, filters, (n, h, w)] += 1
            case nn.Conv2d():
                filters, channels, rows, columns = layer.weight.shape
                positions = (output.shape[0], *output.shape[2:])
                sizes = (layer.groups, channels, filters // layer.groups, rows, columns)
                found["conv", *sizes, layer.stride, positions] += 1
            case nn.Linear():
                positions = output.numel() // layer.out_features
                found["linear", layer.in_features, layer.out_features, positions] += 1
            case Product():
                *outer, rows, channels = arguments[0].shape
                found["matmul", prod(outer), channels, output.shape[-1], rows] += 1

    hooks = [part.register_forward_hook(hook) for part in module.modules()]
    module(*inputs)
    for handle in hooks:
        handle.remove()
    return found


def layers_of(network: Network, *prefixes: str) -> Counter[Key]:
    """Count the layers of nodes with one of these prefixes likewise."""
    found: Counter[Key] = Counter()
    for node in network.nodes:
        if node.layer is None or not node.name.startswith(prefixes or ""):
            continue
        x = node.layer
        match node.op:
            case "conv":
                sizes = (x.G, x.C, x.K, x.R, x.S)
                found["conv", *sizes, x.strides, (x.N, x.P, x.Q)] += 1
            case "linear":
                found["linear", x.C, x.K, x.N * x.P * x.Q] += 1
            case "transposed":
                found["transposed", x.C, x.K, (x.N, x.P, x.Q)] += 1
            case "matmul":
                found["matmul", node.repeats * x.G, x.C, x.K, x.P * x.Q] += 1
    return found


def unread(network: Network) -> list[str]:
    """Names of nodes that no other reads: computed in vain, but for the last."""
    read = {source for node in network.nodes for source in node.inputs}
    return [node.name for node in network.nodes if node.name not in read]


def macs_of(network: Network, op: str, *prefixes: str) -> int:
    """Multiply-accumulates of the nodes of one kind with one of these prefixes."""
    return sum(
        node.repeats * node.layer.macs
        for node in network.nodes
        if node.op == op and node.layer is not None and node.name.startswith(prefixes or "")
    )


def weights_of(network: Network, shared: dict[str, str]) -> int:
    """Elements of all weights; of layers whose name ``shared`` maps to one name, counted once.

    shared: regular expression -> the name that stands for all that it matches
    """
    sizes: dict[str, int] = {}
    for node in network.nodes:
        if node.layer is not None and node.op != "matmul":
            name = node.name
            for pattern, one in shared.items():
                name = re.sub(pattern, one, name)
            size = prod(node.layer.weight_shape)
            assert sizes.setdefault(name, size) == size
    return sum(sizes.values())


def map_of(channels: int, rows: int, columns: int, n: int = 1) -> Tensor:
    return torch.empty(n, channels, rows, columns, device="meta")


class Attention(nn.Module):
    """Scaled dot products of (N, tokens, width), with four projections."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q, self.k, self.v, self.o = (nn.Linear(width, width) for _ in range(4))
        self.scores, self.mix = Product(), Product()

    def forward(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        q, k, v = (
            part(x).unflatten(2, (self.heads, -1)).transpose(1, 2)
            for part, x in ((self.q, query), (self.k, key), (self.v, value))
        )
        weights = self.scores(q, k.transpose(2, 3)).softmax(3)
        return self.o(self.mix(weights, v).transpose(1, 2).flatten(2))


class Deformable(nn.Module):
    """Multi-scale deformable attention; where it samples makes no difference to shapes."""

    def __init__(self, width: int, heads: int, levels: int, points: int, inner: int) -> None:
        super().__init__()
        self.value = nn.Linear(width, inner)
        self.offsets = nn.Linear(width, heads * levels * points * 2)
        self.weights = nn.Linear(width, heads * levels * points)
        self.out = nn.Linear(inner, width)

    def forward(self, query: Tensor, memory: Tensor) -> Tensor:
        value = self.value(memory)
        self.offsets(query)
        self.weights(query)
        return self.out(value[:, :1].expand(-1, query.shape[1], -1))


class Perceptron(nn.Sequential):
    def __init__(self, *widths: int) -> None:
        super().__init__(*(nn.Linear(a, b) for a, b in pairwise(widths)))


class PixelDecoder(nn.Module):
    def __init__(
        self,
        channels: tuple[int, ...],
        first: int,
        extra: int,
        width: int,
        hidden: int,
        heads: int,
    ) -> None:
        super().__init__()
        self.first = first
        self.project = nn.ModuleList(nn.Conv2d(c, width, 1) for c in channels[first:])
        inputs = [channels[-1]] + [width] * extra
        self.extra = nn.ModuleList(nn.Conv2d(c, width, 3, 2, 1) for c in inputs[:extra])
        levels = len(channels) - first + extra
        self.attend = nn.ModuleList(Deformable(width, heads, levels, 4, width) for _ in range(6))
        self.mlp = nn.ModuleList(Perceptron(width, hidden, width) for _ in range(6))
        self.lateral = nn.Conv2d(channels[0], width, 1)
        self.output = nn.Conv2d(width, width, 3, 1, 1)
        self.masks = nn.Conv2d(width, width, 1)

    def forward(self, maps: list[Tensor]) -> tuple[Tensor, Tensor, list[Tensor]]:
        """Mask features, memory, and the memory level by level, fine to coarse."""
        levels = [p(x) for p, x in zip(self.project, maps[self.first :], strict=True)]
        x = maps[-1]
        for part in self.extra:
            x = part(x)
            levels.append(x)
        memory = torch.cat([x.flatten(2).transpose(1, 2) for x in levels], 1)
        for attend, mlp in zip(self.attend, self.mlp, strict=True):
            memory = memory + attend(memory, memory)
            memory = memory + mlp(memory)
        split = list(memory.split([x[0, 0].numel() for x in levels], 1))
        finest = split[0].transpose(1, 2).unflatten(2, levels[0].shape[2:])
        y = self.lateral(maps[0])
        y = self.output(y + F.interpolate(finest, y.shape[2:]))
        return self.masks(y), memory, split
