"""Mask DINO (Li et al., 2023, arXiv 2206.02777): instance and semantic segmentation, at inference.

Sources. The paper and the authors' repository (github.com/IDEA-Research/MaskDINO): README and
``configs/``, ``maskdino_encoder.py``, ``maskdino_decoder.py``, ``dino_decoder.py``. From the paper:
an encoder of 6 and a decoder of 9 layers of 256 channels, query selection from the encoder's
tokens, masks as the product of query embeddings and pixel embeddings, boxes refined layer by
layer. Everything behind the backbone is marked unverified, with the configuration that fixed it:

- instances: ``coco/instance-segmentation/maskdino_R50_bs16_50ep_3s_dowsample1_2048.yaml`` (levels
  of strides 8 to 64) and its ``swin/`` sibling ``..._4s_dowsample1_2048.yaml`` (strides 4 to 64);
  300 queries, 80 classes, perceptrons of 2048 channels, boxes initialised from masks;
- semantics: ``ade20k/semantic-segmentation/maskdino_R50_bs16_160k_steplr.yaml`` (strides 8 to 32;
  100 learned queries without selection, 151 classes, 1024 channels inside the encoder's
  perceptrons). No configuration of Swin-L on ADE20K is published: ResNet-50's is taken with the
  Swin-L backbone, and 640x640 as in Mask2Former's.

BitQ's figures without quantisation (46.30 mask AP, 48.73 mIoU) are those of the two ResNet-50
models in that README.

What runs: denoising queries belong to training. Of the predictions, those that the result needs:
classes and masks of the last layer (and of the selected queries, whose masks give the first boxes),
a box refinement after each layer. The published code computes some more that only training reads:
classes of every layer, boxes of every encoder token and each layer's boxes a second time; at
800x1088 with ResNet-50 2.8 GMACs. A semantic result is the product of masks, scaled up to the
image, with class probabilities.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from bfpsim.workloads.builder import NetworkBuilder
from bfpsim.workloads.layer import Pair, WorkloadError
from bfpsim.workloads.network import Network
from bfpsim.workloads.networks.deformable import deformable_attention
from bfpsim.workloads.networks.pixel_decoder import PixelDecoder, Pixels, pixel_decoder
from bfpsim.workloads.networks.resnet import resnet50_backbone
from bfpsim.workloads.networks.swin import swin_large
from bfpsim.workloads.networks.transformer import add_and_norm, multi_head_attention, perceptron

Backbone = Literal["resnet50", "swin-large"]

_BACKBONES: dict[str, Callable[[NetworkBuilder], tuple[str, ...]]] = {
    "resnet50": resnet50_backbone,
    "swin-large": swin_large,
}
_HIDDEN = 2048  # channels inside a decoder layer's perceptron
_LAYERS = 9  # of the decoder
_DETECTIONS = 100  # that detectron2 keeps of an image
_REPOSITORY = "github.com/IDEA-Research/MaskDINO"


@dataclass(frozen=True, slots=True)
class _Queries:
    """The decoder's queries: their content, their boxes, and how many."""

    content: str
    boxes: str
    count: int


def mask_dino_instance(
    backbone: Backbone = "resnet50",
    size: Pair = (800, 1088),
    queries: int = 300,
    classes: int = 80,
) -> Network:
    """Return Mask DINO for instances (COCO) on an image of ``size`` rows and columns, batch 1.

    COCO's images are scaled to a shorter side of 800, a longer one of at most 1333, and padded to
    multiples of 32: one of 480x640 becomes 800x1088. Of that size the MACs are 0.97 (ResNet-50)
    and 1.01 (Swin-L) of the README's 286 and 1326 GFLOPs, a mean over images that it does not
    name. Raises `WorkloadError` for another backbone or sizes that are not multiples of 32.
    """
    build = _builder("mask-dino-instance", backbone, size)
    first = 1 if backbone == "resnet50" else 0
    pixels = pixel_decoder(
        build, _BACKBONES[backbone](build), PixelDecoder(first, extra=1, hidden=2048)
    )
    selected = _select(build, pixels, queries, classes)
    x, boxes = _decoder(build, pixels, selected)
    x = build.host("head.norm", "layer_norm", x)
    scores = build.linear("head.classes", x, classes)
    moves = perceptron(build, "head.boxes", x, 256, 256, 4)
    boxes = build.host("head.boxes.refine", "refine_boxes", boxes, moves)
    masks = _masks(build, "head.masks", x, pixels, queries)
    shape = (1, *size, _DETECTIONS)
    build.host("instances", "instance_inference", scores, boxes, masks, shape=shape)
    config = "maskdino_R50_bs16_50ep_3s_dowsample1_2048.yaml"
    if backbone == "swin-large":
        config = "swin/maskdino_R50_bs16_50ep_4s_dowsample1_2048.yaml"
    return _marked(build, f"{_REPOSITORY}, configs/coco/instance-segmentation/{config}")


def mask_dino_semantic(
    backbone: Backbone = "resnet50",
    size: Pair = (512, 512),
    queries: int = 100,
    classes: int = 150,
) -> Network:
    """Return Mask DINO for semantic segmentation (ADE20K) on one crop of ``size``, batch 1.

    Crops are 512x512 with ResNet-50 and 640x640 with Swin-L. Raises `WorkloadError` for another
    backbone or sizes that are not multiples of 32.
    """
    build = _builder("mask-dino-semantic", backbone, size)
    pixels = pixel_decoder(build, _BACKBONES[backbone](build), PixelDecoder())
    learned = _Queries(
        build.host("queries.content", "parameter", shape=(1, queries, 1, 256)),
        build.host("queries.boxes", "parameter", shape=(1, queries, 1, 4)),
        queries,
    )
    x, _ = _decoder(build, pixels, learned)
    x = build.host("head.norm", "layer_norm", x)
    scores = build.linear("head.classes", x, classes + 1)  # one more: nothing
    shape = (1, queries, 1, classes)
    scores = build.host("head.classes.softmax", "softmax", scores, shape=shape)
    masks = _masks(build, "head.masks", x, pixels, queries)
    masks = build.host("head.masks.upsample", "upsample", masks, shape=(1, *size, queries))
    masks = build.host("head.masks.sigmoid", "sigmoid", masks)
    build.matmul("semantics", masks, scores, classes)
    source = (
        f"{_REPOSITORY}, configs/ade20k/semantic-segmentation/maskdino_R50_bs16_160k_steplr.yaml"
    )
    if backbone == "swin-large":
        source += "; with Swin-L no configuration is published, this head is ResNet-50's"
    return _marked(build, source)


def _builder(name: str, backbone: str, size: Pair) -> NetworkBuilder:
    if backbone not in _BACKBONES:
        allowed = ", ".join(map(repr, _BACKBONES))
        raise WorkloadError(f"{name}: backbone={backbone!r} must be one of {allowed}")
    if any(extent < 1 or extent % 32 for extent in size):
        raise WorkloadError(f"{name}: size={size} must be positive multiples of 32")
    return NetworkBuilder(name, (1, *size, 3))


def _marked(build: NetworkBuilder, source: str) -> Network:
    """Mark all that the configuration fixed, which is all behind the backbone."""
    network = build.network()
    for part in ("pixels.", "selection.", "queries.", "decoder", "head.", "semantics"):
        if any(node.name.startswith(part) for node in network.nodes):
            build.mark_unverified(part, source)
    return build.network()


def _select(build: NetworkBuilder, pixels: Pixels, queries: int, classes: int) -> _Queries:
    """Append the choice of the tokens of best class as queries, and of their masks' boxes."""
    x = build.linear("selection.output", pixels.memory, 256)
    x = build.host("selection.norm", "layer_norm", x)
    scores = build.linear("selection.classes", x, classes)
    best = build.host("selection.best", "top_k", scores, shape=(1, queries, 1, 1))
    content = build.host("selection.content", "gather", x, best, shape=(1, queries, 1, 256))
    normed = build.host("selection.content.norm", "layer_norm", content)
    masks = _masks(build, "selection.masks", normed, pixels, queries)
    boxes = build.host("selection.boxes", "boxes_of_masks", masks, shape=(1, queries, 1, 4))
    return _Queries(content, boxes, queries)


def _masks(build: NetworkBuilder, name: str, x: str, pixels: Pixels, queries: int) -> str:
    """Append the queries' mask embeddings and their products with each pixel's features."""
    embeddings = perceptron(build, f"{name}.embed", x, 256, 256, 256)
    return build.matmul(name, pixels.masks, embeddings, queries)


def _decoder(build: NetworkBuilder, pixels: Pixels, queries: _Queries) -> tuple[str, str]:
    """Append the decoder; return the queries' content and their boxes before the last layer."""
    x, boxes = queries.content, queries.boxes
    for number in range(_LAYERS):
        name = f"decoder{number}"
        if number:
            moves = perceptron(build, f"{name}.boxes", x, 256, 256, 4)
            boxes = build.host(f"{name}.boxes.refine", "refine_boxes", boxes, moves)
        x = _decoder_layer(build, name, x, boxes, pixels)
    return x, boxes


def _decoder_layer(build: NetworkBuilder, name: str, x: str, boxes: str, pixels: Pixels) -> str:
    """Append self-attention, deformable attention to the memory, and a perceptron."""
    N, count, _, width = build.shape(x)
    waves = build.host(f"{name}.sine", "sine_embedding", boxes, shape=(N, count, 1, 2 * width))
    place = perceptron(build, f"{name}.place", waves, width, width)
    placed = build.add(f"{name}.query1", x, place)
    y = multi_head_attention(build, f"{name}.self", placed, placed, x, heads=8)
    x = add_and_norm(build, f"{name}.after_self", x, y)
    y = deformable_attention(
        build,
        f"{name}.cross",
        build.add(f"{name}.query2", x, place),
        pixels.memory,
        boxes,
        heads=8,
        levels=len(pixels.sizes),
        points=4,
    )
    x = add_and_norm(build, f"{name}.after_cross", x, y)
    y = perceptron(build, f"{name}.mlp", x, _HIDDEN, width)
    return add_and_norm(build, f"{name}.after_mlp", x, y)
