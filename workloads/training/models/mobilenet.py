"""MobileNetV2 (Sandler et al., 2018) with channel attention (ECA), for 28x28 images."""

from __future__ import annotations

import math
from typing import cast

import torch
from torch import Tensor, nn

from workloads.training.models.convolution import ConvNorm, scaled, start_convolutions

# Expansion, output channels at width 32, blocks, stride of the first: table 2 of the paper, but
# for a stride of 1 in the stem and in the fourth row, which leaves 4x4 of 28x28 pixels.
STAGES = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 1),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)
STEM = 32
HEAD = 1280


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
    """Return Eq. 12 of the paper, with gamma 2 and b 1: log2(C)/2 + 1/2, made odd upwards."""
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
        self.expand: nn.Module = nn.Identity()
        if expansion > 1:
            self.expand = ConvNorm(channels, wide, 1, act=nn.ReLU6())
        self.depthwise = ConvNorm(wide, wide, 3, stride=stride, groups=wide, act=nn.ReLU6())
        self.project = ConvNorm(wide, out, 1)
        self.eca = Eca(out)

    def forward(self, x: Tensor) -> Tensor:
        """Return (N, out, H / stride, W / stride)."""
        y = self.eca(self.project(self.depthwise(self.expand(x))))
        return x + y if self.residual else cast(Tensor, y)


class MobileNetV2Eca(nn.Module):
    """MobileNetV2 with ECA in each of its 17 blocks; ``width`` is the stem's channels.

    All channels are those of the paper's table times width / 32. Raises `WorkloadError` for a
    width that is no multiple of 4.
    """

    def __init__(self, width: int = 16) -> None:
        super().__init__()

        def channels(full: int) -> int:
            return scaled("mobilenetv2", full, width, STEM)

        x = channels(STEM)
        self.stem = ConvNorm(1, x, 3, act=nn.ReLU6())
        self.blocks = nn.Sequential()
        for expansion, out, count, first_stride in STAGES:
            for index in range(count):
                stride = first_stride if index == 0 else 1
                self.blocks.append(InvertedResidual(x, channels(out), expansion, stride))
                x = channels(out)
        self.head = ConvNorm(x, channels(HEAD), 1, act=nn.ReLU6())
        self.fc = nn.Linear(channels(HEAD), 10)
        start_convolutions(self)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (N, 10) for images (N, 1, 28, 28)."""
        x = self.head(self.blocks(self.stem(images)))
        return cast(Tensor, self.fc(x.mean((2, 3))))
