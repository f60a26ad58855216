"""The pixel decoder that Mask2Former and Mask DINO share: a deformable encoder and a small FPN.

Known from Mask2Former's paper (arXiv 2112.01527, section 3.4 and appendix): a deformable encoder of
6 layers over maps of strides 8 to 32, and a lateral connection to the map of stride 4, from which
the mask features come. From code (facebookresearch/Mask2Former, ``msdeformattn.py``; Mask DINO's
``maskdino_encoder.py``): the 1x1 projections with group normalisation, the 3x3 convolution behind
the lateral sum, the 1x1 convolution to the mask features. With Mask2Former's settings
``transformers`` 5.23 (``Mask2FormerPixelDecoder``) has the same layers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bfpsim.workloads.builder import NetworkBuilder
from bfpsim.workloads.layer import Pair
from bfpsim.workloads.networks.deformable import encoder_layer


@dataclass(frozen=True, slots=True)
class PixelDecoder:
    """Sizes of a pixel decoder.

    ``first`` is the finest of the backbone's maps that the encoder sees, ``extra`` how many coarser
    levels 3x3 convolutions of stride 2 add, ``hidden`` the channels inside a perceptron.
    """

    first: int = 1
    extra: int = 0
    channels: int = 256
    hidden: int = 1024
    heads: int = 8
    points: int = 4
    layers: int = 6


@dataclass(frozen=True, slots=True)
class Pixels:
    """A pixel decoder's outputs.

    ``memory`` are the tokens of all levels, fine to coarse, whose rows and columns are ``sizes``;
    ``masks`` the mask features, of stride 4.
    """

    memory: str
    sizes: tuple[Pair, ...]
    masks: str

    def level(self, build: NetworkBuilder, name: str, number: int) -> str:
        """Append a level of the memory by itself, as tokens."""
        N, _, _, C = build.shape(self.memory)
        rows, columns = self.sizes[number]
        return build.host(name, "split", self.memory, shape=(N, rows * columns, 1, C))


def pixel_decoder(build: NetworkBuilder, maps: Sequence[str], sizes: PixelDecoder) -> Pixels:
    """Append a pixel decoder of the backbone's ``maps``, fine to coarse, as ``pixels...``."""
    levels = []
    for number, source in enumerate(maps[sizes.first :]):
        x = build.conv(f"pixels.project{number}", source, sizes.channels, 1)
        levels.append(build.host(f"{x}.norm", "group_norm", x))
    x = maps[-1]
    for number in range(len(levels), len(levels) + sizes.extra):
        x = build.conv(f"pixels.project{number}", x, sizes.channels, 3, stride=2, padding=1)
        x = build.host(f"{x}.norm", "group_norm", x)
        levels.append(x)
    extents = tuple(build.shape(level)[1:3] for level in levels)
    memory = build.host(
        "pixels.memory",
        "concat_tokens",
        *levels,
        shape=(build.shape(x)[0], sum(H * W for H, W in extents), 1, sizes.channels),
    )
    for number in range(sizes.layers):
        memory = encoder_layer(
            build,
            f"pixels.encoder{number}",
            memory,
            heads=sizes.heads,
            levels=len(levels),
            points=sizes.points,
            hidden=sizes.hidden,
        )
    return Pixels(memory, extents, _mask_features(build, maps[0], memory, extents[0]))


def _mask_features(build: NetworkBuilder, finest: str, memory: str, extent: Pair) -> str:
    """Append the lateral sum of the backbone's finest map and the memory's, and what follows."""
    N, H, W, _ = build.shape(finest)
    channels = build.shape(memory)[3]
    lateral = build.conv("pixels.lateral", finest, channels, 1)
    lateral = build.host("pixels.lateral.norm", "group_norm", lateral)
    encoded = build.host("pixels.finest", "split", memory, shape=(N, *extent, channels))
    encoded = build.host("pixels.upsample", "upsample", encoded, shape=(N, H, W, channels))
    x = build.add("pixels.sum", lateral, encoded)
    x = build.conv("pixels.output", x, channels, 3, padding=1)
    x = build.host("pixels.output.norm", "group_norm", x)
    x = build.relu("pixels.output.relu", x)
    return build.conv("pixels.masks", x, channels, 1)
