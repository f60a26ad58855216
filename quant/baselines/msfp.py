"""Microsoft Floating Point, MSFP11 to MSFP16."""

from dataclasses import dataclass

from torch import Tensor

from bfpsim.quant.baselines.boxes import box_count, run, shared_axis
from bfpsim.quant.formats import BFP, FormatError
from bfpsim.quant.formats.quantize import TOP_MAX
from bfpsim.quant.torch.axes import Blocks
from bfpsim.quant.torch.fake_quantize import fake_quantize

BOUNDING_BOX = 16
EXPONENT_BITS = 8


@dataclass(frozen=True, slots=True)
class MSFP:
    """16 elements under one 8-bit exponent (Rouhani et al., NeurIPS 2020).

    bits_alone: an element's width if it had the exponent to itself: 8 of exponent, a sign, and
        `bits_alone - 9` of mantissa without a hidden bit. MSFP12 has 3, MSFP16 has 7

    Rounding is to nearest even and saturates, exponents are -128..127: the paper leaves both open.
    """

    bits_alone: int

    def __post_init__(self) -> None:
        if self.bits_alone not in range(11, 17):
            raise FormatError(f"MSFP: {self.bits_alone!r} bits; allowed: a whole number 11..16")

    @property
    def element_bits(self) -> int:
        """Sign and mantissa [bit]."""
        return self.bits_alone - EXPONENT_BITS

    def quantize(self, tensor: Tensor, blocks: Blocks, name: str = "tensor") -> Tensor:
        """See `Quantizer`."""
        fmt = BFP(self.bits_alone, EXPONENT_BITS, BOUNDING_BOX)
        axis = Blocks(shared_axis(tensor.shape, blocks, name))
        return fake_quantize(tensor.detach(), fmt, axis, TOP_MAX, name=name)

    def bits(self, tensor: Tensor, blocks: Blocks) -> int:
        """See `Quantizer`: 8 more per bounding box."""
        box = run(tensor.shape, blocks, BOUNDING_BOX, "tensor")
        return tensor.numel() * self.element_bits + EXPONENT_BITS * box_count(tensor.shape, box)

    def __str__(self) -> str:
        return f"msfp{self.bits_alone}"
