"""The networks written directly in torch, apart from the code under test."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812


class Block(nn.Module):
    def __init__(self, channels: int, out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, out, 3, stride, 1)
        self.conv2 = nn.Conv2d(out, out, 3, 1, 1)
        same = stride == 1 and channels == out
        self.downsample = None if same else nn.Conv2d(channels, out, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        return F.relu(self.conv2(F.relu(self.conv1(x))) + shortcut)


class TorchResNet18(nn.Module):
    def __init__(self, width: int, channels: int, classes: int, small: bool) -> None:
        super().__init__()
        w = width
        self.small = small
        self.conv1 = nn.Conv2d(channels, w, 3, 1, 1) if small else nn.Conv2d(channels, w, 7, 2, 3)
        self.layer1 = nn.Sequential(Block(w, w, 1), Block(w, w, 1))
        self.layer2 = nn.Sequential(Block(w, 2 * w, 2), Block(2 * w, 2 * w, 1))
        self.layer3 = nn.Sequential(Block(2 * w, 4 * w, 2), Block(4 * w, 4 * w, 1))
        self.layer4 = nn.Sequential(Block(4 * w, 8 * w, 2), Block(8 * w, 8 * w, 1))
        self.fc = nn.Linear(8 * w, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.conv1(x))
        if not self.small:
            x = F.max_pool2d(x, 3, 2, 1)
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.fc(x.mean((2, 3)))


class ConvReLU(nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        return F.relu(super().forward(x))


class Inception(nn.Module):
    """Channels as the columns of the paper's table; the kernel of its 5x5 column can be chosen."""

    def __init__(self, channels: int, columns: tuple[int, ...], kernel: int) -> None:
        super().__init__()
        one, reduce3, out3, reduce5, out5, pool = columns
        self.branch1 = ConvReLU(channels, one, 1)
        self.branch2 = nn.Sequential(
            ConvReLU(channels, reduce3, 1), ConvReLU(reduce3, out3, 3, padding=1)
        )
        self.branch3 = nn.Sequential(
            ConvReLU(channels, reduce5, 1), ConvReLU(reduce5, out5, kernel, padding=kernel // 2)
        )
        self.branch4 = nn.Sequential(nn.MaxPool2d(3, 1, 1), ConvReLU(channels, pool, 1))

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.branch1(x), self.branch2(x), self.branch3(x), self.branch4(x)], 1)


# Table 1 of the paper: #1x1, #3x3 reduce, #3x3, #5x5 reduce, #5x5, pool proj.
INCEPTIONS = """
3a  64  96 128 16  32  32
3b 128 128 192 32  96  64
4a 192  96 208 16  48  64
4b 160 112 224 24  64  64
4c 128 128 256 24  64  64
4d 112 144 288 32  64  64
4e 256 160 320 32 128 128
5a 256 160 320 32 128 128
5b 384 192 384 48 128 128
"""


class TorchGoogLeNet(nn.Module):
    def __init__(self, channels: int = 3, classes: int = 1000, kernel: int = 3) -> None:
        super().__init__()
        self.conv1 = ConvReLU(channels, 64, 7, 2, 3)
        self.conv2 = ConvReLU(64, 64, 1)
        self.conv3 = ConvReLU(64, 192, 3, padding=1)
        width = 192
        for line in INCEPTIONS.split("\n")[1:-1]:
            name, *numbers = line.split()
            one, _, out3, _, out5, pool = columns = tuple(map(int, numbers))
            setattr(self, f"inception{name}", Inception(width, columns, kernel))
            width = one + out3 + out5 + pool
        self.fc = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(self.conv1(x), 3, 2, ceil_mode=True)
        x = F.max_pool2d(self.conv3(self.conv2(x)), 3, 2, ceil_mode=True)
        x = self.inception3b(self.inception3a(x))
        x = self.inception4a(F.max_pool2d(x, 3, 2, ceil_mode=True))
        x = self.inception4e(self.inception4d(self.inception4c(self.inception4b(x))))
        x = self.inception5a(F.max_pool2d(x, 2, 2, ceil_mode=True))
        return self.fc(self.inception5b(x).mean((2, 3)))


def run_and_record(module: nn.Module, images: torch.Tensor) -> dict[str, tuple[int, ...]]:
    """Layer name -> (MACs, output channels, rows, columns, input rows, columns), in run order."""
    found = {}

    def record(name):
        def hook(layer, inputs, output):
            macs = output[0].numel() * layer.weight[0].numel()
            out, into = ((*t.shape[1:], 1, 1) for t in (output, inputs[0]))
            found[name] = (macs, *out[:3], *into[1:3])

        return hook

    for name, layer in module.named_modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            layer.register_forward_hook(record(name))
    module(images)
    return found


@pytest.fixture
def layers_in_torch() -> Callable[[nn.Module, Tensor], dict[str, tuple[int, ...]]]:
    return run_and_record


@pytest.fixture
def torch_googlenet() -> Callable[..., TorchGoogLeNet]:
    return TorchGoogLeNet


@pytest.fixture
def torch_resnet18() -> Callable[..., TorchResNet18]:
    return TorchResNet18


@pytest.fixture
def one_thread():
    """Restore what the training script sets for the whole process."""
    threads = torch.get_num_threads()
    deterministic = torch.are_deterministic_algorithms_enabled()
    yield
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(deterministic)
