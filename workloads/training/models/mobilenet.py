"""MobileNetV2 (Sandler et al., 2018) with channel attention (ECA), for 28x28 images."""

from __future__ import annotations

import math
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from bfpsim.workloads.networks.mobilenet import HEAD, STAGES, STEM
from bfpsim.workloads.training.models import check_width, start_convolutions


class Eca(nn.Module):
    """Efficient channel attention: a channel's mean and its neighbours' tell how much of it stays.

    Wang et al. (2020, arXiv 1910.03151): a 1-D convolution across the channels' means, its kernel
    the odd number that `eca_kernel` adapts to the channels, then a sigmoid, then scaling.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        kernel = eca_kernel(channels)
        self.conv = nn.Conv1d(1, 1, kernel, padding=kernel // 2, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return (N, C, H, W), each channel scaled by a number in 0..1."""
        mean = x.mean((2, 3)).unsqueeze(1)
        attention = torch.sigmoid(self.conv(mean)).squeeze(1)
        return x * attention.unsqueeze(-1).unsqueeze(-1)


def eca_kernel(channels: int) -> int:
    """Return Eq. 12 of the paper, with gamma 2 and b 1: log2(C)/2 + 1/2, cut, made odd upwards.

    The published MobileNetV2 has 1 for up to 96 channels and 3 beyond, its ResNets this rule.
    """
    floor = int((math.log2(channels) + 1) / 2)
    return floor if floor % 2 else floor + 1


class InvertedResidual(nn.Module):
    """Expand by a 1x1 convolution, filter each channel alone, project by a 1x1 one; attend; add.

    Attention stands at the end, as in the code that Wang et al. published: after the projection's
    normalisation, before the sum.
    """

    def __init__(self, channels: int, out: int, expansion: int, stride: int) -> None:
        super().__init__()
        wide = channels * expansion
        self.residual = stride == 1 and channels == out
        self.expand: nn.Conv2d | None = None
        if expansion > 1:
            self.expand = nn.Conv2d(channels, wide, 1, bias=False)
            self.expand_bn = nn.BatchNorm2d(wide)
        self.depthwise = nn.Conv2d(wide, wide, 3, stride, 1, groups=wide, bias=False)
        self.depthwise_bn = nn.BatchNorm2d(wide)
        self.project = nn.Conv2d(wide, out, 1, bias=False)
        self.project_bn = nn.BatchNorm2d(out)
        self.eca = Eca(out)

    def forward(self, x: Tensor) -> Tensor:
        """Return (N, out, H / stride, W / stride)."""
        y = x
        if self.expand is not None:
            y = F.relu6(self.expand_bn(self.expand(y)))
        y = F.relu6(self.depthwise_bn(self.depthwise(y)))
        y = self.eca(self.project_bn(self.project(y)))
        return x + y if self.residual else cast(Tensor, y)


class MobileNetV2Eca(nn.Module):
    """MobileNetV2 with ECA in each of its 17 blocks; ``width`` is the stem's channels.

    All channels are those of the paper's table times width / 32, and all strides the paper's but
    the stem's, 1 instead of 2: the maps are 28, 14, 7, 4 and 2 pixels wide. Raises `WorkloadError`
    for a width that is no multiple of 4.
    """

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        check_width("mobilenetv2", width, 4)

        def channels(full: int) -> int:
            return full * width // STEM

        x = channels(STEM)
        self.stem = nn.Conv2d(1, x, 3, 1, 1, bias=False)
        self.stem_bn = nn.BatchNorm2d(x)
        self.blocks = nn.Sequential()
        for expansion, out, count, first_stride in STAGES:
            for index in range(count):
                stride = first_stride if index == 0 else 1
                self.blocks.append(InvertedResidual(x, channels(out), expansion, stride))
                x = channels(out)
        self.head = nn.Conv2d(x, channels(HEAD), 1, bias=False)
        self.head_bn = nn.BatchNorm2d(channels(HEAD))
        self.fc = nn.Linear(channels(HEAD), 10)
        start_convolutions(self)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (N, 10) for images (N, 1, 28, 28)."""
        x = self.blocks(F.relu6(self.stem_bn(self.stem(images))))
        x = F.relu6(self.head_bn(self.head(x)))
        return cast(Tensor, self.fc(x.mean((2, 3))))
