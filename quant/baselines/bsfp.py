"""BSFP: weights as the sum of two subword vectors, each with a low-bit float scale."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from bfpsim.quant.baselines.boxes import (
    box_count,
    doubles,
    floor_log2,
    power_of_two,
    run,
    shared_axis,
)
from bfpsim.quant.baselines.msfp import MSFP
from bfpsim.quant.formats import FormatError
from bfpsim.quant.formats.quantize import TOP_BITS, TOP_MAX, TOP_MIN
from bfpsim.quant.torch.axes import Blocks

VECTOR = 16
"""Weights under one pair of scales."""

STEPS = (1, 0, -1)
"""Binades of a scale, from the one whose subwords just reach the largest value."""

SHORTLIST = 4
"""Coarse scales for which fine ones are looked for."""

SCALE_MANTISSA_BITS, SCALE_EXPONENT_BITS = 3, 3
SCALE_BITS = 1 + SCALE_MANTISSA_BITS + SCALE_EXPONENT_BITS
_LARGEST_MANTISSA = 2 - 2.0**-SCALE_MANTISSA_BITS


@dataclass(frozen=True, slots=True)
class BSFP:
    """Block and subword-scaling floating point (Lo et al., ICLR 2023), its search approximated.

    coarse_bits, fine_bits: widths of the two subwords, two's complement; 2..6 [bit]

    A weight is a coarse subword x its scale + a fine subword x its scale. Vectors are 16 weights
    along the input channels. A scale is a low-bit float: sign, 3 exponent bits, 3 mantissa bits
    behind a leading 1. Its exponent counts down from one reference per tensor and subword, 8 bits
    each (the paper's "exponent bias of its own"): -128..127. What is beyond their reach saturates.

    The paper searches the grid of all pairs of scales for the least squared error. Here the grid is
    walked in two steps: 48 coarse scales near the vector's maximum, then for the 4 that alone are
    best, 48 fine scales near what is left. A coarse subword is one of the two beside x / scale.

    Activations are MSFP with as many bits per element, as in the paper. Not idempotent.
    """

    coarse_bits: int
    fine_bits: int

    def __post_init__(self) -> None:
        for field, value in (("coarse_bits", self.coarse_bits), ("fine_bits", self.fine_bits)):
            if value not in range(2, 7):
                raise FormatError(f"BSFP: {field}={value!r}; allowed: a whole number 2..6")
        if self.coarse_bits + self.fine_bits > 8:
            raise FormatError(
                f"BSFP: coarse_bits={self.coarse_bits} + fine_bits={self.fine_bits}; "
                "allowed: up to 8 in all"
            )

    @property
    def activations(self) -> MSFP:
        """What activations are stored in."""
        return MSFP(8 + self.coarse_bits + self.fine_bits)

    def quantize(self, tensor: Tensor, blocks: Blocks, name: str = "tensor") -> Tensor:
        """See `Quantizer`."""
        if not blocks.taps:
            return self.activations.quantize(tensor, blocks, name)
        axis = shared_axis(tensor.shape, blocks, name)
        values = doubles(tensor, name).movedim(axis, -1)
        if not bool(values.any()):
            return torch.zeros_like(tensor)
        size = values.shape[-1]
        padded = functional.pad(values, (0, -size % VECTOR))
        vectors = padded.reshape(-1, VECTOR)
        coarse_top = _held(int(floor_log2(vectors.abs().max())) - self.coarse_bits + 2)
        tops = coarse_top, _held(coarse_top - self.fine_bits + 1)
        bits = self.coarse_bits, self.fine_bits
        reach = _LARGEST_MANTISSA * sum(2.0 ** (tops[i] + bits[i] - 1) for i in range(2))
        search = by_kernel if vectors.device.type == "cpu" else by_operators
        kept = search(vectors.clamp(-reach, reach), bits, tops).reshape(padded.shape)
        largest = torch.finfo(tensor.dtype).max  # float32's is below the nearest sum, 2^128
        return kept[..., :size].movedim(-1, axis).clamp(-largest, largest).to(tensor.dtype)

    def bits(self, tensor: Tensor, blocks: Blocks) -> int:
        """See `Quantizer`: two scales more per vector, and two references once."""
        if not blocks.taps:
            return self.activations.bits(tensor, blocks)
        vectors = box_count(tensor.shape, run(tensor.shape, blocks, VECTOR, "tensor"))
        elements = tensor.numel() * (self.coarse_bits + self.fine_bits)
        return elements + vectors * 2 * SCALE_BITS + 2 * TOP_BITS

    def __str__(self) -> str:
        total = self.coarse_bits + self.fine_bits
        even = self.coarse_bits == self.fine_bits
        return f"bsfp{total}" if even else f"bsfp{total}-{self.coarse_bits}-{self.fine_bits}"


def _held(top: int) -> int:
    """A reference, held to 8 bits."""
    return max(TOP_MIN, min(TOP_MAX, top))


Pair = tuple[int, int]
"""Of the coarse and of the fine subwords."""


def by_operators(vectors: Tensor, bits: Pair, tops: Pair) -> Tensor:
    """The nearest sums that the search finds to (vectors, 16) in float64, in torch operators.

    bits: widths of the subwords; tops: exponents of their largest scales
    """
    scales = list(_scales(vectors, bits[0], tops[0]))
    errors = [_error(vectors, _scaled(vectors, s, bits[0])) for s in scales]
    order = torch.cat(errors, 1).argsort(dim=1, stable=True)
    coarse = torch.cat(scales, 1)
    best, least = vectors, torch.full_like(vectors[:, :1], torch.inf)
    for rank in range(SHORTLIST):
        scale = coarse.gather(1, order[:, rank : rank + 1])
        below, above = _scaled_sides(vectors, scale, bits[0])
        rest = vectors - _scaled(vectors, scale, bits[0])
        for fine in _scales(rest, bits[1], tops[1]):
            low = below + _scaled(vectors - below, fine, bits[1])
            high = above + _scaled(vectors - above, fine, bits[1])
            kept = torch.where((low - vectors).abs() <= (high - vectors).abs(), low, high)
            error = _error(vectors, kept)
            best = torch.where(error < least, kept, best)
            least = torch.minimum(error, least)
    return best + 0.0  # no -0


def by_kernel(vectors: Tensor, bits: Pair, tops: Pair) -> Tensor:
    """`by_operators` of vectors on the CPU, compiled."""
    import numpy as np

    from bfpsim.quant.baselines.subwords import superpose

    source = vectors.contiguous().numpy()
    kept = np.empty_like(source)
    mantissas, binades = 1 << SCALE_MANTISSA_BITS, 1 << SCALE_EXPONENT_BITS
    superpose(source, kept, bits, tops, mantissas, binades, torch.get_num_threads())
    return torch.from_numpy(kept)


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


def _scaled(vectors: Tensor, scale: Tensor, bits: int) -> Tensor:
    """The nearest two's-complement subwords, times their scale."""
    half = 1 << (bits - 1)
    return (vectors / scale).round().clamp(-half, half - 1) * scale


def _scaled_sides(vectors: Tensor, scale: Tensor, bits: int) -> tuple[Tensor, Tensor]:
    """The subwords on both sides, times their scale."""
    half = 1 << (bits - 1)
    down = (vectors / scale).floor()
    return down.clamp(-half, half - 1) * scale, (down + 1).clamp(-half, half - 1) * scale


def _error(vectors: Tensor, kept: Tensor) -> Tensor:
    """The sum of squared differences, halves added to halves, so that every device agrees."""
    errors = (vectors - kept).square()
    while (size := errors.shape[1]) > 1:
        errors = errors[:, : size // 2] + errors[:, size // 2 :]
    return errors
