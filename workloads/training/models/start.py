"""A convolution with its batch normalisation, and how convolutions start."""

from __future__ import annotations

from collections import OrderedDict

from torch import nn

from workloads.layer import WorkloadError


class ConvNorm(nn.Sequential):
    """A convolution ``conv``, padded by half its kernel, its normalisation ``bn``, then ``act``."""

    def __init__(
        self,
        channels: int,
        out: int,
        kernel: int,
        *,
        stride: int = 1,
        groups: int = 1,
        act: nn.Module | None = None,
    ) -> None:
        conv = nn.Conv2d(channels, out, kernel, stride, kernel // 2, groups=groups, bias=False)
        parts: OrderedDict[str, nn.Module] = OrderedDict(conv=conv, bn=nn.BatchNorm2d(out))
        if act is not None:
            parts["act"] = act
        super().__init__(parts)


def start_convolutions(module: nn.Module) -> None:
    """Draw all convolutions' weights as He et al. (2015) do for ReLU, by their outputs."""
    for part in module.modules():
        if isinstance(part, nn.Conv2d):
            nn.init.kaiming_normal_(part.weight, mode="fan_out", nonlinearity="relu")


def scaled(name: str, channels: int, width: int, full: int) -> int:
    """Return ``channels * width / full``; raises `WorkloadError` unless it is a whole number > 0."""
    scaled, rest = divmod(channels * width, full)
    if rest or scaled < 1:
        raise WorkloadError(f"{name}: width={width} must be a multiple of 4 > 0")
    return scaled
