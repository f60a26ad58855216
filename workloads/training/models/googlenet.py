"""GoogLeNet (Szegedy et al., 2015) for 28x28 images."""

from __future__ import annotations

from collections import OrderedDict
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from bfpsim.workloads.training.models import check_width, start_convolutions

FULL = 64  # the first convolution's channels in the paper


class Inception(nn.Module):
    """Four branches side by side, their channels joined: 1x1, 3x3, again 3x3, pooling.

    ``threes`` and ``fives`` are (reduced, out): a 1x1 convolution before the 3x3 one. The paper's
    5x5 is 3x3 here, as in torchvision's variant and `workloads.googlenet`, whose convolutions bear
    the same names.
    """

    def __init__(
        self,
        channels: int,
        direct: int,
        threes: tuple[int, int],
        fives: tuple[int, int],
        pooled: int,
    ) -> None:
        super().__init__()
        self.branch1 = _conv(channels, direct, 1)
        self.bn1 = nn.BatchNorm2d(direct)
        self.branch2 = _branch(_conv(channels, threes[0], 1), _conv(*threes, 3))
        self.branch3 = _branch(_conv(channels, fives[0], 1), _conv(*fives, 3))
        pool = nn.MaxPool2d(3, stride=1, padding=1, ceil_mode=True)
        self.branch4 = _branch(pool, _conv(channels, pooled, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Return (N, sum of the branches' channels, H, W)."""
        branch1 = F.relu(self.bn1(self.branch1(x)))
        return torch.cat((branch1, self.branch2(x), self.branch3(x), self.branch4(x)), 1)


class GoogLeNet(nn.Module):
    """GoogLeNet with all nine inceptions, without the auxiliary heads.

    ``width`` is the first convolution's channels; all are those of the paper's table times
    width / 64. The first convolution is 3x3 of stride 1 where the paper has 7x7 of stride 2; all
    else is torchvision's, poolings that round up included: the maps are 28, 14, 7, 3 and 2 pixels
    wide. Raises `WorkloadError` for a width that is no multiple of 8.
    """

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        check_width("googlenet", width, 8)

        def channels(full: int) -> int:
            return full * width // FULL

        def inception(
            source: int, direct: int, threes: tuple[int, int], fives: tuple[int, int], pooled: int
        ) -> Inception:
            return Inception(
                channels(source),
                channels(direct),
                (channels(threes[0]), channels(threes[1])),
                (channels(fives[0]), channels(fives[1])),
                channels(pooled),
            )

        self.conv1 = _conv(1, channels(64), 3)
        self.bn1 = nn.BatchNorm2d(channels(64))
        self.conv2 = _conv(channels(64), channels(64), 1)
        self.bn2 = nn.BatchNorm2d(channels(64))
        self.conv3 = _conv(channels(64), channels(192), 3)
        self.bn3 = nn.BatchNorm2d(channels(192))
        self.inception3a = inception(192, 64, (96, 128), (16, 32), 32)
        self.inception3b = inception(256, 128, (128, 192), (32, 96), 64)
        self.inception4a = inception(480, 192, (96, 208), (16, 48), 64)
        self.inception4b = inception(512, 160, (112, 224), (24, 64), 64)
        self.inception4c = inception(512, 128, (128, 256), (24, 64), 64)
        self.inception4d = inception(512, 112, (144, 288), (32, 64), 64)
        self.inception4e = inception(528, 256, (160, 320), (32, 128), 128)
        self.inception5a = inception(832, 256, (160, 320), (32, 128), 128)
        self.inception5b = inception(832, 384, (192, 384), (48, 128), 128)
        self.fc = nn.Linear(channels(1024), 10)
        start_convolutions(self)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (N, 10) for images (N, 1, 28, 28)."""
        x = F.relu(self.bn1(self.conv1(images)))
        x = F.max_pool2d(x, 3, 2, ceil_mode=True)
        x = F.relu(self.bn2(self.conv2(x)))
        x = F.relu(self.bn3(self.conv3(x)))
        x = F.max_pool2d(x, 3, 2, ceil_mode=True)
        x = self.inception3b(self.inception3a(x))
        x = F.max_pool2d(x, 3, 2, ceil_mode=True)
        x = self.inception4c(self.inception4b(self.inception4a(x)))
        x = self.inception4e(self.inception4d(x))
        x = F.max_pool2d(x, 2, 2, ceil_mode=True)
        x = self.inception5b(self.inception5a(x))
        return cast(Tensor, self.fc(x.mean((2, 3))))


def _conv(channels: int, out: int, kernel: int) -> nn.Conv2d:
    return nn.Conv2d(channels, out, kernel, padding=kernel // 2, bias=False)


def _branch(*parts: nn.Conv2d | nn.MaxPool2d) -> nn.Sequential:
    """Return the parts, named by position, each convolution followed by ``bn`` and ``relu``."""
    named: OrderedDict[str, nn.Module] = OrderedDict()
    for index, part in enumerate(parts):
        named[f"{index}"] = part
        if isinstance(part, nn.Conv2d):
            named[f"bn{index}"] = nn.BatchNorm2d(part.out_channels)
            named[f"relu{index}"] = nn.ReLU()
    return nn.Sequential(named)
