"""What the host does between layers: bias, ReLU, pooling, adds, concats; and float inference."""

import numpy as np
from numpy.typing import NDArray

from mapping.boxes import input_cols, input_rows
from workloads import ConvLayer, LayerWeights, Network, Node, Pool, WorkloadError

Values = NDArray[np.float64]

_RUN = ("input", "conv", "conv1d", "linear", "relu", "add", "concat", "avgpool", "maxpool")


def check_runnable(network: Network) -> None:
    """Raise WorkloadError, naming nodes, if the network cannot be run with data.

    Products of activations, transposed convolutions, and the host's functions other than
    ReLU, pooling, adds and concats are counted and timed, but have no arithmetic here.
    """
    others = [node for node in network.nodes if node.op not in _RUN]
    if others:
        kinds = sorted({node.function or node.op for node in others})
        raise WorkloadError(
            f"network {network.name!r}: {len(others)} of {len(network.nodes)} nodes cannot be run "
            f"with data ({', '.join(kinds)}; first: {others[0].name!r}); allowed: "
            f"{', '.join(_RUN)}"
        )


def apply(node: Node, inputs: list[Values]) -> Values:
    """The output of a node that is no convolution, from (N, H, W, channels) inputs."""
    if node.op == "relu":
        return np.maximum(inputs[0], 0.0)
    if node.op == "add":
        total = inputs[0]
        for other in inputs[1:]:
            total = total + other
        return total
    if node.op == "concat":
        return np.concatenate(inputs, axis=-1)
    if node.op == "avgpool":
        mean: Values = inputs[0].mean(axis=(1, 2), keepdims=True)
        return mean
    if node.op == "maxpool" and node.pool is not None:
        return _maxpool(inputs[0], node.pool)
    raise ValueError(f"node {node.name}: op {node.op!r} is none of the host's")


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
    rows, cols = input_rows(layer, (0, layer.P)), input_cols(layer, (0, layer.Q))
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


def infer(
    network: Network, weights: dict[str, LayerWeights], images: NDArray[np.floating]
) -> dict[str, Values]:
    """Float64 inference: every node's output by name; convs' before the bias as "<name>:sum".

    Raises WorkloadError as `check_runnable`.
    """
    check_runnable(network)
    outputs: dict[str, Values] = {}
    for node in network.nodes:
        sources = [outputs[name] for name in node.inputs]
        if node.op == "input":
            outputs[node.name] = np.asarray(images, np.float64)
        elif node.layer is not None:
            own = weights[node.name]
            sums = convolve_float(node.layer, sources[0], own.weight.astype(np.float64))
            outputs[node.name + ":sum"] = sums
            outputs[node.name] = sums + own.bias
        else:
            outputs[node.name] = apply(node, sources)
    return outputs
