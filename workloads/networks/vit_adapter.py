"""ViT-Adapter (Chen et al., 2023, arXiv 2205.08534): convolutions beside a plain transformer.

Known from the paper (section 3): a spatial prior of convolutions gives maps of strides 4 to 32;
those of strides 8, 16 and 32, as tokens, exchange with the transformer's before (injector) and
after (extractor) each quarter of its blocks, by deformable attention; two more extractors follow
the last. From code (github.com/czczup/ViT-Adapter, ``segmentation/mmseg_custom/models/backbones``,
``adapter_modules.py`` and ``beit_adapter.py``; ONE-PEACE's ``onepeace_adapter.py`` is the same but
for the transformer): kernels and channels of the spatial prior, the extractor's perceptron with a
depthwise 3x3 convolution over each of the three maps, the sums with the transformer's own maps.

Batch normalisation is folded into the convolutions before it or, that of the four outputs, into
those that read them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from bfpsim.workloads.builder import NetworkBuilder
from bfpsim.workloads.layer import Pair
from bfpsim.workloads.networks.deformable import deformable_attention

Blocks = Callable[[NetworkBuilder, str, int], str]
"""Appends a quarter of the transformer, of this number, behind a node; returns its output."""


@dataclass(frozen=True, slots=True)
class Adapter:
    """Sizes: of the deformable attention, its values' and the perceptrons' channels."""

    heads: int
    values: int
    hidden: int
    points: int = 4
    prior: int = 64


def vit_adapter(
    build: NetworkBuilder, image: str, patches: str, quarters: Blocks, sizes: Adapter
) -> tuple[str, ...]:
    """Append the adapter around a transformer; return maps of strides 4, 8, 16 and 32.

    patches: the transformer's tokens, one per 16x16 pixels, without a class token
    quarters: what appends each of the transformer's four parts
    Maps have the tokens' channels. The image's rows and columns are multiples of 32.
    """
    N, H, W, _ = build.shape(image)
    width = build.shape(patches)[3]
    extents = tuple((H // stride, W // stride) for stride in (8, 16, 32))
    finest, *maps = _spatial_prior(build, image, width, sizes.prior)
    count = sum(rows * columns for rows, columns in extents)
    c = build.host("adapter.tokens", "concat_tokens", *maps, shape=(N, count, 1, width))
    x = patches
    outputs = []
    for number in range(4):
        y = _attend(build, f"adapter{number}.inject", x, c, 3, sizes)
        y = build.host(f"adapter{number}.inject.scale", "mul", y)
        x = quarters(build, build.add(f"adapter{number}.inject.add", x, y), number)
        for turn in range(3 if number == 3 else 1):
            c = _extract(build, f"adapter{number}.extract{turn}", c, x, extents, sizes)
        shape = (N, *extents[1], width)
        outputs.append(build.host(f"adapter{number}.map", "reshape", x, shape=shape))
    split = [
        build.host(f"adapter.split{level}", "split", c, shape=(N, *extent, width))
        for level, extent in enumerate(extents)
    ]
    up = build.transposed("adapter.up", split[0], width, 2, stride=2)
    merged = [build.add("adapter.finest", up, finest), *split]
    return tuple(
        _with_own_map(build, f"adapter.output{level}", into, own)
        for level, (into, own) in enumerate(zip(merged, outputs, strict=True))
    )


def _spatial_prior(build: NetworkBuilder, image: str, width: int, inner: int) -> list[str]:
    """Append the convolutions; return maps of strides 4, 8, 16 and 32."""
    x = _conv(build, "adapter.stem0", image, inner, 2)
    x = _conv(build, "adapter.stem1", x, inner, 1)
    x = _conv(build, "adapter.stem2", x, inner, 1)
    x = build.maxpool("adapter.stem.pool", x, 3, stride=2, padding=1)
    stages = [x]
    for number, channels in enumerate((2 * inner, 4 * inner, 4 * inner)):
        stages.append(_conv(build, f"adapter.stage{number}", stages[-1], channels, 2))
    return [
        build.conv(f"adapter.project{level}", stage, width, 1) for level, stage in enumerate(stages)
    ]


def _conv(build: NetworkBuilder, name: str, source: str, channels: int, stride: int) -> str:
    x = build.conv(name, source, channels, 3, stride=stride, padding=1)
    return build.relu(f"{name}.relu", x)


def _attend(
    build: NetworkBuilder, name: str, queries: str, memory: str, levels: int, sizes: Adapter
) -> str:
    return deformable_attention(
        build,
        f"{name}.attention",
        build.host(f"{name}.query_norm", "layer_norm", queries),
        build.host(f"{name}.memory_norm", "layer_norm", memory),
        heads=sizes.heads,
        levels=levels,
        points=sizes.points,
        channels=sizes.values,
    )


def _extract(
    build: NetworkBuilder, name: str, c: str, x: str, extents: Sequence[Pair], sizes: Adapter
) -> str:
    """Append attention of the maps' tokens to the transformer's, and their perceptron."""
    N, count, _, width = build.shape(c)
    c = build.add(f"{name}.add1", c, _attend(build, name, c, x, 1, sizes))
    y = build.host(f"{name}.mlp.norm", "layer_norm", c)
    y = build.linear(f"{name}.mlp.0", y, sizes.hidden)
    filtered = []
    for level, extent in enumerate(extents):
        part = build.host(f"{name}.mlp.map{level}", "split", y, shape=(N, *extent, sizes.hidden))
        filtered.append(
            build.conv(
                f"{name}.mlp.depthwise{level}",
                part,
                sizes.hidden,
                3,
                padding=1,
                groups=sizes.hidden,
            )
        )
    shape = (N, count, 1, sizes.hidden)
    y = build.host(f"{name}.mlp.tokens", "concat_tokens", *filtered, shape=shape)
    y = build.host(f"{name}.mlp.gelu", "gelu", y)
    y = build.linear(f"{name}.mlp.1", y, width)
    return build.add(f"{name}.add2", c, y)


def _with_own_map(build: NetworkBuilder, name: str, into: str, own: str) -> str:
    """Append the sum with a map of the transformer's, resampled if it is of another stride."""
    shape = build.shape(into)
    if build.shape(own) != shape:
        own = build.host(f"{name}.resample", "upsample", own, shape=shape)
    return build.add(name, into, own)
