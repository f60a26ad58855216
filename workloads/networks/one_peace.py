"""ONE-PEACE's vision branch (Wang et al., 2023, arXiv 2305.11172) for detection and segmentation.

Sources. The paper and the authors' repository (github.com/OFA-Sys/ONE-PEACE, ``one_peace_vision``).
From the paper and the README's model card: 40 layers of 1536 channels, 24 heads, perceptrons of
6144 channels with GeGLU, layer normalisation inside attention and perceptron too (sub-LN), layer
scale, patches of 16x16 by a stem of convolutions (hMLP), 1.5 billion parameters. What their code
fixed is marked unverified:

- the stem's channels (``det/models/onepeace.py``);
- detection (``det/configs/onepeace/cascade_mask_rcnn_vitdet_50ep.py``): an image of 1280x1280,
  attention in windows of 16x16 but in every fourth layer, relative positions decomposed by rows
  and columns, and the heads (`workloads.networks.cascade`);
- segmentation (``seg/configs/ade20k/mask2former_onepeace_adapter_g_896_40k_ade20k_ss.py``): crops
  of 896x896 at a stride of 512, of which one is a run here, a class token, an adapter, and a head
  of 1024 channels with 200 queries. ``onepeace_adapter.py`` was read in a copy of the repository
  (github.com/rene-nowo/ONE-PEACE).

Relative position biases are the host's, part of the softmax; those of detection are computed from
the queries and counted: tokens x (rows + columns) x channels.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from bfpsim.workloads.builder import NetworkBuilder
from bfpsim.workloads.layer import WorkloadError
from bfpsim.workloads.network import Network
from bfpsim.workloads.networks.cascade import cascade_mask_rcnn
from bfpsim.workloads.networks.mask2former import mask2former
from bfpsim.workloads.networks.pixel_decoder import PixelDecoder, pixel_decoder
from bfpsim.workloads.networks.swin import partition
from bfpsim.workloads.networks.transformer import attention
from bfpsim.workloads.networks.vit_adapter import Adapter, vit_adapter

_WIDTH = 1536
_HIDDEN = 6144
_HEADS = 24
_LAYERS = 40
_PATCH = 16
_WINDOW = 16
_VISION = "github.com/OFA-Sys/ONE-PEACE, one_peace_vision"
_CODE = f"{_VISION}/det/models/onepeace.py"
_DETECTION = f"{_VISION}/det/configs/onepeace/cascade_mask_rcnn_vitdet_50ep.py"
_SEGMENTATION = f"{_VISION}/seg/configs/ade20k/mask2former_onepeace_adapter_g_896_40k_ade20k_ss.py"

Attend = Callable[[NetworkBuilder, str, str], str]
"""Appends attention under a name behind a node; returns its output, shaped as its input."""


def one_peace_detection(size: int = 1280, classes: int = 80) -> Network:
    """Return ONE-PEACE for detection (COCO) on ``size`` x ``size`` pixels, batch 1.

    Raises `WorkloadError` for a size that is not a multiple of 256: of whole windows.
    """
    _check("one-peace-detection", size, _PATCH * _WINDOW)
    build = NetworkBuilder("one-peace-detection", (1, size, size, 3))
    x = _stem(build)
    for number in range(_LAYERS):
        whole = number % 4 == 3  # every fourth layer sees the whole map
        window = size // _PATCH if whole else _WINDOW
        x = _layer(build, f"layer{number}", x, partial(_attend_windows, window=window))
        build.mark_unverified(f"layer{number}.attention.", _DETECTION)
    cascade_mask_rcnn(build, x, classes)
    for part in ("pyramid", "proposals", "box", "detections", "mask", "instances"):
        build.mark_unverified(part, _DETECTION)
    return build.network()


def one_peace_segmentation(size: int = 896, classes: int = 150) -> Network:
    """Return ONE-PEACE for semantic segmentation (ADE20K) on ``size`` x ``size`` pixels, batch 1.

    Raises `WorkloadError` for a size that is not a multiple of 32.
    """
    _check("one-peace-segmentation", size, 2 * _PATCH)
    build = NetworkBuilder("one-peace-segmentation", (1, size, size, 3))
    x = _stem(build)
    side = size // _PATCH
    x = build.host("stem.tokens", "reshape", x, shape=(1, side * side, 1, _WIDTH))
    build.host("class0", "parameter", shape=(1, 1, 1, _WIDTH))
    maps = vit_adapter(build, "input", x, _quarter, Adapter(_HEADS, _WIDTH // 2, _WIDTH // 4))
    pixels = pixel_decoder(build, maps, PixelDecoder(channels=1024, hidden=4096, heads=32))
    mask2former(build, pixels, queries=200, classes=classes, heads=32, hidden=4096)
    for part in ("adapter", "pixels", "decoder"):
        build.mark_unverified(part, _SEGMENTATION)
    return build.network()


def _check(name: str, size: int, multiple: int) -> None:
    if size < 1 or size % multiple:
        raise WorkloadError(f"{name}: size={size} must be a positive multiple of {multiple}")


def _stem(build: NetworkBuilder) -> str:
    """Append the convolutions that make a token of each 16x16 pixels, and their positions."""
    x = build.conv("stem.conv0", "input", _WIDTH // 4, 4, stride=4)
    for number, channels in ((1, _WIDTH // 4), (2, _WIDTH)):
        x = build.host(f"stem.norm{number}", "layer_norm", x)
        x = build.host(f"stem.gelu{number}", "gelu", x)
        x = build.conv(f"stem.conv{number}", x, channels, 2, stride=2)
    x = build.host("stem.position", "add_parameter", x)
    build.mark_unverified("stem", _CODE)
    return x


def _layer(build: NetworkBuilder, name: str, source: str, attend: Attend) -> str:
    x = build.host(f"{name}.norm1", "layer_norm", source)
    x = attend(build, f"{name}.attention", x)
    x = build.host(f"{name}.scale1", "mul", x)
    source = build.add(f"{name}.add1", source, x)
    x = build.host(f"{name}.norm2", "layer_norm", source)
    gate = build.host(f"{name}.gelu", "gelu", build.linear(f"{name}.gate", x, _HIDDEN))
    x = build.host(f"{name}.gated", "mul", gate, build.linear(f"{name}.up", x, _HIDDEN))
    x = build.host(f"{name}.norm3", "layer_norm", x)
    x = build.linear(f"{name}.down", x, _WIDTH)
    x = build.host(f"{name}.scale2", "mul", x)
    return build.add(f"{name}.add2", source, x)


def _attend_windows(build: NetworkBuilder, name: str, source: str, window: int) -> str:
    """Append attention inside windows of a map, with decomposed relative positions."""
    x = partition(build, f"{name}.windows", source, window)
    samples, count, _, _ = build.shape(x)
    q, k, v = _projections(build, name, x)
    places = build.host(
        f"{name}.places",
        "relative_position",
        q,
        shape=(samples, count, 1, _HEADS * 2 * window),
        macs=samples * count * 2 * window * _WIDTH,
    )
    x = _output(build, name, attention(build, name, q, k, v, _HEADS, places))
    return build.host(f"{name}.unwindow", "window_reverse", x, shape=build.shape(source))


def _attend_all(build: NetworkBuilder, name: str, source: str) -> str:
    """Append attention among all tokens."""
    q, k, v = _projections(build, name, source)
    return _output(build, name, attention(build, name, q, k, v, _HEADS))


def _projections(build: NetworkBuilder, name: str, source: str) -> tuple[str, str, str]:
    q, k, v = (build.linear(f"{name}.{part}", source, _WIDTH) for part in "qkv")
    return q, k, v


def _output(build: NetworkBuilder, name: str, source: str) -> str:
    x = build.host(f"{name}.norm", "layer_norm", source)
    return build.linear(f"{name}.out", x, _WIDTH)


def _quarter(build: NetworkBuilder, patches: str, number: int) -> str:
    """Append a quarter of the layers, over the patches and the class token before it."""
    N, count, _, width = build.shape(patches)
    both = (N, count + 1, 1, width)
    x = build.host(f"joined{number}", "concat_tokens", f"class{number}", patches, shape=both)
    for layer in range(number * _LAYERS // 4, (number + 1) * _LAYERS // 4):
        x = _layer(build, f"layer{layer}", x, _attend_all)
    if number < 3:
        build.host(f"class{number + 1}", "split", x, shape=(N, 1, 1, width))
    return build.host(f"patches{number}", "split", x, shape=(N, count, 1, width))
