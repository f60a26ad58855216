"""What the host does between layers: bias, activations, pooling, sums; and float inference.

Of `host` nodes it runs the functions named in `FUNCTIONS`; `check_runnable` says on what shapes.
"""

import math
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from bfpsim.mapping.window import Window
from bfpsim.workloads import (
    ConvLayer,
    LayerWeights,
    Network,
    NetworkSource,
    Node,
    Pool,
    Shape,
    WorkloadError,
    load_workload,
)

Values = NDArray[np.float64]

_OPS = (
    "input", "conv", "conv1d", "linear", "matmul", "relu", "add", "concat", "avgpool", "maxpool",
)  # fmt: skip

FUNCTIONS = (
    "relu6", "sigmoid", "gelu", "mul", "reshape", "tokens", "split", "scale", "softmax",
    "layer_norm", "add_parameter",
)  # fmt: skip
"""What a host node may do in a run with data."""

_LEARNED = ("layer_norm", "add_parameter")

# Of torch's layer normalisation, unless told otherwise.
_EPSILON = 1e-5

_erf = np.vectorize(math.erf, otypes=[np.float64])


def check_runnable(network: Network, weights: Mapping[str, LayerWeights]) -> None:
    """Raise WorkloadError, naming nodes, if the network cannot be run with data.

    Transposed convolutions and most of the host's functions are counted and timed, but have no
    arithmetic here; and each layer, layer_norm and add_parameter needs its weights.
    """
    others = [node for node in network.nodes if not _runs(network, node)]
    if others:
        kinds = sorted({node.function or node.op for node in others})
        raise WorkloadError(
            f"network {network.name!r}: {len(others)} of {len(network.nodes)} nodes cannot be run "
            f"with data ({', '.join(kinds)}; first: {others[0].name!r}); allowed: "
            f"{', '.join(_OPS)}, and on shapes that tell what is meant {', '.join(FUNCTIONS)}"
        )
    for node in network.nodes:
        weighted = node.layer is not None and node.op != "matmul"
        if (weighted or node.function in _LEARNED) and node.name not in weights:
            raise WorkloadError(
                f"network {network.name!r}: {node.function or node.op} {node.name!r} has no "
                "weights; allowed: weights for each layer, layer_norm and add_parameter"
            )


def _runs(network: Network, node: Node) -> bool:
    """Whether the node's operation is known, and its shapes leave no doubt how to do it."""
    if node.op != "host":
        return node.op in _OPS and (node.op != "matmul" or _plain_product(network, node))
    sources, out = [network.shape(name) for name in node.inputs], network.shape(node.name)
    match node.function:
        case "relu6" | "sigmoid" | "gelu" | "layer_norm" | "add_parameter":
            return sources == [out]
        case "mul":  # by a factor per channel
            return sources == [out, (out[0], 1, 1, out[3])]
        case "reshape":  # of what lies in one line, whose order is beyond doubt
            return len(sources) == 1 and _line(sources[0]) == _line(out) is not None
        case "tokens":  # a map's pixels, row by row
            return [(N, H * W, 1, C) for N, H, W, C in sources] == [out]
        case "split":  # the channels, into as many parts as there are, in their order
            whole = [(*out[:3], sum(network.shape(part)[3] for part in _parts(network, node)))]
            return sources == whole
        case "scale":
            return sources == [out] and network.producers[node.name][0].op == "matmul"
        case "softmax":
            return sources == [out] and network.producers[node.name][0].function == "scale"
    return False


def _line(shape: Shape) -> tuple[int, int] | None:
    """Samples and their extent, if each lies along one axis."""
    samples, *extents = shape
    return (samples, max(extents)) if max(extents) == math.prod(extents) else None


def _plain_product(network: Network, node: Node) -> bool:
    """Whether both operands are tokens, and which of the right one's extents is summed over."""
    layer = node.layer
    assert layer is not None
    left, (_, rows, cols, channels) = (network.shape(name) for name in node.inputs)
    heads = left[3] // layer.C
    right = [(heads * layer.C, layer.K), (heads * layer.K, layer.C)]
    return (
        left[1:] == (layer.P, layer.Q, heads * layer.C)
        and layer.K != layer.C
        and (channels, rows * cols) in right
    )


def _parts(network: Network, node: Node) -> list[str]:
    """The nodes that split what this one splits."""
    same = (other for other in network.nodes if other.inputs == node.inputs)
    return [other.name for other in same if other.function == "split"]


def apply(
    network: Network, node: Node, inputs: list[Values], own: LayerWeights | None = None
) -> Values:
    """The output of a node that is no layer, from (N, H, W, channels) inputs.

    own: the weights of a layer_norm or an add_parameter
    """
    x = inputs[0]
    match node.op:
        case "relu":
            return np.maximum(x, 0.0)
        case "add":
            for other in inputs[1:]:
                x = x + other
            return x
        case "concat":
            return np.concatenate(inputs, axis=-1)
        case "avgpool":
            mean: Values = x.mean(axis=(1, 2), keepdims=True)
            return mean
        case "maxpool" if node.pool is not None:
            return _maxpool(x, node.pool)
        case "host":
            return _function(network, node, inputs, own)
    raise ValueError(f"node {node.name}: op {node.op!r} is none of the host's")


def _function(
    network: Network, node: Node, inputs: list[Values], own: LayerWeights | None
) -> Values:
    x = inputs[0]
    match node.function:
        case "relu6":
            return np.clip(x, 0.0, 6.0)
        case "sigmoid":
            kept: Values = np.exp(-np.logaddexp(0.0, -x))  # which no x overflows
            return kept
        case "gelu":  # x times the normal distribution's share below x
            gelu: Values = x * (1 + _erf(x / math.sqrt(2))) / 2
            return gelu
        case "mul":
            return x * inputs[1]
        case "reshape" | "tokens":
            return x.reshape(len(x), *network.shape(node.name)[1:])
        case "split":
            parts = _parts(network, node)
            ends = np.cumsum([network.shape(part)[3] for part in parts])
            return np.split(x, ends[:-1], axis=3)[parts.index(node.name)]
        case "scale":  # by 1 / sqrt(channels of a head)
            return x / math.sqrt(_product_of(network, node).C)
        case "softmax":  # over the columns of each head
            scores = x.reshape(*x.shape[:3], -1, _product_of(network, node).K)
            powers = np.exp(scores - scores.max(axis=-1, keepdims=True))
            shares: Values = powers / powers.sum(axis=-1, keepdims=True)
            return shares.reshape(x.shape)
        case "layer_norm" if own is not None:
            spread = np.sqrt(x.var(axis=3, keepdims=True) + _EPSILON)
            normal: Values = (x - x.mean(axis=3, keepdims=True)) / spread * own.weight + own.bias
            return normal
        case "add_parameter" if own is not None:
            moved: Values = x + own.weight + own.bias
            return moved
    raise ValueError(f"node {node.name}: function {node.function!r} is none of the host's")


def _product_of(network: Network, node: Node) -> ConvLayer:
    """The product whose scores a scale or a softmax reads."""
    source = network.producers[node.name][0]
    return source.layer if source.layer is not None else _product_of(network, source)


def _maxpool(values: Values, pool: Pool) -> Values:
    (kr, kc), (sr, sc), (pr, pc) = pool.kernel, pool.stride, pool.padding
    rows, cols = values.shape[1:3]
    P, Q = pool.outputs((rows, cols))
    # With `ceil` the last window may end beyond the padding.
    below = max(pr, (P - 1) * sr + kr - rows - pr)
    right = max(pc, (Q - 1) * sc + kc - cols - pc)
    padded = np.pad(values, ((0, 0), (pr, below), (pc, right), (0, 0)), constant_values=-np.inf)
    windows = np.lib.stride_tricks.sliding_window_view(padded, (kr, kc), axis=(1, 2))
    pooled: Values = windows[:, ::sr, ::sc].max(axis=(-2, -1))
    return pooled


def convolve_float(layer: ConvLayer, inputs: Values, weights: Values) -> Values:
    """A float64 convolution of (N, H, W, channels) by (filters, C, R, S): (N, P, Q, filters)."""
    (sr, sc), (dr, dc) = layer.strides, layer.dilations
    rows, cols = (Window.of(layer, dim).interval((0, layer.dims[dim])) for dim in "PQ")
    height = (layer.P - 1) * sr + (layer.R - 1) * dr + 1
    width = (layer.Q - 1) * sc + (layer.S - 1) * dc + 1
    top, left = rows[0] + layer.paddings[0], cols[0] + layer.paddings[2]
    n, groups = inputs.shape[0], layer.G
    padded = np.zeros((n, height, width, groups, layer.C))
    stored = inputs[:, slice(*rows), slice(*cols)].reshape(n, *_lengths(rows, cols), groups, -1)
    padded[:, top : top + stored.shape[1], left : left + stored.shape[2]] = stored
    kernels = weights.reshape(groups, layer.K, layer.C, layer.R, layer.S)
    out = np.zeros((groups, n * layer.P * layer.Q, layer.K))
    for r in range(layer.R):
        for s in range(layer.S):
            taps = padded[:, r * dr :: sr, s * dc :: sc][:, : layer.P, : layer.Q]
            lines = np.moveaxis(taps, 3, 0).reshape(groups, -1, layer.C)
            out += lines @ kernels[:, :, :, r, s].transpose(0, 2, 1)
    return np.moveaxis(out, 0, 1).reshape(n, layer.P, layer.Q, -1)


def _lengths(*intervals: tuple[int, int]) -> tuple[int, ...]:
    return tuple(high - low for low, high in intervals)


def by_head(layer: ConvLayer, left: Values, right: Values) -> tuple[Values, Values]:
    """The operands of a product of activations, run by run: sample by sample, head by head.

    left (N, P, Q, heads * C) gives (runs, P, Q, C), and right (runs, K, C, 1, 1): tokens as they
    are if each has C channels of a head, as keys; turned round if there are C of them, as values.
    """
    heads = left.shape[3] // layer.C
    lefts = np.moveaxis(left.reshape(*left.shape[:3], heads, layer.C), 3, 1)
    tokens = right.shape[1] * right.shape[2]
    rights = np.moveaxis(right.reshape(len(right), tokens, heads, -1), 2, 1)
    if tokens == layer.C:
        rights = rights.swapaxes(2, 3)
    return (
        lefts.reshape(-1, layer.P, layer.Q, layer.C),
        rights.reshape(-1, layer.K, layer.C, 1, 1),
    )


def by_sample(runs: Values, samples: int) -> Values:
    """The products of `by_head`'s operands (runs, P, Q, K) as (N, P, Q, heads * K)."""
    heads = runs.reshape(samples, -1, *runs.shape[1:])
    return np.moveaxis(heads, 1, 3).reshape(samples, *runs.shape[1:3], -1)


def _multiply_float(layer: ConvLayer, left: Values, right: Values) -> Values:
    lefts, rights = by_head(layer, left, right)
    lines = lefts.reshape(len(lefts), -1, layer.C) @ rights[..., 0, 0].swapaxes(1, 2)
    return by_sample(lines.reshape(len(lefts), layer.P, layer.Q, layer.K), len(left))


def infer(
    network: NetworkSource, weights: Mapping[str, LayerWeights], images: NDArray[np.floating]
) -> dict[str, Values]:
    """Float64 inference: every node's output by name; layers' before the bias as "<name>:sum".

    Raises WorkloadError as `check_runnable`.
    """
    network = load_workload(network)
    check_runnable(network, weights)
    outputs: dict[str, Values] = {}
    for node in network.nodes:
        sources = [outputs[name] for name in node.inputs]
        if node.op == "input":
            outputs[node.name] = np.asarray(images, np.float64)
        elif node.layer is None:
            outputs[node.name] = apply(network, node, sources, weights.get(node.name))
        elif node.op == "matmul":
            sums = _multiply_float(node.layer, sources[0], sources[1])
            outputs[node.name + ":sum"] = outputs[node.name] = sums
        else:
            own = weights[node.name]
            sums = convolve_float(node.layer, sources[0], own.weight.astype(np.float64))
            outputs[node.name + ":sum"] = sums
            outputs[node.name] = sums + own.bias
    return outputs
