"""Cascade Mask R-CNN on ViTDet's feature pyramid (Li et al., 2022, arXiv 2203.16527), at inference.

Known from ViTDet's paper (section 3 and appendix A.2): maps of strides 4 to 32 from the last map
alone, two hidden convolutions in the proposal network, four convolutions and a linear layer in the
box heads, layer normalisation. From code (github.com/facebookresearch/detectron2,
``modeling/backbone/vit.py``, ``configs/common/models/mask_rcnn_fpn.py``, ``roi_heads``): channels,
three anchors, 1000 proposals, regions of 7x7 and 14x14, 100 detections that get masks, boxes
regressed for all classes alike, scores averaged over the three stages.

Regions are samples: (proposals, 7, 7, 256). Pooling a region is the host's ``roi_align``: it takes
as many samples as a region is large; its multiply-accumulates are counted with 2x2 samples of 4
taps per output, which a region of its level's canonical size has.
"""

from __future__ import annotations

from collections.abc import Sequence

from bfpsim.workloads.builder import NetworkBuilder

_CHANNELS = 256
_ANCHORS = 3
_STAGES = 3
_PROPOSALS = 1000
_DETECTIONS = 100
_MACS_PER_POOLED = 2 * 2 * 4


def cascade_mask_rcnn(build: NetworkBuilder, source: str, classes: int) -> str:
    """Append pyramid, proposals, three stages of boxes, and masks; return the detections' node.

    source: the backbone's only map, of stride 16
    Its rows and columns are even.
    """
    pyramid = _pyramid(build, source)
    boxes = _proposals(build, pyramid)
    scores = []
    for stage in range(_STAGES):
        score, moves = _box_head(build, f"box{stage}", pyramid[:4], boxes, classes)
        scores.append(score)
        boxes = build.host(f"box{stage}.refine", "refine_boxes", boxes, moves)
    N = build.shape(source)[0] * _DETECTIONS
    detections = build.host(
        "detections", "non_maximum_suppression", *scores, boxes, shape=(N, 1, 1, 6)
    )
    masks = _mask_head(build, pyramid[:4], detections, classes)
    _, H, W, _ = build.shape(masks)
    return build.host("instances", "instance_inference", detections, masks, shape=(N, H, W, 1))


def _pyramid(build: NetworkBuilder, source: str) -> list[str]:
    """Append maps of strides 4, 8, 16, 32 and 64."""
    width = build.shape(source)[3]
    up = build.transposed("pyramid2.up0", source, width // 2, 2, stride=2)
    up = build.host("pyramid2.up0.norm", "layer_norm", up)
    up = build.host("pyramid2.up0.gelu", "gelu", up)
    scaled = [
        build.transposed("pyramid2.up1", up, width // 4, 2, stride=2),
        build.transposed("pyramid3.up", source, width // 2, 2, stride=2),
        source,
        build.maxpool("pyramid5.down", source, 2, stride=2),
    ]
    maps = []
    for level, x in enumerate(scaled, start=2):
        x = build.conv(f"pyramid{level}.lateral", x, _CHANNELS, 1)
        x = build.host(f"pyramid{level}.lateral.norm", "layer_norm", x)
        x = build.conv(f"pyramid{level}.output", x, _CHANNELS, 3, padding=1)
        maps.append(build.host(f"pyramid{level}.output.norm", "layer_norm", x))
    return [*maps, build.maxpool("pyramid6", maps[-1], 1, stride=2)]


def _proposals(build: NetworkBuilder, pyramid: Sequence[str]) -> str:
    """Append the proposal network, whose filters all levels share; return the boxes."""
    outputs = []
    for level, x in enumerate(pyramid, start=2):
        for number in range(2):
            x = build.conv(f"proposals{level}.conv{number}", x, _CHANNELS, 3, padding=1)
            x = build.relu(f"proposals{level}.relu{number}", x)
        outputs.append(build.conv(f"proposals{level}.objectness", x, _ANCHORS, 1))
        outputs.append(build.conv(f"proposals{level}.deltas", x, 4 * _ANCHORS, 1))
    N = build.shape(pyramid[0])[0] * _PROPOSALS
    return build.host("proposals", "non_maximum_suppression", *outputs, shape=(N, 1, 1, 4))


def _box_head(
    build: NetworkBuilder, name: str, pyramid: Sequence[str], boxes: str, classes: int
) -> tuple[str, str]:
    """Append one stage; return its class scores and its moves of the boxes."""
    x = _pooled(build, f"{name}.pool", pyramid, boxes, 7)
    x = _convolutions(build, name, x)
    N, H, W, C = build.shape(x)
    x = build.host(f"{name}.flatten", "reshape", x, shape=(N, 1, 1, H * W * C))
    x = build.relu(f"{name}.fc.relu", build.linear(f"{name}.fc", x, 1024))
    scores = build.linear(f"{name}.classes", x, classes + 1)  # one more: background
    return scores, build.linear(f"{name}.moves", x, 4)


def _mask_head(build: NetworkBuilder, pyramid: Sequence[str], boxes: str, classes: int) -> str:
    x = _pooled(build, "mask.pool", pyramid, boxes, 14)
    x = _convolutions(build, "mask", x)
    x = build.transposed("mask.up", x, _CHANNELS, 2, stride=2)
    x = build.relu("mask.up.relu", x)
    return build.conv("mask.classes", x, classes, 1)


def _convolutions(build: NetworkBuilder, name: str, x: str) -> str:
    """Append four 3x3 convolutions, normalised."""
    for number in range(4):
        x = build.conv(f"{name}.conv{number}", x, _CHANNELS, 3, padding=1)
        x = build.host(f"{name}.norm{number}", "layer_norm", x)
        x = build.relu(f"{name}.relu{number}", x)
    return x


def _pooled(
    build: NetworkBuilder, name: str, pyramid: Sequence[str], boxes: str, extent: int
) -> str:
    """Append regions of ``extent`` rows and columns, each from the level that suits its size."""
    count = build.shape(boxes)[0]
    shape = (count, extent, extent, _CHANNELS)
    macs = count * extent * extent * _CHANNELS * _MACS_PER_POOLED
    return build.host(name, "roi_align", *pyramid, boxes, shape=shape, macs=macs)
