"""Hybrid block floating point, HBFP."""

from dataclasses import dataclass

from torch import Tensor

from bfpsim.quant.baselines.boxes import Box, box_count, shared_axis
from bfpsim.quant.baselines.scaled import fixed_point, scaled
from bfpsim.quant.formats import FormatError
from bfpsim.quant.torch.axes import Blocks

TILE = 24
EXPONENT_BITS = 8


@dataclass(frozen=True, slots=True)
class HBFP:
    """One exponent per input of the batch, and per 24 x 24 tile of the weights.

    Drumond et al., NeurIPS 2018: `hbfp8` and `hbfp12` are its `hbfp8_16` and `hbfp12_16` with
    tiles of 24, as dot products see them; the 16-bit weights of the optimiser are not modelled.

    mantissa_bits: sign included, 2..16 [bit]

    Activations: all elements at one index of axis 0 share, whatever `blocks` says; a tensor of one
    axis is one input. Weights: tiles of 24 filters x 24 input channels with all their taps; the
    paper tiles the two outer dimensions. The exponent has 8 bits, as in the paper's prototype.
    It is floor(log2(max)); the authors' emulator takes ceil(log2(max)), which differs where the
    maximum is a power of two. Rounding is to nearest even; in training theirs may be stochastic.
    """

    mantissa_bits: int

    def __post_init__(self) -> None:
        if self.mantissa_bits not in range(2, 17):
            raise FormatError(
                f"HBFP: mantissa_bits={self.mantissa_bits!r}; allowed: a whole number 2..16"
            )

    def quantize(self, tensor: Tensor, blocks: Blocks, name: str = "tensor") -> Tensor:
        """See `Quantizer`."""
        box = _box(tensor, blocks, name)
        return scaled(tensor, box, fixed_point(self.mantissa_bits), name)

    def bits(self, tensor: Tensor, blocks: Blocks) -> int:
        """See `Quantizer`: 8 more per input or tile."""
        boxes = box_count(tensor.shape, _box(tensor, blocks, "tensor"))
        return tensor.numel() * self.mantissa_bits + EXPONENT_BITS * boxes

    def __str__(self) -> str:
        return f"hbfp{self.mantissa_bits}"


def _box(tensor: Tensor, blocks: Blocks, name: str) -> Box:
    shared_axis(tensor.shape, blocks, name)  # refuses an axis that is not there
    whole = tuple(max(1, size) for size in tensor.shape)
    if blocks.taps:
        return (TILE, TILE, *whole[2:])
    return whole if len(whole) == 1 else (1, *whole[1:])
