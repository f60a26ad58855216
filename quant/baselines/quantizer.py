"""What every format that bfpsim compares with can do."""

from typing import Protocol

from torch import Tensor

from bfpsim.quant.torch.axes import Blocks


class Quantizer(Protocol):
    """A number format as fake quantisation. `str()` of it is its short name."""

    def quantize(self, tensor: Tensor, blocks: Blocks, name: str = "tensor") -> Tensor:
        """The tensor's values after storage in the format: same shape, dtype and device.

        tensor: float32 or float64; the result has no gradient, and zeros have no sign
        blocks: the axis along which elements share a scale (`CHANNELS`, `LAST`, another axis), or
            `WEIGHT` for weights
        name: of the tensor, for error messages

        Raises FormatError for NaN, infinity, another dtype or an axis that is not there.
        """
        ...

    def bits(self, tensor: Tensor, blocks: Blocks) -> int:
        """Storage of the tensor: elements, shared exponents and scales, references [bit].

        Looks at the values only where the format is chosen by them. Raises FormatError for an axis
        that is not there and, where it looks, as `quantize` does.
        """
        ...
