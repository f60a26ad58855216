"""FlexBlock's three modes of block floating point."""

from dataclasses import dataclass

from torch import Tensor

from bfpsim.quant.baselines.boxes import Box, box_count, run, shared_axis
from bfpsim.quant.baselines.scaled import fixed_point, scaled
from bfpsim.quant.formats import FormatError
from bfpsim.quant.torch.axes import Blocks

MODES = (4, 8, 16)
EXPONENT_BITS = 8
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
        box = _box(tensor, blocks, name)
        return scaled(tensor, box, fixed_point(self.mode), name)

    def bits(self, tensor: Tensor, blocks: Blocks) -> int:
        """See `Quantizer`: 8 more per box."""
        boxes = box_count(tensor.shape, _box(tensor, blocks, "tensor"))
        return tensor.numel() * self.mode + EXPONENT_BITS * boxes

    def __str__(self) -> str:
        return f"flexblock{self.mode}"


def _box(tensor: Tensor, blocks: Blocks, name: str) -> Box:
    shape = tensor.shape
    channels = WEIGHT_CHANNELS if blocks.taps else ACTIVATION_CHANNELS
    axis = 1 if blocks.taps else shared_axis(shape, blocks, name)
    spatial = len(shape) - 2
    if axis != 1 or spatial < 1:
        return run(shape, blocks, channels * PATCH, name)
    patch = (PATCH,) if spatial == 1 else (1,) * (spatial - 2) + (3, 3)
    return (1, channels, *patch)
