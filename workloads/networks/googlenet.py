"""GoogLeNet (Szegedy et al., 2015), written as its module definition; shapes follow from the input.

Convolutions bear the names of torchvision's blocks of convolution, normalisation and ReLU; an
inception module's own name is that of its output.
"""

from __future__ import annotations

from bfpsim.workloads.builder import NetworkBuilder
from bfpsim.workloads.layer import WorkloadError, integer
from bfpsim.workloads.network import Network
from bfpsim.workloads.networks.resnet import Stem

# The first convolution's channels in the paper.
FULL = 64


def googlenet(
    width: int = FULL,
    size: int = 224,
    channels: int = 3,
    classes: int = 1000,
    stem: Stem = "imagenet",
) -> Network:
    """Return GoogLeNet on ``size`` x ``size`` images of ``channels`` channels, batch 1.

    ``width`` is the first convolution's channels; all others are the paper's times width / 64. The
    ``small`` stem's first convolution is 3x3 of stride 1, for images as small as 28x28.

    This is torchvision's variant (``torchvision/models/googlenet.py``), without the auxiliary
    heads, which only training runs: at 224 its 57 convolutions have 1,497,352,192 MACs. The paper
    (arXiv 1409.4842, table 1) has 5x5 filters where torchvision has 3x3, a known slip that its
    trained weights have made final (pytorch/vision, issue 906); with them it would be 1,581,647,872
    MACs. Poolings round up, as torchvision's. Raises `WorkloadError` for a width that is no
    multiple of 8, a stem of another name, a size that leaves nothing to pool (below 15, or below 8
    with the small stem), or a count that is not > 0.
    """
    if integer("googlenet", "width", width) % 8:
        raise WorkloadError(f"googlenet: width={width} must be a multiple of 8")
    build = NetworkBuilder("googlenet", (1, size, size, channels))
    match stem:
        case "imagenet":
            x = _conv(build, width, "conv1", "input", 64, 7, stride=2, padding=3)
        case "small":
            x = _conv(build, width, "conv1", "input", 64, 3, padding=1)
        case _:
            raise WorkloadError(f"googlenet: stem={stem!r} must be 'imagenet' or 'small'")
    x = build.maxpool("maxpool1", x, 3, stride=2, ceil=True)
    x = _conv(build, width, "conv2", x, 64, 1)
    x = _conv(build, width, "conv3", x, 192, 3, padding=1)
    x = build.maxpool("maxpool2", x, 3, stride=2, ceil=True)
    x = _inception(build, width, "inception3a", x, 64, (96, 128), (16, 32), 32)
    x = _inception(build, width, "inception3b", x, 128, (128, 192), (32, 96), 64)
    x = build.maxpool("maxpool3", x, 3, stride=2, ceil=True)
    x = _inception(build, width, "inception4a", x, 192, (96, 208), (16, 48), 64)
    x = _inception(build, width, "inception4b", x, 160, (112, 224), (24, 64), 64)
    x = _inception(build, width, "inception4c", x, 128, (128, 256), (24, 64), 64)
    x = _inception(build, width, "inception4d", x, 112, (144, 288), (32, 64), 64)
    x = _inception(build, width, "inception4e", x, 256, (160, 320), (32, 128), 128)
    x = build.maxpool("maxpool4", x, 2, stride=2, ceil=True)
    x = _inception(build, width, "inception5a", x, 256, (160, 320), (32, 128), 128)
    x = _inception(build, width, "inception5b", x, 384, (192, 384), (48, 128), 128)
    build.linear("fc", build.avgpool("avgpool", x), classes)
    return build.network()


def _inception(
    build: NetworkBuilder,
    width: int,
    name: str,
    source: str,
    direct: int,
    threes: tuple[int, int],
    fives: tuple[int, int],
    pooled: int,
) -> str:
    """Append an inception module's branches, and their concatenation.

    Channels are those of the paper's table; ``threes`` and ``fives`` are (reduced, out): a 1x1
    convolution before the 3x3 one.
    """
    branch1 = _conv(build, width, f"{name}.branch1", source, direct, 1)
    branch2 = _conv(build, width, f"{name}.branch2.0", source, threes[0], 1)
    branch2 = _conv(build, width, f"{name}.branch2.1", branch2, threes[1], 3, padding=1)
    branch3 = _conv(build, width, f"{name}.branch3.0", source, fives[0], 1)
    # The paper: 5x5.
    branch3 = _conv(build, width, f"{name}.branch3.1", branch3, fives[1], 3, padding=1)
    branch4 = build.maxpool(f"{name}.branch4.0", source, 3, stride=1, padding=1, ceil=True)
    branch4 = _conv(build, width, f"{name}.branch4.1", branch4, pooled, 1)
    return build.concat(name, branch1, branch2, branch3, branch4)


def _conv(
    build: NetworkBuilder,
    width: int,
    name: str,
    source: str,
    table: int,
    kernel: int,
    *,
    stride: int = 1,
    padding: int = 0,
) -> str:
    out = table * width // FULL
    x = build.conv(name, source, out, kernel, stride=stride, padding=padding)
    return build.relu(f"{name}.relu", x)
