"""The families of networks that can be trained, each with its recipe."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import nn
from torch.optim import Optimizer

from bfpsim.workloads.training.models.googlenet import GoogLeNet
from bfpsim.workloads.training.models.mobilenet import MobileNetV2Eca
from bfpsim.workloads.training.models.resnet import ResNet18
from bfpsim.workloads.training.models.vit import ViT


@dataclass(frozen=True, slots=True)
class Recipe:
    """How a network is trained: its optimiser, and a learning rate that rises and falls once.

    The rate rises to ``peak`` in the first ``warm_up`` share of the steps, then falls as a cosine.
    """

    optimiser: Callable[[Iterable[nn.Parameter], float], Optimizer]
    peak: float
    warm_up: float


@dataclass(frozen=True, slots=True)
class Family:
    """A network at any width, which ``build(width)`` makes; ``width``, ``epochs`` as shipped."""

    build: Callable[[int], nn.Module]
    width: int
    epochs: int
    recipe: Recipe


def _sgd(parameters: Iterable[nn.Parameter], rate: float) -> Optimizer:
    return torch.optim.SGD(parameters, lr=rate, momentum=0.9, weight_decay=5e-4, nesterov=True)


def _adamw(parameters: Iterable[nn.Parameter], rate: float) -> Optimizer:
    return torch.optim.AdamW(parameters, lr=rate, weight_decay=0.05)


_CONVOLUTIONAL = Recipe(_sgd, peak=0.1, warm_up=0.25)
_TRANSFORMER = Recipe(_adamw, peak=2e-3, warm_up=0.1)

FAMILIES = {
    "resnet18": Family(ResNet18, 16, 10, _CONVOLUTIONAL),
    "mobilenetv2": Family(MobileNetV2Eca, 16, 6, _CONVOLUTIONAL),
    "googlenet": Family(GoogLeNet, 16, 10, _CONVOLUTIONAL),
    "vit": Family(ViT, 64, 10, _TRANSFORMER),
}
