"""ConvNeXt (Liu et al., 2022), written as its module definition; shapes follow from the input.

Layers bear the names of its authors' code (github.com/facebookresearch/ConvNeXt).
"""

from __future__ import annotations

from bfpsim.workloads.builder import NetworkBuilder
from bfpsim.workloads.network import Network


def convnext_large(size: int = 224, channels: int = 3, classes: int = 1000) -> Network:
    """Return ConvNeXt-L on ``size`` x ``size`` images of ``channels`` channels, batch 1.

    At 224 its 40 convolutions, 36 of them depthwise, have 1,065,512,448 MACs, and its 73 linear
    layers 33,295,921,152. Raises `WorkloadError` as `convnext`.
    """
    return convnext((3, 3, 27, 3), 192, size, channels, classes)


def convnext(
    depths: tuple[int, ...], width: int, size: int = 224, channels: int = 3, classes: int = 1000
) -> Network:
    """Return a ConvNeXt of ``depths`` blocks per stage; ``width`` is the first stage's channels.

    Each later stage doubles the channels and halves the map. A block's 1x1 convolutions are linear
    layers, as in its authors' code. Raises `WorkloadError` for a size below what its stages need
    (32 for four), or a width or count that is not > 0.
    """
    build = NetworkBuilder("convnext", (1, size, size, channels))
    x = "input"
    for stage, depth in enumerate(depths):
        name = f"downsample_layers.{stage}"
        if stage == 0:
            x = build.conv(f"{name}.0", x, width, 4, stride=4)
            x = build.host(f"{name}.1", "layer_norm", x)
        else:
            x = build.host(f"{name}.0", "layer_norm", x)
            x = build.conv(f"{name}.1", x, width << stage, 2, stride=2)
        for index in range(depth):
            x = _block(build, f"stages.{stage}.{index}", x)
    x = build.host("norm", "layer_norm", build.avgpool("avgpool", x))
    build.linear("head", x, classes)
    return build.network()


def _block(build: NetworkBuilder, name: str, source: str) -> str:
    width = build.shape(source)[3]
    x = build.conv(f"{name}.dwconv", source, width, 7, padding=3, groups=width)
    x = build.host(f"{name}.norm", "layer_norm", x)
    x = build.linear(f"{name}.pwconv1", x, 4 * width)
    x = build.host(f"{name}.act", "gelu", x)
    x = build.linear(f"{name}.pwconv2", x, width)
    x = build.host(f"{name}.gamma", "mul", x)  # by a learned factor per channel
    return build.add(f"{name}.add", x, source)
