"""Multi-scale deformable attention (Zhu et al., 2021, arXiv 2010.04159) and its encoder layer.

Known from the paper (section 4.1 and appendix A.4): each query predicts, by linear layers, where
to sample each level (``points`` offsets of two coordinates per head and level) and with what
weight, a softmax over a head's levels and points; values are a linear layer of the levels' tokens,
and the output is projected. Hugging Face's ``transformers`` 5.23 (``DeformableDetr``,
``Mask2Former``'s pixel decoder) has the same four linear layers.

Sampling depends on the data, so the accelerator does not model it: it is the host's
``deformable_sampling``. Its multiply-accumulates are counted as

    queries x heads x levels x points x channels of a head x (4 bilinear taps + 1 weighting).

ViT-Adapter's form has a value narrower than the query: ``channels``.
"""

from __future__ import annotations

from bfpsim.workloads.builder import NetworkBuilder
from bfpsim.workloads.networks.transformer import add_and_norm, perceptron

_MACS_PER_SAMPLE = 4 + 1  # bilinear taps, and the weight of the sample


def deformable_attention(
    build: NetworkBuilder,
    name: str,
    queries: str,
    memory: str,
    *references: str,
    heads: int,
    levels: int,
    points: int,
    channels: int | None = None,
) -> str:
    """Append deformable attention of ``queries`` to ``memory``, the tokens of all ``levels``.

    references: nodes that say where queries look, if the network computes that
    points: samples that each head takes of each level
    channels: those of the values, all heads together; by default the queries'
    """
    N, count, columns, width = build.shape(queries)
    inner = width if channels is None else channels
    samples = heads * levels * points
    values = build.linear(f"{name}.value", memory, inner)
    offsets = build.linear(f"{name}.offsets", queries, 2 * samples)
    weights = build.linear(f"{name}.weights", queries, samples)
    weights = build.host(f"{name}.softmax", "softmax", weights)
    x = build.host(
        f"{name}.sampling",
        "deformable_sampling",
        values,
        offsets,
        weights,
        *references,
        shape=(N, count, columns, inner),
        macs=N * count * columns * levels * points * inner * _MACS_PER_SAMPLE,
    )
    return build.linear(f"{name}.out", x, width)


def encoder_layer(
    build: NetworkBuilder,
    name: str,
    source: str,
    *,
    heads: int,
    levels: int,
    points: int,
    hidden: int,
) -> str:
    """Append deformable self-attention and a perceptron, each with a residual and normalised.

    hidden: channels inside the perceptron
    """
    placed = build.host(f"{name}.position", "add_parameter", source)
    x = deformable_attention(
        build,
        f"{name}.attention",
        placed,
        source,
        heads=heads,
        levels=levels,
        points=points,
    )
    source = add_and_norm(build, f"{name}.attended", source, x)
    x = perceptron(build, f"{name}.mlp", source, hidden, build.shape(source)[3])
    return add_and_norm(build, f"{name}.encoded", source, x)
