"""DBPS: block size and precision chosen per tensor."""

from dataclasses import dataclass

from torch import Tensor

from bfpsim.quant.baselines.boxes import box_count, run, shared_axis
from bfpsim.quant.formats import BFP, FormatError
from bfpsim.quant.formats.quantize import TOP_MAX
from bfpsim.quant.torch.axes import Blocks
from bfpsim.quant.torch.fake_quantize import fake_quantize

EXPONENT_BITS = 8
BLOCK_SIZES = (64, 32, 16, 8)
WIDTHS = (8, 16)


@dataclass(frozen=True, slots=True)
class DBPS:
    """Dynamic block size and precision scaling (Lee et al., DAC 2023), approximated.

    width: mantissas of `width` or `width / 2` bits, sign included; 8 or 16
    zero_limit: how large a share of the non-zero elements may become zero

    Of both precisions and blocks of 64, 32, 16 or 8 elements, the pair with the fewest bits whose
    share of elements set to zero is within the limit; if none is, the most precise: `width` bits in
    blocks of 8. Exponents have 8 bits.

    What is public of DBPS is that both are scaled during training. The candidates and the rule are
    this module's; zeroed elements are what the same group's FlexBlock controls its precision by.
    Not idempotent: elements set to zero no longer count.

    The pair is chosen for the tensor at hand, and of activations that is the whole batch: what an
    image becomes depends on the batch's size and on its neighbours in it.
    """

    width: int
    zero_limit: float = 0.05

    def __post_init__(self) -> None:
        if self.width not in WIDTHS:
            raise FormatError(f"DBPS: width={self.width!r}; allowed: 8, 16")
        if not 0 <= self.zero_limit <= 1:
            raise FormatError(f"DBPS: zero_limit={self.zero_limit!r}; allowed: 0..1")

    def quantize(self, tensor: Tensor, blocks: Blocks, name: str = "tensor") -> Tensor:
        """See `Quantizer`."""
        return self._chosen(tensor, blocks, name)[1]

    def format(self, tensor: Tensor, blocks: Blocks, name: str = "tensor") -> BFP:
        """The block size and precision that the tensor is stored with."""
        return self._chosen(tensor, blocks, name)[0]

    def bits(self, tensor: Tensor, blocks: Blocks) -> int:
        """See `Quantizer`: 8 more per block. Looks at the values."""
        return _bits(tensor, self.format(tensor, blocks), blocks)

    def __str__(self) -> str:
        name = f"dbps{self.width}"
        return name if self == DBPS(self.width) else f"{name}-{self.zero_limit:g}"

    def _candidates(self) -> list[BFP]:
        """From the fewest bits to the most, whatever the tensor: half the width saves more than
        blocks of 8 cost."""
        return [
            BFP(mantissa_bits + EXPONENT_BITS, EXPONENT_BITS, size)
            for mantissa_bits in (self.width // 2, self.width)
            for size in BLOCK_SIZES
        ]

    def _chosen(self, tensor: Tensor, blocks: Blocks, name: str) -> tuple[BFP, Tensor]:
        axis = Blocks(shared_axis(tensor.shape, blocks, name))
        present = int(tensor.count_nonzero())
        for fmt in self._candidates():
            kept = fake_quantize(tensor.detach(), fmt, axis, TOP_MAX, name=name)
            if present - int(kept.count_nonzero()) <= self.zero_limit * present:
                return fmt, kept
        return fmt, kept


def _bits(tensor: Tensor, fmt: BFP, blocks: Blocks) -> int:
    boxes = box_count(tensor.shape, run(tensor.shape, blocks, fmt.block_size, "tensor"))
    return tensor.numel() * fmt.mantissa_bits + EXPONENT_BITS * boxes
