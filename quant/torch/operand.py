"""One operand of one product in a torch module: what it becomes when it is stored."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from itertools import product
from typing import Any

import torch
from torch import Tensor, nn

from bfpsim.quant.baselines.quantizer import Quantizer
from bfpsim.quant.formats import Format, FormatError, Rounding
from bfpsim.quant.formats.quantize import TOP_BITS
from bfpsim.quant.torch.axes import WEIGHT, Blocks
from bfpsim.quant.torch.fake_quantize import Gradient, calibrated_top, fake_quantize

Coding = Format | Quantizer
"""What a stored tensor may be coded in."""
FLOAT_BITS = 32


class Mode(Enum):
    """What an operand does with the tensors that pass through it."""

    FLOAT = "float"
    """Nothing."""
    CALIBRATE = "calibrate"
    """Nothing, and remembers the largest exponent."""
    QUANTIZE = "quantize"
    """Quantises and dequantises."""
    MEASURE = "measure"
    """As QUANTIZE, and adds up signal, error and storage."""


@dataclass(slots=True)
class Measured:
    """Sums over the tensors measured: squares of values and of errors, elements, stored bits."""

    signal: float = 0.0
    error: float = 0.0
    elements: int = 0
    bits: int = 0

    @property
    def sqnr_db(self) -> float:
        """Signal to quantisation noise [dB]."""
        return sqnr_db(self.signal, self.error)


def sqnr_db(signal: float, error: float) -> float:
    """Signal to quantisation noise, from sums of squares [dB]; infinite without noise."""
    if error == 0:
        return math.inf
    return 10 * math.log10(signal / error) if signal else -math.inf


class Operand(nn.Module):
    """Quantises the tensors that pass, where a product reads or writes them.

    name: of product and tensor, for error messages ("layer1.0.conv1 input")
    blocks: which elements share an exponent
    stored: whether the tensor is a parameter or computed from some, whose E_top is its own at any
        time; that of an activation is calibrated
    coding: None leaves the tensor as it is
    """

    def __init__(self, name: str, blocks: Blocks, stored: bool) -> None:
        super().__init__()
        self.name, self.blocks, self.stored = name, blocks, stored
        self.coding: Coding | None = None
        self.gradient = Gradient.STRAIGHT_THROUGH
        self.mode = Mode.FLOAT
        self.top: int | None = None
        """E_top of an activation, once calibrated; None takes each tensor's own."""
        self.measured = Measured()
        self._kept: tuple[nn.Parameter, tuple[object, ...], Tensor] | None = None

    def forward(self, tensor: Tensor) -> Tensor:
        """The tensor, or what is left of it."""
        if self.mode is Mode.CALIBRATE and not self.stored:
            found = calibrated_top(tensor, self.name) if tensor.any() else None
            if found is not None:
                self.top = found if self.top is None else max(self.top, found)
        if self.mode in (Mode.FLOAT, Mode.CALIBRATE) or self.coding is None:
            if self.mode is Mode.MEASURE:
                self._measure(tensor, tensor)
            return tensor
        quantized = self._parameter(tensor) if self.stored else self.quantized(tensor, self.coding)
        if self.mode is Mode.MEASURE:
            self._measure(tensor.detach(), quantized.detach())
        return quantized

    def _parameter(self, tensor: Tensor) -> Tensor:
        """The quantised W: of a parameter again only if it or its coding is another than last time.

        A W that is computed from parameters is quantised at every pass. Writes into a parameter's
        ``.data`` leave no trace, and are not seen: write under ``torch.no_grad()``.
        """
        assert self.coding is not None
        trained = torch.is_grad_enabled() and tensor.requires_grad
        if trained or not isinstance(tensor, nn.Parameter):
            return self.quantized(tensor, self.coding)
        state = (tensor.device, tensor.data_ptr(), tensor._version, tensor.dtype, self.coding)
        # The parameter itself is kept, so that no other can take its place in memory.
        if self._kept is None or self._kept[0] is not tensor or self._kept[1] != state:
            self._kept = tensor, state, self.quantized(tensor, self.coding)
        return self._kept[2]

    def quantized(self, tensor: Tensor, coding: Coding) -> Tensor:
        """The tensor in a coding.

        Raises FormatError, naming the operand, for values that are not finite, and for stochastic
        rounding, which would give every pass another network.
        """
        if not isinstance(coding, Format):
            result: Tensor = _StraightThrough.apply(tensor, coding, self.blocks, self.name)  # type: ignore[no-untyped-call]
            return result
        if coding.rounding is Rounding.STOCHASTIC:
            raise FormatError(
                f"{self.name}: {coding} rounds stochastically; allowed: a deterministic rounding"
            )
        return fake_quantize(
            tensor, coding, self.blocks, self.top, gradient=self.gradient, name=self.name
        )

    def channels(self, shape: Sequence[int]) -> int:
        """The most elements along which a block of a tensor runs: no larger BS makes a change."""
        return self.blocks.extents(shape)[1]

    def stored_bits(self, tensor: Tensor) -> int:
        """What the tensor takes in the operand's coding, E_top included [bit]."""
        coding = self.coding
        if coding is None:
            return tensor.numel() * FLOAT_BITS
        if isinstance(coding, Format):
            return format_bits(coding, tensor.shape, self.blocks)
        return coding.bits(tensor, self.blocks)

    def _measure(self, before: Tensor, after: Tensor) -> None:
        exact, found = before.double(), after.double()
        self.measured.signal += float(exact.square().sum())
        self.measured.error += float((exact - found).square().sum())
        self.measured.elements += before.numel()
        self.measured.bits += self.stored_bits(before)


class TransposedWeight(Operand):
    """W of a transposed convolution, (channels in, K per group, ...): blocks of each phase.

    Its taps belong to as many ordinary convolutions as the stride has phases
    (`workloads.transposed`); a block is BS input channels of one filter with one phase's taps. All
    phases share the tensor's E_top.
    """

    def __init__(self, name: str, stride: tuple[int, ...], groups: int) -> None:
        super().__init__(name, WEIGHT, stored=True)
        self._stride, self._groups = stride, groups

    def quantized(self, tensor: Tensor, coding: Coding) -> Tensor:
        """The tensor in a coding, phase by phase."""
        result = torch.empty_like(tensor)
        self.top = calibrated_top(tensor, self.name)
        for taps in self._phases(tensor):
            part = super().quantized(self._turned(tensor[taps]), coding)
            result[taps] = self._turned(part)
        return result

    def channels(self, shape: Sequence[int]) -> int:
        """The input channels of a group; of a depthwise one, the filters."""
        first, second, *taps = shape
        return super().channels((self._groups * second, first // self._groups, *taps))

    def stored_bits(self, tensor: Tensor) -> int:
        """What all phases take [bit]."""
        parts = [self._turned(tensor[taps]) for taps in self._phases(tensor)]
        bits = sum(super(TransposedWeight, self).stored_bits(part) for part in parts)
        own_top = isinstance(self.coding, Format) and not self.coding.is_float
        return bits - (len(parts) - 1) * TOP_BITS * own_top

    def _phases(self, tensor: Tensor) -> Iterator[tuple[slice, ...]]:
        """Where each phase's taps are; none of a phase that the kernel does not reach."""
        starts = (
            range(min(step, n)) for step, n in zip(self._stride, tensor.shape[2:], strict=True)
        )
        for first in product(*starts):
            steps = (slice(at, None, step) for at, step in zip(first, self._stride, strict=True))
            yield (slice(None), slice(None), *steps)

    def _turned(self, part: Tensor) -> Tensor:
        """(channels in, K per group, ...) as (filters, C per group, ...); the same way back."""
        first, second, *taps = part.shape
        grouped = part.reshape(self._groups, -1, second, *taps).transpose(1, 2)
        return grouped.reshape(-1, first // self._groups, *taps)


class _StraightThrough(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: Tensor, coding: Quantizer, blocks: Blocks, name: str) -> Tensor:
        return coding.quantize(tensor.detach(), blocks, name)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor, None, None, None]:
        return grads[0], None, None, None


def format_bits(fmt: Format, shape: Sequence[int], blocks: Blocks) -> int:
    """Mantissas, exponent codes and E_top of a whole tensor [bit]."""
    bits = math.prod(shape) * fmt.mantissa_bits
    if fmt.exponent_bits:
        outer, channels, inner = blocks.extents(shape)
        codes = outer * -(-channels // fmt.block_size) * (1 if blocks.taps else inner)
        bits += codes * fmt.exponent_bits
    return bits + TOP_BITS * (not fmt.is_float)
