"""Parts that the shipped transformers share: attention, perceptron, residual and normalisation.

Tokens are maps of one column, (N, tokens, 1, channels). What attention adds to its scores (a
position bias, a mask), their scale and the softmax are one host node; parameters that are added to
tokens are host nodes of no inputs besides, because they are constants.
"""

from __future__ import annotations

from bfpsim.workloads.builder import NetworkBuilder


def attention(
    build: NetworkBuilder, name: str, query: str, key: str, value: str, heads: int, *biases: str
) -> str:
    """Append softmax(Q K^T) V of projected tokens, head by head, and return its node.

    ``biases`` are nodes computed from activations that the scores have added before the softmax.
    """
    _, rows, columns, _ = build.shape(key)
    scores = build.matmul(f"{name}.qk", query, key, rows * columns, heads=heads)
    weights = build.host(f"{name}.softmax", "softmax", scores, *biases)
    return build.matmul(f"{name}.av", weights, value, build.shape(value)[3] // heads, heads=heads)


def multi_head_attention(
    build: NetworkBuilder, name: str, query: str, key: str, value: str, heads: int, *biases: str
) -> str:
    """Append attention with its four projections, all as wide as the query."""
    width = build.shape(query)[3]
    q = build.linear(f"{name}.q", query, width)
    k = build.linear(f"{name}.k", key, width)
    v = build.linear(f"{name}.v", value, width)
    x = attention(build, name, q, k, v, heads, *biases)
    return build.linear(f"{name}.out", x, width)


def perceptron(build: NetworkBuilder, name: str, source: str, *widths: int) -> str:
    """Append fully connected layers of these widths, ``name.0`` on, with a ReLU between two."""
    x = source
    for number, width in enumerate(widths):
        if number:
            x = build.relu(f"{name}.relu{number - 1}", x)
        x = build.linear(f"{name}.{number}", x, width)
    return x


def add_and_norm(build: NetworkBuilder, name: str, source: str, branch: str) -> str:
    """Append a residual sum, ``name.add``, and its layer normalisation, ``name.norm``."""
    x = build.add(f"{name}.add", source, branch)
    return build.host(f"{name}.norm", "layer_norm", x)
