"""BSFP: weights as the sum of two subword vectors, each with a low-bit float scale."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from bfpsim.quant.baselines.subwords import (
    SCALE_EXPONENT_BITS,
    SCALE_MANTISSA_BITS,
    VECTOR,
    Pair,
    by_operators,
)
from bfpsim.quant.formats import MSFP, FormatError
from bfpsim.quant.formats.blocks import Blocks, block_count
from bfpsim.quant.formats.format import TOP_BITS, TOP_MAX, TOP_MIN
from bfpsim.quant.torch.boxes import doubles, run, shared_axis
from bfpsim.quant.torch.fake_quantize import fake_quantize
from bfpsim.quant.torch.operand import format_bits
from bfpsim.quant.torch.tensors import floor_log2

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
        """The format of activations."""
        return MSFP(8 + self.coarse_bits + self.fine_bits)

    def quantize(self, tensor: Tensor, blocks: Blocks, name: str = "tensor") -> Tensor:
        """See `Quantizer`."""
        if not blocks.taps:
            return fake_quantize(tensor.detach(), self.activations, blocks, name=name)
        axis = shared_axis(tensor.shape, blocks, name)
        values = doubles(tensor, name).movedim(axis, -1)
        if not bool(values.any()):
            return torch.zeros_like(tensor)
        size = values.shape[-1]
        padded = functional.pad(values, (0, -size % VECTOR))
        vectors = padded.reshape(-1, VECTOR)
        coarse_top = _clamp(int(floor_log2(vectors.abs().max())) - self.coarse_bits + 2)
        tops = coarse_top, _clamp(coarse_top - self.fine_bits + 1)
        bits = self.coarse_bits, self.fine_bits
        reach = _LARGEST_MANTISSA * sum(2.0 ** (tops[i] + bits[i] - 1) for i in range(2))
        search = by_kernel if vectors.device.type == "cpu" else by_operators
        sums = search(vectors.clamp(-reach, reach), bits, tops).reshape(padded.shape)
        largest = torch.finfo(tensor.dtype).max  # float32's is below the nearest sum, 2^128
        return sums[..., :size].movedim(-1, axis).clamp(-largest, largest).to(tensor.dtype)

    def bits(self, tensor: Tensor, blocks: Blocks) -> int:
        """See `Quantizer`: two scales more per vector, and two references once."""
        if not blocks.taps:
            return format_bits(self.activations, tensor.shape, blocks)
        vectors = block_count(tensor.shape, run(tensor.shape, blocks, VECTOR, "tensor"))
        elements = tensor.numel() * (self.coarse_bits + self.fine_bits)
        return elements + vectors * 2 * SCALE_BITS + 2 * TOP_BITS

    def __str__(self) -> str:
        total = self.coarse_bits + self.fine_bits
        even = self.coarse_bits == self.fine_bits
        return f"bsfp{total}" if even else f"bsfp{total}-{self.coarse_bits}-{self.fine_bits}"


def _clamp(top: int) -> int:
    """Clamp a reference to 8 bits."""
    return max(TOP_MIN, min(TOP_MAX, top))


def by_kernel(vectors: Tensor, bits: Pair, tops: Pair) -> Tensor:
    """Return what `by_operators` gives, of vectors on the CPU; compiled."""
    import numpy as np

    from bfpsim.quant.baselines.kernels import superpose  # numba

    source = vectors.contiguous().numpy()
    sums = np.empty_like(source)
    mantissas, binades = 1 << SCALE_MANTISSA_BITS, 1 << SCALE_EXPONENT_BITS
    superpose(source, sums, bits, tops, mantissas, binades, torch.get_num_threads())
    return torch.from_numpy(sums)
