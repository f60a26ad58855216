"""MobileNetV2 (Sandler et al., 2018), with efficient channel attention (Wang et al., 2020).

Layers are named by what they do: ``stem``, ``blocks.N.expand``, ``.depthwise``, ``.project`` and
``.eca.conv``, ``head``, ``fc``.
"""

from __future__ import annotations

from typing import Literal

from bfpsim.workloads.builder import NetworkBuilder
from bfpsim.workloads.layer import WorkloadError, integer
from bfpsim.workloads.network import Network
from bfpsim.workloads.networks.resnet import Stem

# Expansion t, output channels c, repeats n, stride of the first s: table 2 of the paper.
STAGES = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)
STEM = 32
HEAD = 1280
# The first c whose attention mixes neighbours: 3 channels, and only one before.
_WIDE_ATTENTION = 96

Kernels = Literal["code", "paper"]
"""Who sizes the attention's kernels: its authors' code, or Eq. 12 of their paper."""


def mobilenetv2(
    eca: Kernels | None = "code",
    width: int = STEM,
    size: int = 224,
    channels: int = 3,
    classes: int = 1000,
    stem: Stem = "imagenet",
) -> Network:
    """Return MobileNetV2 on ``size`` x ``size`` images of ``channels`` channels, batch 1.

    ``width`` is the stem's channels; all others, the head's too, are the paper's times width / 32.
    The ``small`` stem has a stride of 1, for images as small as 28x28.

    With ``eca`` each block ends in channel attention, before its sum, as in its authors' code
    (github.com/BangguWu/ECANet, ``models/eca_mobilenetv2.py``): the channels' means, a convolution
    across them, a sigmoid, a product. ``eca`` says where the convolution's kernels are from. That
    ``code`` has kernels of 1 below the table's 96 channels and of 3 from there on (an earlier state
    of it: of 1 at 96, too). Eq. 12 of the ``paper`` (arXiv 1910.03151) takes the odd number nearest
    to log2(C) / 2 + 1 / 2 for a block's own C channels: at full width 3 up to 96 and 5 above.

    At 224 the 52 convolutions have 299,494,272 MACs. Raises `WorkloadError` for a width that is no
    multiple of 4, a stem or kernels of another name, or a count that is not > 0.
    """
    if integer("mobilenetv2", "width", width) % 4:
        raise WorkloadError(f"mobilenetv2: width={width} must be a multiple of 4")
    if stem not in ("imagenet", "small"):
        raise WorkloadError(f"mobilenetv2: stem={stem!r} must be 'imagenet' or 'small'")
    build = NetworkBuilder("mobilenetv2", (1, size, size, channels))
    x = _conv(build, "stem", "input", width, 3, stride=1 if stem == "small" else 2)
    for number, (expansion, table, stride) in enumerate(_blocks()):
        name = f"blocks.{number}"
        out = table * width // STEM
        y = _inverted_bottleneck(build, name, x, out, expansion, stride)
        if eca is not None:
            y = _attention(build, f"{name}.eca", y, _attention_kernel(eca, table, out))
        same = build.shape(y) == build.shape(x)
        x = build.add(f"{name}.add", y, x) if same else y
    x = _conv(build, "head", x, HEAD * width // STEM, 1)
    build.linear("fc", build.avgpool("avgpool", x), classes)
    return build.network()


def _blocks() -> list[tuple[int, int, int]]:
    """Return each block's expansion, output channels in the table, and stride."""
    return [
        (expansion, out, stride if index == 0 else 1)
        for expansion, out, repeats, stride in STAGES
        for index in range(repeats)
    ]


def _inverted_bottleneck(
    build: NetworkBuilder, name: str, source: str, out: int, expansion: int, stride: int
) -> str:
    x = source
    wide = build.shape(source)[3] * expansion
    if expansion > 1:
        x = _conv(build, f"{name}.expand", x, wide, 1)
    x = _conv(build, f"{name}.depthwise", x, wide, 3, stride=stride, groups=wide)
    return build.conv(f"{name}.project", x, out, 1)


def _attention_kernel(eca: Kernels, table: int, channels: int) -> int:
    match eca:
        case "code":
            return 3 if table >= _WIDE_ATTENTION else 1
        case "paper":
            # floor((log2(C) + 1) / 2), and the next number if that is even.
            return channels.bit_length() // 2 | 1
        case _:
            raise WorkloadError(f"mobilenetv2: eca={eca!r} must be 'code', 'paper' or None")


def _attention(build: NetworkBuilder, name: str, source: str, kernel: int) -> str:
    N, _, _, channels = build.shape(source)
    x = build.avgpool(f"{name}.avgpool", source)
    x = build.host(f"{name}.row", "reshape", x, shape=(N, 1, channels, 1))
    x = build.conv1d(f"{name}.conv", x, 1, kernel, padding=kernel // 2)
    x = build.host(f"{name}.sigmoid", "sigmoid", x)
    x = build.host(f"{name}.channels", "reshape", x, shape=(N, 1, 1, channels))
    return build.host(f"{name}.mul", "mul", source, x)


def _conv(
    build: NetworkBuilder,
    name: str,
    source: str,
    out: int,
    kernel: int,
    *,
    stride: int = 1,
    groups: int = 1,
) -> str:
    x = build.conv(name, source, out, kernel, stride=stride, padding=kernel // 2, groups=groups)
    return build.host(f"{name}.relu6", "relu6", x)
