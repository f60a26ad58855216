"""What a torch module runs, layer by layer; and a network's nodes computed by torch.

A layer is (MACs, weight shape (filters, channels in, rows, columns), input map, output map), maps
as (N, rows, columns, channels).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from bfpsim.workloads import Network, Node

Layer = tuple[int, tuple[int, ...], tuple[int, ...], tuple[int, ...]]


class Product(nn.Module):
    """The product of two activations (N, heads, rows, inner) and (N, heads, inner, columns)."""

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        return left @ right


def layers_of_module(module: nn.Module, images: Tensor) -> dict[str, Layer]:
    """Run the module once, on one image, and return its layers by name."""
    found: dict[str, Layer] = {}

    def record(name):
        def hook(layer, inputs, output):
            assert name not in found
            found[name] = _layer(layer, inputs, output)

        return hook

    kinds = (nn.Conv2d, nn.Conv1d, nn.Linear, nn.ConvTranspose2d, Product)
    hooks = [
        layer.register_forward_hook(record(name))
        for name, layer in module.named_modules()
        if isinstance(layer, kinds)
    ]
    module(images)
    for hook in hooks:
        hook.remove()
    return found


def _layer(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Layer:
    x = inputs[0]
    match layer:
        case Product():
            _, heads, rows, inner = x.shape
            columns = output.shape[3]
            macs = heads * rows * inner * columns
            weight = (heads * columns, inner, 1, 1)
            return macs, weight, (1, rows, 1, heads * inner), (1, rows, 1, heads * columns)
        case nn.ConvTranspose2d():
            # Windows that do not overlap: each pixel alone makes kernel x kernel outputs.
            assert layer.kernel_size == layer.stride
            assert layer.padding == (0, 0)
            taps, out = math.prod(layer.kernel_size), layer.out_channels
            _, channels, rows, columns = x.shape
            weight = (taps * out, channels, 1, 1)
            macs = rows * columns * math.prod(weight)
            return macs, weight, (1, rows, columns, channels), (1, rows, columns, taps * out)
        case nn.Linear():
            shapes = [_linear_map(t) for t in (x, output)]
        case _:
            shapes = [_map(t) for t in (x, output)]
    weight = (*layer.weight.shape, 1, 1)[:4]
    if isinstance(layer, nn.Conv1d):
        weight = (weight[0], weight[1], 1, weight[2])
    return output[0].numel() * layer.weight[0].numel(), weight, shapes[0], shapes[1]


def _map(t: Tensor) -> tuple[int, ...]:
    n, channels, *extents = t.shape
    return (n, *[1] * (2 - len(extents)), *extents, channels)


def _linear_map(t: Tensor) -> tuple[int, ...]:
    n, *extents, channels = t.shape
    return (n, *extents, *[1] * (2 - len(extents)), channels)


def layers_of_network(network: Network) -> dict[str, Layer]:
    """Every layer; of products, those of all heads side by side."""
    found = {}
    for layer in network.layers:
        runs = network.repeats[layer.name]
        (K, *depth), (*cells, C) = layer.weight_shape, layer.input_shape
        found[layer.name] = (
            runs * layer.macs,
            (runs * K, *depth),
            (*cells, runs * C),
            (*layer.output_shape[:3], runs * layer.output_shape[3]),
        )
    return found


def weights(network: Network) -> int:
    """Return how many weights the layers have, activations in a weight's place left out."""
    return sum(
        math.prod(node.layer.weight_shape)
        for node in network.nodes
        if node.layer is not None and node.op != "matmul"
    )


def macs(network: Network, *ops: str) -> int:
    return sum(node.repeats * node.layer.macs for node in network.nodes if node.op in ops)


def count(network: Network, *kinds: str) -> int:
    return sum(node.kind in kinds for node in network.nodes)


def values(network: Network, module: nn.Module, images: Tensor) -> dict[str, Tensor]:
    """Compute every node, as (N, rows, columns, channels), with the module's tensors by name.

    A layer takes the tensors of the submodule of its name, a host's learned factor or addend the
    parameter of its name. What only gathers or decodes predictions is left out.
    """
    found: dict[str, Tensor] = {}
    taken: dict[str, int] = {}
    for node in network.nodes:
        inputs = [found[name] for name in node.inputs if name in found]
        if node.op == "input":
            found[node.name] = images.permute(0, 2, 3, 1)
        elif node.function == "split":
            source = node.inputs[0]
            axis, extent = _split_axis(inputs[0], network.shape(node.name))
            start = taken.get(source, 0)
            taken[source] = start + extent
            found[node.name] = inputs[0].narrow(axis, start, extent)
        elif node.function not in ("decode_boxes", "gather"):
            batch = (len(images), *network.shape(node.name)[1:])
            found[node.name] = _value(network, node, module, inputs, batch)
            assert found[node.name].shape == batch or node.op == "transposed", node.name
    return found


def _split_axis(x: Tensor, shape: tuple[int, ...]) -> tuple[int, int]:
    axes = [axis for axis in (1, 2, 3) if x.shape[axis] != shape[axis]]
    assert len(axes) == 1
    return axes[0], shape[axes[0]]


def _value(
    network: Network,
    node: Node,
    module: nn.Module,
    inputs: list[Tensor],
    shape: tuple[int, ...],
) -> Tensor:
    x = inputs[0] if inputs else torch.empty(0)
    match node.op:
        case "conv" | "conv1d" | "linear":
            return _convolved(node, module.get_submodule(node.name), x)
        case "transposed":
            return x  # computed where its phases are interleaved
        case "matmul":
            return _product(node, x, inputs[1])
        case "relu":
            return F.relu(x)
        case "add":
            return sum(inputs[1:], x)
        case "concat":
            return torch.cat(inputs, 3)
        case "avgpool":
            return x.mean((1, 2), keepdim=True)
        case "maxpool":
            pool = node.pool
            pooled = F.max_pool2d(x.permute(0, 3, 1, 2), pool.kernel, pool.stride, pool.padding)
            return pooled.permute(0, 2, 3, 1)
    match node.function:
        case "relu6":
            return F.relu6(x)
        case "silu":
            return F.silu(x)
        case "gelu":
            return F.gelu(x)
        case "sigmoid":
            return torch.sigmoid(x)
        case "layer_norm":
            return F.layer_norm(x, x.shape[3:], eps=1e-6)
        case "reshape" | "tokens":
            return x.reshape(shape)
        case "permute":  # predictions of 4 sides: (N, rows, 1, 4 * bins) -> (N, 4, rows, bins)
            return x.unflatten(3, (4, -1))[:, :, 0].permute(0, 2, 1, 3)
        case "concat_tokens":
            return torch.cat([t.flatten(1, 2).unsqueeze(2) for t in inputs], 1)
        case "upsample":
            return x.repeat_interleave(2, 1).repeat_interleave(2, 2)
        case "mul":
            return x * (inputs[1] if len(inputs) > 1 else module.get_parameter(node.name))
        case "parameter":
            return module.get_parameter(node.name).reshape(1, *shape[1:]).expand(shape)
        case "add_parameter":
            return x + module.get_parameter(node.name).reshape(1, *shape[1:])
        case "scale":  # of an attention's scores, by its heads' channels
            return x / math.sqrt(_producer(network, node).layer.C)
        case "softmax":
            layer = _producer(network, node).layer
            columns = x.shape[3] if layer is None else layer.K
            return x.unflatten(3, (-1, columns)).softmax(4).flatten(3)
        case "interleave":
            up = module.get_submodule(node.name.removesuffix(".interleave"))
            return up(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
    raise AssertionError(node.function)


def _producer(network: Network, node: Node) -> Node:
    """Return the product of activations behind a node's first input, or else that input."""
    source = network.producers[node.name][0]
    while source.function == "scale":
        source = network.producers[source.name][0]
    return source


def _convolved(node: Node, own: nn.Module, x: Tensor) -> Tensor:
    layer = node.layer
    top, bottom, left, right = layer.paddings
    padded = F.pad(x.permute(0, 3, 1, 2), (left, right, top, bottom))
    weight = own.weight.reshape(layer.weight_shape)
    out = F.conv2d(padded, weight, own.bias, layer.strides, 0, layer.dilations, layer.G)
    return out.permute(0, 2, 3, 1)


def _product(node: Node, left: Tensor, right: Tensor) -> Tensor:
    """Multiply tokens head by head: the right's channels are contracted (keys), or its tokens."""
    layer = node.layer
    heads = left.shape[-1] // layer.C
    a = left.flatten(1, 2).unflatten(2, (heads, -1)).transpose(1, 2)
    b = right.flatten(1, 2).unflatten(2, (heads, -1)).transpose(1, 2)
    assert b.shape[2] != b.shape[3], "which one is contracted cannot be told"
    if b.shape[3] == layer.C:
        b = b.transpose(2, 3)
    return (a @ b).transpose(1, 2).flatten(2).unflatten(1, left.shape[1:3])
