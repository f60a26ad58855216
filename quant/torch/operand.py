"""One operand of one product in a torch module: what it becomes when it is stored."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from itertools import product
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from bfpsim.quant.formats import Format, FormatError, Rounding
from bfpsim.quant.formats.blocks import WEIGHT, Blocks, block_count
from bfpsim.quant.torch.fake_quantize import Gradient, calibrated_top, fake_quantize
from bfpsim.quant.torch.tensors import check_finite

FLOAT_BITS = 32


class Quantizer(Protocol):
    """A number format as fake quantisation, for comparison. `str()` of it is its short name."""

    def quantize(self, tensor: Tensor, blocks: Blocks, name: str = "tensor") -> Tensor:
        """Return the tensor's values after storage in the format: same shape, dtype and device.

        tensor: float32 or float64; the result has no gradient, and zeros have no sign
        blocks: the axis along which elements share a scale (`CHANNELS`, `LAST`, another axis), or
            `WEIGHT` for weights
        name: of the tensor, for error messages

        Raises FormatError for NaN, infinity, another dtype or an axis that is not there.
        """
        ...

    def bits(self, tensor: Tensor, blocks: Blocks) -> int:
        """Storage of the tensor: elements, shared exponents and scales, references [bit].

        Looks at the values only where the format depends on them. Raises FormatError for an axis
        that is not there and, where it looks, as `quantize` does.
        """
        ...


Coding = Format | Quantizer
"""What a stored tensor may be coded in."""


class Mode(Enum):
    """An operand's treatment of the tensors that pass through it."""

    FLOAT = "float"
    """Nothing."""
    CALIBRATE = "calibrate"
    """Nothing, and remembers the largest exponent."""
    QUANTIZE = "quantize"
    """Quantises and dequantises."""
    MEASURE = "measure"
    """As QUANTIZE, and adds up signal, error and storage."""


@dataclass(slots=True)
class Measurement:
    """Sums over the tensors that passed: squares of values and of errors, elements, stored bits."""

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
    gradient: what passes back through the quantisation of BFP and plain formats
    top: E_top of an activation, once calibrated; None takes each tensor's own
    """

    def __init__(self, name: str, blocks: Blocks, stored: bool) -> None:
        super().__init__()
        self.name, self.blocks, self.stored = name, blocks, stored
        self.coding: Coding | None = None
        self.gradient = Gradient.STRAIGHT_THROUGH
        self.mode = Mode.FLOAT
        self.top: int | None = None
        self.measurement = Measurement()
        # The last parameter, its state and coding, and its quantised values.
        self._cache: tuple[nn.Parameter, tuple[object, ...], Tensor] | None = None

    def forward(self, tensor: Tensor) -> Tensor:
        """Return the tensor, or its quantised values."""
        if self.mode is Mode.CALIBRATE and self.stored:
            check_finite(tensor, self.name)  # before what it makes of others is blamed
        elif self.mode is Mode.CALIBRATE and tensor.any():
            top = calibrated_top(tensor, self.name)
            self.top = top if self.top is None else max(self.top, top)
        if self.mode in (Mode.FLOAT, Mode.CALIBRATE):
            return tensor
        result = tensor
        if self.coding is not None:
            result = self._parameter(tensor) if self.stored else self.quantize(tensor, self.coding)
        if self.mode is Mode.MEASURE:
            self._measure(tensor.detach(), result.detach())
        return result

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_cache": None}  # made again from the parameter

    def _parameter(self, tensor: Tensor) -> Tensor:
        """Quantise W: a parameter again only if it or its coding is another than last time.

        A W that is computed from parameters is quantised at every pass. Writes into a parameter's
        ``.data`` leave no trace, and stay unnoticed: write under ``torch.no_grad()``.
        """
        assert self.coding is not None
        trained = torch.is_grad_enabled() and tensor.requires_grad
        if trained or not isinstance(tensor, nn.Parameter) or tensor.is_inference():
            return self.quantize(tensor, self.coding)
        state = (tensor.device, tensor.data_ptr(), tensor._version, tensor.dtype, self.coding)
        # The cache holds the parameter itself, so that no other can take its place in memory.
        if self._cache is None or self._cache[0] is not tensor or self._cache[1] != state:
            with torch.inference_mode(False), torch.no_grad():  # a pass with gradients may be next
                self._cache = tensor, state, self.quantize(tensor, self.coding)
        return self._cache[2]

    def quantize(self, tensor: Tensor, coding: Coding) -> Tensor:
        """Return the tensor's values in a coding.

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
        return shape[self.blocks.channel_axis(shape)]

    def stored_bits(self, tensor: Tensor) -> int:
        """Storage of the tensor in the operand's coding, E_top included [bit]."""
        coding = self.coding
        if coding is None:
            return tensor.numel() * FLOAT_BITS
        if isinstance(coding, Format):
            return format_bits(coding, tensor.shape, self.blocks)
        return coding.bits(tensor, self.blocks)

    def _measure(self, before: Tensor, after: Tensor) -> None:
        exact = before.double()
        self.measurement.signal += float(exact.square().sum())
        self.measurement.error += float((exact - after.double()).square().sum())
        self.measurement.elements += before.numel()
        self.measurement.bits += self.stored_bits(before)


class TransposedWeight(Operand):
    """W of a transposed convolution, (channels in, K per group, ...): blocks of each phase.

    Its taps belong to as many ordinary convolutions as the stride has phases
    (`workloads.transposed`); a block is BS input channels of one filter with one phase's taps. All
    phases share the tensor's E_top.
    """

    def __init__(self, name: str, stride: tuple[int, ...], groups: int) -> None:
        super().__init__(name, WEIGHT, stored=True)
        self._stride, self._groups = stride, groups

    def quantize(self, tensor: Tensor, coding: Coding) -> Tensor:
        """Return the tensor's values in a coding, phase by phase."""
        result = torch.empty_like(tensor)
        self.top = calibrated_top(tensor, self.name)
        for taps in self._phases(tensor):
            phase = super().quantize(self._transpose(tensor[taps]), coding)
            result[taps] = self._transpose(phase)
        return result

    def channels(self, shape: Sequence[int]) -> int:
        """The input channels of a group; of a depthwise one, the filters."""
        first, second, *taps = shape
        return super().channels((self._groups * second, first // self._groups, *taps))

    def stored_bits(self, tensor: Tensor) -> int:
        """Storage of all phases [bit]."""
        phases = [self._transpose(tensor[taps]) for taps in self._phases(tensor)]
        bits = sum(super(TransposedWeight, self).stored_bits(phase) for phase in phases)
        once = self.coding.tensor_bits if isinstance(self.coding, Format) else 0
        return bits - (len(phases) - 1) * once

    def _phases(self, tensor: Tensor) -> Iterator[tuple[slice, ...]]:
        """The taps of each phase as slices; no phase that the kernel does not reach."""
        starts = (
            range(min(step, n)) for step, n in zip(self._stride, tensor.shape[2:], strict=True)
        )
        for first in product(*starts):
            steps = (slice(at, None, step) for at, step in zip(first, self._stride, strict=True))
            yield (slice(None), slice(None), *steps)

    def _transpose(self, phase: Tensor) -> Tensor:
        """(channels in, K per group, ...) as (filters, C per group, ...); the same way back."""
        first, second, *taps = phase.shape
        grouped = phase.reshape(self._groups, -1, second, *taps).transpose(1, 2)
        return grouped.reshape(-1, first // self._groups, *taps)


class _StraightThrough(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: Tensor, coding: Quantizer, blocks: Blocks, name: str) -> Tensor:
        return coding.quantize(tensor.detach(), blocks, name)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor, None, None, None]:
        return grads[0], None, None, None


def format_bits(fmt: Format, shape: Sequence[int], blocks: Blocks) -> int:
    """Mantissas, codes and what is stored once (E_top, a scale) of a whole tensor [bit].

    Raises FormatError for an axis that is not there.
    """
    bits = math.prod(shape) * fmt.mantissa_bits
    if fmt.exponent_bits:
        blocks.check(shape, "tensor")
        bits += block_count(shape, blocks.of(fmt, shape)) * fmt.exponent_bits
    return bits + fmt.tensor_bits
