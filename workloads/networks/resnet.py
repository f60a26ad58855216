"""ResNet-18 and ResNet-50 (He et al., 2016), written as their module definitions.

All shapes follow from the input. Convolutions bear torchvision's names, except that a shortcut's
is ``layerN.0.downsample``; those of the backbone stand behind ``backbone.``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from bfpsim.workloads.builder import NetworkBuilder
from bfpsim.workloads.layer import WorkloadError
from bfpsim.workloads.network import Network

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
    x = _stem("resnet18", build, width, stem)
    *_, x = _stages(build, x, _basic_block, (2, 2, 2, 2), width)
    build.linear("fc", build.avgpool("avgpool", x), classes)
    return build.network()


def resnet50(
    width: int = 64,
    size: int = 224,
    channels: int = 3,
    classes: int = 1000,
    stem: Stem = "imagenet",
) -> Network:
    """Return ResNet-50, with parameters as of `resnet18`.

    ``width`` is the channels within the first stage's blocks, which give four times as many. The
    stride is the 3x3 convolution's, as torchvision has it ("v1.5"); the paper has it in the 1x1
    before. At 224 the 53 convolutions have 4,087,136,256 MACs.
    """
    build = NetworkBuilder("resnet50", (1, size, size, channels))
    x = _stem("resnet50", build, width, stem)
    *_, x = _stages(build, x, _bottleneck, (3, 4, 6, 3), width)
    build.linear("fc", build.avgpool("avgpool", x), classes)
    return build.network()


def resnet50_backbone(build: NetworkBuilder, source: str = "input") -> tuple[str, ...]:
    """Append ResNet-50 without its classifier; return its maps of strides 4, 8, 16 and 32.

    They have 256, 512, 1024 and 2048 channels. The stride is the 3x3 convolution's in the
    configurations of Mask2Former and Mask DINO, too (``STRIDE_IN_1X1: False``).
    """
    x = _imagenet_stem(build, "backbone.", source, 64)
    return _stages(build, x, _bottleneck, (3, 4, 6, 3), 64, prefix="backbone.")


def _stem(owner: str, build: NetworkBuilder, width: int, stem: Stem) -> str:
    match stem:
        case "imagenet":
            return _imagenet_stem(build, "", "input", width)
        case "small":
            x = build.conv("conv1", "input", width, 3, padding=1)
            return build.relu("relu", x)
        case _:
            raise WorkloadError(f"{owner}: stem={stem!r} must be 'imagenet' or 'small'")


def _imagenet_stem(build: NetworkBuilder, prefix: str, source: str, width: int) -> str:
    x = build.conv(f"{prefix}conv1", source, width, 7, stride=2, padding=3)
    x = build.relu(f"{prefix}relu", x)
    return build.maxpool(f"{prefix}maxpool", x, 3, stride=2, padding=1)


def _stages(
    build: NetworkBuilder,
    source: str,
    block: Callable[[NetworkBuilder, str, str, int, int], str],
    depths: tuple[int, ...],
    width: int,
    prefix: str = "",
) -> tuple[str, ...]:
    """Append the stages; return the last node of each."""
    x, ends = source, []
    for stage, depth in enumerate(depths):
        for index in range(depth):
            stride = 2 if stage > 0 and index == 0 else 1
            x = block(build, f"{prefix}layer{stage + 1}.{index}", x, width << stage, stride)
        ends.append(x)
    return tuple(ends)


def _basic_block(build: NetworkBuilder, name: str, source: str, width: int, stride: int) -> str:
    x = build.conv(f"{name}.conv1", source, width, 3, stride=stride, padding=1)
    x = build.relu(f"{name}.relu1", x)
    x = build.conv(f"{name}.conv2", x, width, 3, padding=1)
    x = build.add(f"{name}.add", x, _shortcut(build, name, source, x, stride))
    return build.relu(f"{name}.relu2", x)


def _bottleneck(build: NetworkBuilder, name: str, source: str, width: int, stride: int) -> str:
    x = build.conv(f"{name}.conv1", source, width, 1)
    x = build.relu(f"{name}.relu1", x)
    x = build.conv(f"{name}.conv2", x, width, 3, stride=stride, padding=1)
    x = build.relu(f"{name}.relu2", x)
    x = build.conv(f"{name}.conv3", x, 4 * width, 1)
    x = build.add(f"{name}.add", x, _shortcut(build, name, source, x, stride))
    return build.relu(f"{name}.relu3", x)


def _shortcut(build: NetworkBuilder, name: str, source: str, block: str, stride: int) -> str:
    """Return ``source``, projected to the block's shape if it has another."""
    shape = build.shape(block)
    if shape == build.shape(source):
        return source
    return build.conv(f"{name}.downsample", source, shape[3], 1, stride=stride)
