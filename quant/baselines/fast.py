"""FAST: block floating point of 2 or 4 mantissa bits, chosen per tensor."""

from dataclasses import dataclass

import torch
from torch import Tensor

from bfpsim.quant.baselines.boxes import box_count, run, shared_axis
from bfpsim.quant.formats import BFP, FormatError
from bfpsim.quant.formats.quantize import TOP_BITS
from bfpsim.quant.torch.axes import Blocks
from bfpsim.quant.torch.fake_quantize import fake_quantize

GROUP = 16
EXPONENT_BITS = 3
LOW, HIGH = 2, 4
CHUNK = 2


@dataclass(frozen=True, slots=True)
class FAST:
    """Groups of 16 under a 3-bit exponent, 2 or 4 bits of magnitude (Zhang et al., HPCA 2022).

    threshold: of the relative improvement r(X) = sum |BFP(X, 4) - BFP(X, 2)| / sum |BFP(X, 2)|.
        4 bits where r reaches it, else 2. The paper's epsilon = alpha - beta i/I - beta l/L falls
        with iteration i and layer l; one constant stands for it here

    Storage is the paper's: magnitudes in chunks of 2 bits, each with a sign of its own, so 3 or 6
    bits per element. The 3-bit exponent is a distance below the tensor's largest, which is stored
    once with 8 bits: the paper does not say what its zero stands for. Rounding is to nearest even;
    the paper's noise is for gradients. Not idempotent: what 4 bits kept may next need only 2.

    Largest exponent and precision are taken from the tensor at hand, and of activations that is the
    whole batch: what an image becomes depends on the batch's size and on its neighbours in it.
    """

    threshold: float = 0.1

    def __post_init__(self) -> None:
        if not self.threshold >= 0:
            raise FormatError(f"FAST: threshold={self.threshold!r}; allowed: 0 or more")

    def quantize(self, tensor: Tensor, blocks: Blocks, name: str = "tensor") -> Tensor:
        """See `Quantizer`."""
        return self._chosen(tensor, blocks, name)[1]

    def mantissa_bits(self, tensor: Tensor, blocks: Blocks, name: str = "tensor") -> int:
        """What the tensor is stored with, its sign not counted: 2 or 4 [bit]."""
        return self._chosen(tensor, blocks, name)[0]

    def bits(self, tensor: Tensor, blocks: Blocks) -> int:
        """See `Quantizer`: 3 more per group, and 8 once. Looks at the values."""
        chunks = self.mantissa_bits(tensor, blocks) // CHUNK
        groups = box_count(tensor.shape, run(tensor.shape, blocks, GROUP, "tensor"))
        return tensor.numel() * chunks * (CHUNK + 1) + EXPONENT_BITS * groups + TOP_BITS

    def __str__(self) -> str:
        return "fast" if self == FAST() else f"fast-{self.threshold:g}"

    def _chosen(self, tensor: Tensor, blocks: Blocks, name: str) -> tuple[int, Tensor]:
        axis = Blocks(shared_axis(tensor.shape, blocks, name))
        low, high = (
            fake_quantize(
                tensor.detach(), BFP(1 + m + EXPONENT_BITS, EXPONENT_BITS, GROUP), axis, name=name
            )
            for m in (LOW, HIGH)
        )
        improvement = _total(high - low)  # exact: a few bits of one block's scale
        worthwhile = improvement > 0 and improvement >= self.threshold * _total(low)
        return (HIGH, high) if worthwhile else (LOW, low)


def _total(tensor: Tensor) -> float:
    """Sum of magnitudes, added up in float64."""
    return float(torch.linalg.vector_norm(tensor, 1, dtype=torch.float64))
