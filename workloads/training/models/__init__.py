"""Small networks for 28x28 images of one channel and ten classes, as plain torch modules.

They start from a width that fits, and from He's draws.
"""

from __future__ import annotations

from torch import nn

from bfpsim.workloads.layer import WorkloadError


def check_width(name: str, width: int, multiple: int) -> None:
    """Raise `WorkloadError` unless all of a network's channels are whole numbers at this width."""
    if width < 1 or width % multiple:
        raise WorkloadError(f"{name}: width={width} must be a multiple of {multiple} > 0")


def start_convolutions(module: nn.Module) -> None:
    """Draw all 2-D convolutions' weights as He et al. (2015) do for ReLU, by their outputs."""
    for part in module.modules():
        if isinstance(part, nn.Conv2d):
            nn.init.kaiming_normal_(part.weight, mode="fan_out", nonlinearity="relu")
