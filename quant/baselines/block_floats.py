"""Block floating point as other papers have it: HBFP, FlexBlock, FAST and DBPS."""

from dataclasses import dataclass

import torch
from torch import Tensor

from bfpsim.quant.formats import BFP, FormatError
from bfpsim.quant.formats.blocks import Blocks, Shape, block_count
from bfpsim.quant.formats.format import TOP_BITS, TOP_MAX
from bfpsim.quant.torch.boxes import fixed_point, quantize_boxes, run, shared_axis
from bfpsim.quant.torch.fake_quantize import fake_quantize

EXPONENT_BITS = 8
"""Width of an exponent, in all but FAST [bit]."""

# --- HBFP ----------------------------------------------------------------------------------------

TILE = 24


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
        box = _hbfp_box(tensor, blocks, name)
        return quantize_boxes(tensor, box, fixed_point(self.mantissa_bits), name)

    def bits(self, tensor: Tensor, blocks: Blocks) -> int:
        """See `Quantizer`: 8 more per input or tile."""
        boxes = block_count(tensor.shape, _hbfp_box(tensor, blocks, "tensor"))
        return tensor.numel() * self.mantissa_bits + EXPONENT_BITS * boxes

    def __str__(self) -> str:
        return f"hbfp{self.mantissa_bits}"


def _hbfp_box(tensor: Tensor, blocks: Blocks, name: str) -> Shape:
    shared_axis(tensor.shape, blocks, name)  # refuses an axis that is not there
    whole = tuple(max(1, size) for size in tensor.shape)
    if blocks.taps:
        return (TILE, TILE, *whole[2:])
    return whole if len(whole) == 1 else (1, *whole[1:])


# --- FlexBlock -----------------------------------------------------------------------------------

MODES = (4, 8, 16)
WEIGHT_CHANNELS, ACTIVATION_CHANNELS = 24, 6
PATCH = 9


@dataclass(frozen=True, slots=True)
class FlexBlock:
    """Boxes of channels x 3 x 3 under one 8-bit exponent (Noh et al., IEEE ToC 2023).

    mode: the multipliers' width, so the mantissa's, sign included: 4, 8 or 16 bits. The authors
        call the formats FB12, FB16 and FB24, exponent included

    Block sizes are those of the authors' published simulator: weights 24 input channels x 3 x 3
    taps of one filter (216), activations 6 channels x 3 x 3 pixels (54). Where a tensor has one
    spatial axis the patch is 9 of it, where it has none the 216 or 54 are consecutive; 1 x 1
    weights come in blocks of 24, depthwise ones in blocks of 9. Rounding is to nearest even; the
    authors' simulator truncates. The mode is fixed: switching it from layer to layer during
    training is not modelled.
    """

    mode: int

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise FormatError(f"FlexBlock: mode={self.mode!r}; allowed: 4, 8, 16")

    def quantize(self, tensor: Tensor, blocks: Blocks, name: str = "tensor") -> Tensor:
        """See `Quantizer`."""
        box = _flexblock_box(tensor, blocks, name)
        return quantize_boxes(tensor, box, fixed_point(self.mode), name)

    def bits(self, tensor: Tensor, blocks: Blocks) -> int:
        """See `Quantizer`: 8 more per box."""
        boxes = block_count(tensor.shape, _flexblock_box(tensor, blocks, "tensor"))
        return tensor.numel() * self.mode + EXPONENT_BITS * boxes

    def __str__(self) -> str:
        return f"flexblock{self.mode}"


def _flexblock_box(tensor: Tensor, blocks: Blocks, name: str) -> Shape:
    shape = tensor.shape
    channels = WEIGHT_CHANNELS if blocks.taps else ACTIVATION_CHANNELS
    axis = 1 if blocks.taps else shared_axis(shape, blocks, name)
    spatial = len(shape) - 2
    if axis != 1 or spatial < 1:
        return run(shape, blocks, channels * PATCH, name)
    patch = (PATCH,) if spatial == 1 else (1,) * (spatial - 2) + (3, 3)
    return (1, channels, *patch)


# --- FAST ----------------------------------------------------------------------------------------

GROUP = 16
FAST_EXPONENT_BITS = 3
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
        return self._choose(tensor, blocks, name)[1]

    def mantissa_bits(self, tensor: Tensor, blocks: Blocks, name: str = "tensor") -> int:
        """Width of the stored mantissas without their signs: 2 or 4 [bit]."""
        return self._choose(tensor, blocks, name)[0]

    def bits(self, tensor: Tensor, blocks: Blocks) -> int:
        """See `Quantizer`: 3 more per group, and 8 once. Looks at the values."""
        chunks = self.mantissa_bits(tensor, blocks) // CHUNK
        groups = block_count(tensor.shape, run(tensor.shape, blocks, GROUP, "tensor"))
        return tensor.numel() * chunks * (CHUNK + 1) + FAST_EXPONENT_BITS * groups + TOP_BITS

    def __str__(self) -> str:
        return "fast" if self == FAST() else f"fast-{self.threshold:g}"

    def _choose(self, tensor: Tensor, blocks: Blocks, name: str) -> tuple[int, Tensor]:
        axis = Blocks(shared_axis(tensor.shape, blocks, name))
        formats = (BFP(1 + m + FAST_EXPONENT_BITS, FAST_EXPONENT_BITS, GROUP) for m in (LOW, HIGH))
        low, high = (fake_quantize(tensor.detach(), fmt, axis, name=name) for fmt in formats)
        improvement = _total(high - low)  # exact: a few bits of one block's scale
        worthwhile = improvement > 0 and improvement >= self.threshold * _total(low)
        return (HIGH, high) if worthwhile else (LOW, low)


def _total(tensor: Tensor) -> float:
    """Sum of magnitudes, added up in float64."""
    return float(torch.linalg.vector_norm(tensor, 1, dtype=torch.float64))


# --- DBPS ----------------------------------------------------------------------------------------

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
        return self._choose(tensor, blocks, name)[1]

    def format(self, tensor: Tensor, blocks: Blocks, name: str = "tensor") -> BFP:
        """The block size and precision that the tensor is stored with."""
        return self._choose(tensor, blocks, name)[0]

    def bits(self, tensor: Tensor, blocks: Blocks) -> int:
        """See `Quantizer`: 8 more per block. Looks at the values."""
        fmt = self.format(tensor, blocks)
        boxes = block_count(tensor.shape, run(tensor.shape, blocks, fmt.block_size, "tensor"))
        return tensor.numel() * fmt.mantissa_bits + EXPONENT_BITS * boxes

    def __str__(self) -> str:
        name = f"dbps{self.width}"
        return name if self == DBPS(self.width) else f"{name}-{self.zero_limit:g}"

    def _candidates(self) -> list[BFP]:
        """The formats from the fewest bits to the most.

        The order is the same for every tensor: half the width saves more than blocks of 8 cost.
        """
        return [
            BFP(mantissa_bits + EXPONENT_BITS, EXPONENT_BITS, size)
            for mantissa_bits in (self.width // 2, self.width)
            for size in BLOCK_SIZES
        ]

    def _choose(self, tensor: Tensor, blocks: Blocks, name: str) -> tuple[BFP, Tensor]:
        axis = Blocks(shared_axis(tensor.shape, blocks, name))
        present = int(tensor.count_nonzero())
        for fmt in self._candidates():
            values = fake_quantize(tensor.detach(), fmt, axis, TOP_MAX, name=name)
            if present - int(values.count_nonzero()) <= self.zero_limit * present:
                return fmt, values
        return fmt, values
