"""YOLOv8 (Jocher et al., 2023): detection and instance segmentation, five scales of each.

Convolutions bear the names of ultralytics' blocks of convolution, normalisation and SiLU
(``model.0``, ``model.2.m.0.cv1``, ``model.22.cv2.0.2``); ``model.22`` is the head. All that follows
the raw predictions (non-maximum suppression, masks of what it leaves) is not part of the network.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod

from bfpsim.workloads.builder import NetworkBuilder
from bfpsim.workloads.layer import WorkloadError, integer
from bfpsim.workloads.network import Network

# Scale -> depth in thirds, width in quarters, most channels before widths are applied.
_SCALES = {
    "n": (1, 1, 1024),
    "s": (1, 2, 1024),
    "m": (2, 3, 768),
    "l": (3, 4, 512),
    "x": (3, 5, 512),
}
SCALES = tuple(_SCALES)
"""From the smallest to the largest."""

_STRIDE = 32  # the coarsest map's
_BINS = 16  # of the distribution over a box side's distance
_MASKS = 32  # prototypes, and so many coefficients per prediction
_HEAD = "model.22"


def yolov8(scale: str, size: int = 640, channels: int = 3, classes: int = 80) -> Network:
    """Return the detector on ``size`` x ``size`` images of ``channels`` channels, batch 1.

    ``outputs`` gathers, for each of the predictions on three maps (8,400 at 640), its box and its
    score per class. The convolution by fixed weights that turns a box side's distribution into a
    distance (``model.22.dfl``) counts as one: at 640, YOLOv8n has 64 convolutions of 4,371,993,600
    MACs and YOLOv8s 64 of 14,301,312,000. Raises `WorkloadError` for a scale that is none of
    `SCALES`, a size that is no multiple of 32, or a count that is not > 0.
    """
    build = _builder("yolov8", scale, size, channels)
    maps = _pyramid(build, scale)
    return _gathered(build, *_predictions(build, maps, classes))


def yolov8_seg(scale: str, size: int = 640, channels: int = 3, classes: int = 80) -> Network:
    """Return the detector with masks: 32 prototypes, and 32 coefficients for each prediction.

    Prototypes have a quarter of the image's rows and columns. Parameters, and what is raised, as
    of `yolov8`.
    """
    build = _builder("yolov8-seg", scale, size, channels)
    maps = _pyramid(build, scale)
    boxes, scores = _predictions(build, maps, classes)
    coefficients = _coefficients(build, maps)
    prototypes = _prototypes(build, maps[0], _channels(scale)(256))
    return _gathered(build, boxes, scores, coefficients, prototypes)


def _builder(owner: str, scale: str, size: int, channels: int) -> NetworkBuilder:
    if scale not in _SCALES:
        raise WorkloadError(f"{owner}: scale={scale!r} must be one of {', '.join(SCALES)}")
    if integer(owner, "size", size) % _STRIDE:
        raise WorkloadError(f"{owner}: size={size} must be a multiple of {_STRIDE}")
    return NetworkBuilder(owner, (1, size, size, channels))


def _channels(scale: str) -> Callable[[int], int]:
    _, quarters, most = _SCALES[scale]
    return lambda full: min(full, most) * quarters // 4


def _pyramid(build: NetworkBuilder, scale: str) -> tuple[str, str, str]:
    """Append backbone and neck; return the maps of stride 8, 16 and 32 that the head reads."""
    wide, thirds = _channels(scale), _SCALES[scale][0]
    x = _conv(build, "model.0", "input", wide(64), 3, stride=2)
    x = _conv(build, "model.1", x, wide(128), 3, stride=2)
    x = _c2f(build, "model.2", x, wide(128), thirds, residual=True)
    x = _conv(build, "model.3", x, wide(256), 3, stride=2)
    fine = _c2f(build, "model.4", x, wide(256), 2 * thirds, residual=True)
    x = _conv(build, "model.5", fine, wide(512), 3, stride=2)
    middle = _c2f(build, "model.6", x, wide(512), 2 * thirds, residual=True)
    x = _conv(build, "model.7", middle, wide(1024), 3, stride=2)
    x = _c2f(build, "model.8", x, wide(1024), thirds, residual=True)
    coarse = _pooling_pyramid(build, "model.9", x, wide(1024))

    x = build.concat("model.11", _upsample(build, "model.10", coarse), middle)
    middle = _c2f(build, "model.12", x, wide(512), thirds)
    x = build.concat("model.14", _upsample(build, "model.13", middle), fine)
    fine = _c2f(build, "model.15", x, wide(256), thirds)

    x = _conv(build, "model.16", fine, wide(256), 3, stride=2)
    middle = _c2f(build, "model.18", build.concat("model.17", x, middle), wide(512), thirds)
    x = _conv(build, "model.19", middle, wide(512), 3, stride=2)
    coarse = _c2f(build, "model.21", build.concat("model.20", x, coarse), wide(1024), thirds)
    return fine, middle, coarse


def _predictions(build: NetworkBuilder, maps: Sequence[str], classes: int) -> tuple[str, str]:
    """Append the decoupled heads; return boxes (1, predictions, 1, 4) and scores, as many rows."""
    first = build.shape(maps[0])[3]
    box_width = max(16, first // 4, 4 * _BINS)
    class_width = max(first, min(integer("yolov8", "classes", classes), 100))
    sides = _branches(build, f"{_HEAD}.cv2", maps, box_width, 4 * _BINS)
    logits = _branches(build, f"{_HEAD}.cv3", maps, class_width, classes)

    rows = build.shape(sides)[1]
    x = build.host(f"{_HEAD}.sides", "permute", sides, shape=(1, 4, rows, _BINS))
    x = build.host(f"{_HEAD}.softmax", "softmax", x)
    x = build.conv(f"{_HEAD}.dfl", x, 1, 1)
    boxes = build.host(f"{_HEAD}.boxes", "decode_boxes", x, shape=(1, rows, 1, 4))
    return boxes, build.host(f"{_HEAD}.scores", "sigmoid", logits)


def _coefficients(build: NetworkBuilder, maps: Sequence[str]) -> str:
    width = max(build.shape(maps[0])[3] // 4, _MASKS)
    return _branches(build, f"{_HEAD}.cv4", maps, width, _MASKS)


def _prototypes(build: NetworkBuilder, source: str, width: int) -> str:
    name = f"{_HEAD}.proto"
    x = _conv(build, f"{name}.cv1", source, width, 3)
    x = build.transposed(f"{name}.upsample", x, width, 2, stride=2)
    x = _conv(build, f"{name}.cv2", x, width, 3)
    return _conv(build, f"{name}.cv3", x, _MASKS, 1)


def _branches(build: NetworkBuilder, name: str, maps: Sequence[str], width: int, out: int) -> str:
    """Append one branch of three convolutions per map; return all their pixels as tokens."""
    ends = []
    for index, x in enumerate(maps):
        x = _conv(build, f"{name}.{index}.0", x, width, 3)
        x = _conv(build, f"{name}.{index}.1", x, width, 3)
        ends.append(build.conv(f"{name}.{index}.2", x, out, 1))
    rows = sum(build.shape(end)[1] * build.shape(end)[2] for end in ends)
    return build.host(f"{name}.tokens", "concat_tokens", *ends, shape=(1, rows, 1, out))


def _gathered(build: NetworkBuilder, *outputs: str) -> Network:
    elements = sum(prod(build.shape(output)) for output in outputs)
    build.host("outputs", "gather", *outputs, shape=(1, 1, 1, elements))
    return build.network()


def _c2f(
    build: NetworkBuilder, name: str, source: str, out: int, depth: int, *, residual: bool = False
) -> str:
    """Append ultralytics' C2f: of two halves, one goes through ``depth`` bottlenecks; all joined.

    With ``residual`` each bottleneck's input is added to its output.
    """
    half = out // 2
    x = _conv(build, f"{name}.cv1", source, 2 * half, 1)
    shape = (*build.shape(x)[:3], half)
    parts = [build.host(f"{name}.half{index}", "split", x, shape=shape) for index in range(2)]
    for index in range(depth):
        x = _conv(build, f"{name}.m.{index}.cv1", parts[-1], half, 3)
        x = _conv(build, f"{name}.m.{index}.cv2", x, half, 3)
        parts.append(build.add(f"{name}.m.{index}.add", parts[-1], x) if residual else x)
    return _conv(build, f"{name}.cv2", build.concat(f"{name}.concat", *parts), out, 1)


def _pooling_pyramid(build: NetworkBuilder, name: str, source: str, out: int) -> str:
    """Append ultralytics' SPPF: maxima over windows of 5, 9 and 13 pixels, as 5 of 5 of 5."""
    parts = [_conv(build, f"{name}.cv1", source, build.shape(source)[3] // 2, 1)]
    for index in range(3):
        pooled = build.maxpool(f"{name}.m.{index}", parts[-1], 5, stride=1, padding=2)
        parts.append(pooled)
    return _conv(build, f"{name}.cv2", build.concat(f"{name}.concat", *parts), out, 1)


def _upsample(build: NetworkBuilder, name: str, source: str) -> str:
    """Append the nearest neighbour of twice as many rows and columns."""
    N, H, W, C = build.shape(source)
    return build.host(name, "upsample", source, shape=(N, 2 * H, 2 * W, C))


def _conv(
    build: NetworkBuilder, name: str, source: str, out: int, kernel: int, *, stride: int = 1
) -> str:
    x = build.conv(name, source, out, kernel, stride=stride, padding=kernel // 2)
    return build.host(f"{name}.silu", "silu", x)
