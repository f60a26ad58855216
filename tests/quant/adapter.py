"""Formats with the face of a `Quantizer`, so that both kinds go through the same tests."""

from dataclasses import dataclass

from torch import Tensor

from bfpsim.quant.baselines import BASELINES
from bfpsim.quant.formats import INDUSTRY, Format
from bfpsim.quant.formats.blocks import Blocks
from bfpsim.quant.torch.fake_quantize import fake_quantize
from bfpsim.quant.torch.operand import Quantizer, format_bits


@dataclass(frozen=True)
class Stored:
    """A format, each tensor by itself."""

    fmt: Format

    def quantize(self, tensor: Tensor, blocks: Blocks, name: str = "tensor") -> Tensor:
        return fake_quantize(tensor.detach(), self.fmt, blocks, name=name)

    def bits(self, tensor: Tensor, blocks: Blocks) -> int:
        return format_bits(self.fmt, tensor.shape, blocks)

    def __str__(self) -> str:
        return str(self.fmt)


COMPARED: dict[str, Quantizer] = {
    **{name: Stored(fmt) for name, fmt in INDUSTRY.items()},
    **BASELINES,
}
