"""ResNet-18 (He et al., 2016), written as its module definition; all shapes follow from the input.

Convolutions bear torchvision's names, except that a shortcut's is ``layerN.0.downsample``.
"""

from __future__ import annotations

from typing import Literal

from workloads.builder import NetworkBuilder
from workloads.layer import WorkloadError
from workloads.network import Network

Stem = Literal["imagenet", "small"]


def resnet18(
    width: int = 64,
    size: int = 224,
    channels: int = 3,
    classes: int = 1000,
    stem: Stem = "imagenet",
) -> Network:
    """Return ResNet-18 on ``size`` x ``size`` images of ``channels`` channels, batch 1.

    ``width`` is the first stage's channels; each later stage doubles them and halves the map. The
    ``small`` stem is a 3x3 convolution of stride 1 and no pooling, for images as small as 28x28.
    Raises `WorkloadError` for a stem of another name or a size, width or count that is not > 0.
    """
    build = NetworkBuilder("resnet18", (1, size, size, channels))
    match stem:
        case "imagenet":
            x = build.conv("conv1", "input", width, 7, stride=2, padding=3)
            x = build.relu("relu", x)
            x = build.maxpool("maxpool", x, 3, stride=2, padding=1)
        case "small":
            x = build.conv("conv1", "input", width, 3, padding=1)
            x = build.relu("relu", x)
        case _:
            raise WorkloadError(f"resnet18: stem={stem!r} must be 'imagenet' or 'small'")
    for stage in range(4):
        for block in range(2):
            stride = 2 if stage > 0 and block == 0 else 1
            x = _basic_block(build, f"layer{stage + 1}.{block}", x, width << stage, stride)
    x = build.avgpool("avgpool", x)
    build.linear("fc", x, classes)
    return build.network()


def _basic_block(build: NetworkBuilder, name: str, source: str, out: int, stride: int) -> str:
    x = build.conv(f"{name}.conv1", source, out, 3, stride=stride, padding=1)
    x = build.relu(f"{name}.relu1", x)
    x = build.conv(f"{name}.conv2", x, out, 3, padding=1)
    shortcut = source
    if build.shape(x) != build.shape(source):
        shortcut = build.conv(f"{name}.downsample", source, out, 1, stride=stride)
    x = build.add(f"{name}.add", x, shortcut)
    return build.relu(f"{name}.relu2", x)
