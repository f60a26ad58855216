"""BSFP's search for two vectors of subwords and their scales, in torch operators."""

from collections.abc import Iterator

import torch
from torch import Tensor

from bfpsim.quant.torch.tensors import floor_log2, power_of_two

VECTOR = 16
"""Weights under one pair of scales."""

STEPS = (1, 0, -1)
"""Binades of a scale, from the one whose subwords just reach the largest value."""

SHORTLIST = 4
"""Coarse scales for which fine ones are looked for."""

SCALE_MANTISSA_BITS, SCALE_EXPONENT_BITS = 3, 3

Pair = tuple[int, int]
"""A number for the coarse subwords, and one for the fine ones."""


def by_operators(vectors: Tensor, bits: Pair, tops: Pair) -> Tensor:
    """Return the nearest sums that the search finds to (vectors, 16), in float64.

    bits: widths of the subwords; tops: exponents of their largest scales
    """
    scales = list(_scales(vectors, bits[0], tops[0]))
    errors = [_error(vectors, _nearest(vectors, s, bits[0])) for s in scales]
    order = torch.cat(errors, 1).argsort(dim=1, stable=True)
    coarse = torch.cat(scales, 1)
    best, least = vectors, torch.full_like(vectors[:, :1], torch.inf)
    for rank in range(SHORTLIST):
        scale = coarse.gather(1, order[:, rank : rank + 1])
        below, above = _sides(vectors, scale, bits[0])
        rest = vectors - _nearest(vectors, scale, bits[0])
        for fine in _scales(rest, bits[1], tops[1]):
            low = below + _nearest(vectors - below, fine, bits[1])
            high = above + _nearest(vectors - above, fine, bits[1])
            nearer = torch.where((low - vectors).abs() <= (high - vectors).abs(), low, high)
            error = _error(vectors, nearer)
            best = torch.where(error < least, nearer, best)
            least = torch.minimum(error, least)
    return best + 0.0  # no -0


def _scales(vectors: Tensor, bits: int, top: int) -> Iterator[Tensor]:
    """Low-bit floats around those whose subwords just reach the vectors' maxima: (vectors, 1)."""
    reach = floor_log2(vectors.abs().amax(1, keepdim=True)) - (bits - 1)
    lowest = top - (1 << SCALE_EXPONENT_BITS) + 1
    for step in STEPS:
        power = power_of_two((reach + step).clamp(lowest, top))
        for mantissa in range(1 << SCALE_MANTISSA_BITS):
            magnitude = (1 + mantissa / (1 << SCALE_MANTISSA_BITS)) * power
            yield magnitude
            yield -magnitude


def _nearest(vectors: Tensor, scale: Tensor, bits: int) -> Tensor:
    """The nearest two's-complement subwords, times their scale."""
    half = 1 << (bits - 1)
    return (vectors / scale).round().clamp(-half, half - 1) * scale


def _sides(vectors: Tensor, scale: Tensor, bits: int) -> tuple[Tensor, Tensor]:
    """The subwords on both sides, times their scale."""
    half = 1 << (bits - 1)
    down = (vectors / scale).floor()
    return down.clamp(-half, half - 1) * scale, (down + 1).clamp(-half, half - 1) * scale


def _error(vectors: Tensor, sums: Tensor) -> Tensor:
    """The sum of squared differences, halves added to halves, so that every device agrees."""
    errors = (vectors - sums).square()
    while (size := errors.shape[1]) > 1:
        errors = errors[:, : size // 2] + errors[:, size // 2 :]
    return errors
