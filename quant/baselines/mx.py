"""OCP Microscaling formats: MXFP8, MXFP6, MXFP4 and MXINT8."""

from dataclasses import dataclass

from torch import Tensor

from bfpsim.quant.baselines.boxes import Grid, quantize_boxes, run
from bfpsim.quant.formats.blocks import Blocks, block_count

BLOCK_SIZE = 32
SCALE_BITS = 8
SCALE_MIN, SCALE_MAX = -127, 127
"""E8M0: a power of two, exponent biased by 127; code 255 is NaN."""


@dataclass(frozen=True, slots=True)
class Element:
    """An element type of the OCP MX specification v1.0, sections 5.3.1 to 5.3.4.

    bits: width, sign included [bit]
    exponent_min: of the smallest normal number, and so of the subnormals
    exponent_max: of the largest normal number, emax_elem
    fraction_bits: behind the leading bit
    largest: the largest magnitude; beyond it, conversion saturates
    """

    name: str
    bits: int
    exponent_min: int
    exponent_max: int
    fraction_bits: int
    largest: float

    @property
    def grid(self) -> Grid:
        """Its values, and the scales that blocks of it have."""
        return Grid(
            self.exponent_min,
            self.exponent_max,
            self.fraction_bits,
            self.largest,
            self.exponent_max,
            SCALE_MIN,
            SCALE_MAX,
        )

    def __str__(self) -> str:
        return self.name


E4M3 = Element("fp8e4m3", 8, -6, 8, 3, 448.0)
E5M2 = Element("fp8e5m2", 8, -14, 15, 2, 57344.0)
E3M2 = Element("fp6e3m2", 6, -2, 4, 2, 28.0)
E2M3 = Element("fp6e2m3", 6, 0, 2, 3, 7.5)
E2M1 = Element("fp4", 4, 0, 2, 1, 6.0)
INT8 = Element("int8", 8, 0, 0, 6, 127 / 64)
"""Two's complement in units of 1/64: a float with a single binade. -2 stays unused, as the
specification allows, because values saturate at the same magnitude on both sides."""


@dataclass(frozen=True, slots=True)
class MX:
    """Blocks of 32 elements under one power-of-two scale.

    The scale is 2^(floor(log2(max |x|)) - emax_elem), held to 2^-127..2^127 (specification v1.0,
    section 6.3). Exact but for blocks whose maximum is below 2^(-127 + emax_elem): there the
    specification leaves the scale open, and it is 2^-127 here.
    """

    element: Element

    def quantize(self, tensor: Tensor, blocks: Blocks, name: str = "tensor") -> Tensor:
        """See `Quantizer`."""
        box = run(tensor.shape, blocks, BLOCK_SIZE, name)
        return quantize_boxes(tensor, box, self.element.grid, name)

    def bits(self, tensor: Tensor, blocks: Blocks) -> int:
        """See `Quantizer`: 8 more per block."""
        box = run(tensor.shape, blocks, BLOCK_SIZE, "tensor")
        return tensor.numel() * self.element.bits + SCALE_BITS * block_count(tensor.shape, box)

    def __str__(self) -> str:
        return f"mx{self.element}"
