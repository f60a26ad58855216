"""Batch normalisation as what it is after training: a scale and a shift per channel."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def scale_and_shift(
    gamma: Tensor | None,
    beta: Tensor | None,
    mean: Tensor,
    variance: Tensor,
    epsilon: float,
    bias: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """Return what a layer's filters are multiplied by, and its bias, to fold the normalisation.

    With scale = gamma / sqrt(variance + epsilon), the bias is (bias - mean) * scale + beta; no
    gamma is 1, no beta and no bias are 0. All are per channel, in the arguments' own precision.
    """
    scale = 1 / (variance + epsilon).sqrt()
    scale = scale if gamma is None else scale * gamma
    shift = (-mean if bias is None else bias - mean) * scale
    return scale, shift if beta is None else shift + beta
