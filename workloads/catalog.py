"""The networks that are shipped by name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

from bfpsim.wording import hint, same
from bfpsim.workloads.layer import WorkloadError
from bfpsim.workloads.network import Network
from bfpsim.workloads.networks.convnext import convnext_large
from bfpsim.workloads.networks.googlenet import googlenet
from bfpsim.workloads.networks.mask_dino import mask_dino_instance, mask_dino_semantic
from bfpsim.workloads.networks.mobilenet import mobilenetv2
from bfpsim.workloads.networks.one_peace import one_peace_detection, one_peace_segmentation
from bfpsim.workloads.networks.resnet import resnet18, resnet50
from bfpsim.workloads.networks.vit import deit_base, deit_small, deit_tiny, pooled_vit, vit_b16
from bfpsim.workloads.networks.yolov8 import SCALES, yolov8, yolov8_seg


def names() -> tuple[str, ...]:
    """Return the shipped networks' names."""
    return tuple(_NETWORKS)


def load_workload(name: str) -> Network:
    """Return the shipped network of that name, whatever its case, batch 1.

    Raises `WorkloadError`, with the nearest name and those there are, for any other.
    """
    known = name if name in _NETWORKS else same(str(name), _NETWORKS)
    if known is None:
        raise WorkloadError(
            f"workload {name!r} is not shipped{hint(name, _NETWORKS)}; "
            f"allowed: {', '.join(_NETWORKS)}"
        )
    return replace(_NETWORKS[known](), name=known)


def _googlenet_fashion() -> Network:
    return googlenet(width=16, size=28, channels=1, classes=10, stem="small")


def _mobilenetv2_fashion() -> Network:
    return mobilenetv2("paper", width=16, size=28, channels=1, classes=10, stem="small")


def _resnet18_fashion() -> Network:
    return resnet18(width=16, size=28, channels=1, classes=10, stem="small")


_NETWORKS: dict[str, Callable[[], Network]] = {
    "convnext-l": convnext_large,
    "deit-base": deit_base,
    "deit-small": deit_small,
    "deit-tiny": deit_tiny,
    "googlenet": googlenet,
    "googlenet-fashion": _googlenet_fashion,
    "mask-dino-r50-instance": mask_dino_instance,
    "mask-dino-r50-semantic": mask_dino_semantic,
    "mask-dino-swinl-instance": partial(mask_dino_instance, "swin-large"),
    "mask-dino-swinl-semantic": partial(mask_dino_semantic, "swin-large", (640, 640)),
    "mobilenetv2": partial(mobilenetv2, None),
    "mobilenetv2-eca": mobilenetv2,
    "mobilenetv2-fashion": _mobilenetv2_fashion,
    "one-peace-detection": one_peace_detection,
    "one-peace-segmentation": one_peace_segmentation,
    "resnet18": resnet18,
    "resnet18-fashion": _resnet18_fashion,
    "resnet50": resnet50,
    "vit-b16": vit_b16,
    "vit-fashion": pooled_vit,
    **{f"yolov8{scale}": partial(yolov8, scale) for scale in SCALES},
    **{f"yolov8{scale}-seg": partial(yolov8_seg, scale) for scale in SCALES},
}
