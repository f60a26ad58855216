"""ResNet-50 (He et al., 2016, arXiv 1512.03385, table 1) as a backbone.

The stride of a stage is in its first 3x3 convolution, as in torchvision and in the configurations
of Mask2Former and Mask DINO (``STRIDE_IN_1X1: False``). Names are torchvision's, behind
``backbone.``; batch normalisation is folded.
"""

from __future__ import annotations

from workloads.builder import NetworkBuilder


def resnet50_backbone(build: NetworkBuilder, source: str = "input") -> tuple[str, ...]:
    """Append ResNet-50 without its classifier; return its maps of strides 4, 8, 16 and 32.

    They have 256, 512, 1024 and 2048 channels.
    """
    x = build.conv("backbone.conv1", source, 64, 7, stride=2, padding=3)
    x = build.relu("backbone.relu", x)
    x = build.maxpool("backbone.maxpool", x, 3, stride=2, padding=1)
    maps = []
    for stage, blocks in enumerate((3, 4, 6, 3)):
        for block in range(blocks):
            stride = 2 if stage > 0 and block == 0 else 1
            x = _bottleneck(build, f"backbone.layer{stage + 1}.{block}", x, 64 << stage, stride)
        maps.append(x)
    return tuple(maps)


def _bottleneck(build: NetworkBuilder, name: str, source: str, width: int, stride: int) -> str:
    x = build.conv(f"{name}.conv1", source, width, 1)
    x = build.relu(f"{name}.relu1", x)
    x = build.conv(f"{name}.conv2", x, width, 3, stride=stride, padding=1)
    x = build.relu(f"{name}.relu2", x)
    x = build.conv(f"{name}.conv3", x, 4 * width, 1)
    shortcut = source
    if build.shape(x) != build.shape(source):
        shortcut = build.conv(f"{name}.downsample", source, 4 * width, 1, stride=stride)
    x = build.add(f"{name}.add", x, shortcut)
    return build.relu(f"{name}.relu3", x)
