"""I and W as memories hold them: packed in DRAM, copies of boxes on chip."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from bfpsim.mapping.steps.tiles import ActivationBox
from bfpsim.mapping.steps.volumes import Moved
from bfpsim.mapping.window import Interval
from bfpsim.quant.formats import Format
from bfpsim.quant.formats.exact import ExactArray, from_float
from bfpsim.quant.formats.layout import ActivationLayout, WeightLayout, indices
from bfpsim.quant.formats.packing import image, interpret, read_fields, write_fields
from bfpsim.quant.formats.quantize import Quantized, scale_below, unscaled

Fields = NDArray[np.int64]


Box_contra = TypeVar("Box_contra", contravariant=True)
Copy_co = TypeVar("Copy_co", covariant=True)


class Source(Protocol[Box_contra, Copy_co]):
    """What tiles are copied from."""

    @property
    def level(self) -> str:
        """The name of the level that it lies at."""

    def part(self, box: Box_contra) -> Copy_co:
        """A copy of a box."""


class FilterBox(NamedTuple):
    """A box of (filters, C, R, S) weights: half-open ranges, and the filters as intervals."""

    filters: tuple[Interval, ...]
    c: Interval
    r: Interval
    s: Interval


@dataclass(frozen=True, eq=False)
class InputCopy:
    """A box of I: fields (n, h, w, channels), and codes (n, h, w, blocks touched).

    scale: the tensor's own, as `Quantized` has it; None: what follows from E_top
    """

    box: ActivationBox
    fields: Fields
    codes: Fields
    fmt: Format
    top: int
    scale: float | None = None

    @property
    def moved(self) -> Moved:
        """Bits of copying it."""
        return _moved(self.fields, self.codes, self.fmt)

    def part(self, box: ActivationBox) -> InputCopy:
        """A copy of a box that lies in this one."""
        where, own = self._pixels(box), self.box.channels
        fields = self.fields[where][..., places(indices(box.channels), indices(own))].copy()
        size = self.fmt.block_size
        codes = self.codes[where]
        if self.fmt.exponent_bits:
            codes = codes[..., places(blocks(box.channels, size), blocks(own, size))]
        return replace(self, box=box, fields=fields, codes=codes.copy())

    def extended(self, fresh: InputCopy, box: ActivationBox) -> InputCopy:
        """The tile of a box: rows or columns that are here, then the fresh ones."""
        fields = _slide(self.box, self.fields, box, fresh.box, fresh.fields)
        codes = _slide(self.box, self.codes, box, fresh.box, fresh.codes)
        return replace(self, box=box, fields=fields, codes=codes)

    def values(self, box: ActivationBox) -> ExactArray:
        """The numbers in a box that lies in this one."""
        if box == self.box:
            return self._values
        channels = places(indices(box.channels), indices(self.box.channels))
        digits = self._values.digits[self._pixels(box)][..., channels]
        return self._values.with_digits(digits)

    @cached_property
    def _values(self) -> ExactArray:
        channels = indices(self.box.channels)
        scale = scale_below(self.fmt, self.top) if self.scale is None else self.scale
        return _decode(self.fields, self.codes, self.fmt, self.top, {3: channels}, scale)

    def _pixels(self, box: ActivationBox) -> tuple[slice, slice, slice]:
        return within(box.n, self.box.n), within(box.h, self.box.h), within(box.w, self.box.w)


@dataclass(frozen=True, eq=False)
class WeightCopy:
    """A box of W: fields (filters, c, r, s), and codes (filters, blocks touched, r, s).

    Blocks that span taps have one code in place of r, s.

    depthwise: blocks run along the filters; codes are then (blocks touched, 1, r, s)
    """

    box: FilterBox
    fields: Fields
    codes: Fields
    fmt: Format
    top: int
    depthwise: bool
    scale: float = 1.0

    @property
    def moved(self) -> Moved:
        """Bits of copying it."""
        return _moved(self.fields, self.codes, self.fmt)

    def part(self, box: FilterBox) -> WeightCopy:
        """A copy of a box that lies in this one."""
        own, size = self.box, self.fmt.block_size
        filters = places(indices(box.filters), indices(own.filters))
        codes = self.codes
        if self.fmt.exponent_bits and self.depthwise:
            codes = codes[places(blocks(box.filters, size), blocks(own.filters, size))]
        elif self.fmt.exponent_bits:
            codes = codes[filters][:, places(blocks([box.c], size), blocks([own.c], size))]
        if self.fmt.exponent_bits and not self.fmt.spans_taps:
            codes = codes[..., within(box.r, own.r), within(box.s, own.s)]
        fields = self.fields[filters][self._cells(box)].copy()
        return replace(self, box=box, fields=fields, codes=codes.copy())

    def values(self, box: FilterBox) -> ExactArray:
        """The numbers in a box that lies in this one."""
        if box == self.box:
            return self._values
        filters = places(indices(box.filters), indices(self.box.filters))
        return self._values.with_digits(self._values.digits[filters][self._cells(box)])

    @cached_property
    def _values(self) -> ExactArray:
        cut = {0: indices(self.box.filters)} if self.depthwise else {1: indices([self.box.c])}
        return _decode(self.fields, self.codes, self.fmt, self.top, cut, self.scale)

    def _cells(self, box: FilterBox) -> tuple[slice, slice, slice, slice]:
        own = self.box
        c, r, s = within(box.c, own.c), within(box.r, own.r), within(box.s, own.s)
        return slice(None), c, r, s


class PackedInput:
    """I in DRAM."""

    level = "DRAM"

    def __init__(self, inputs: Quantized, layout: ActivationLayout) -> None:
        self._layout = layout
        self._fmt, self._top, self._scale = inputs.fmt, inputs.top, inputs.scale
        self._memory = image(inputs, self._layout)

    def part(self, box: ActivationBox) -> InputCopy:
        """A copy of a box."""
        fields, codes = read_box(self._memory, self._layout, self._fmt, box)
        return InputCopy(box, fields, codes, self._fmt, self._top, self._scale)


class PackedWeight:
    """W in DRAM."""

    level = "DRAM"

    def __init__(self, weights: Quantized, layout: WeightLayout) -> None:
        self._layout = layout
        self._fmt, self._top, self._scale = weights.fmt, weights.top, weights.scale
        self._memory = image(weights, self._layout)

    def part(self, box: FilterBox) -> WeightCopy:
        """A copy of a box."""
        fmt, layout = self._fmt, self._layout
        at = layout.field_addresses(box.filters, box.c)[..., slice(*box.r), slice(*box.s)]
        fields = interpret(read_fields(self._memory, at, fmt.mantissa_bits), fmt)
        codes = np.empty(0, np.int64)
        if fmt.exponent_bits:
            cut = box.filters if layout.depthwise else [box.c]
            touched = blocks(cut, fmt.block_size)
            at = layout.code_addresses(indices(box.filters), touched)
            if not fmt.spans_taps:
                at = at[..., slice(*box.r), slice(*box.s)]
            codes = read_fields(self._memory, at, fmt.exponent_bits)
        return WeightCopy(box, fields, codes, fmt, self._top, layout.depthwise, self._scale)


def exactly(q: Quantized) -> ExactArray:
    """The values of a quantised tensor, its own scale a factor of them."""
    values = from_float(unscaled(q))
    return ExactArray(values.digits, values.exponent, q.scale)


def read_box(
    memory: NDArray[np.uint8], layout: ActivationLayout, fmt: Format, box: ActivationBox
) -> tuple[Fields, Fields]:
    """Fields (n, h, w, channels) and codes (n, h, w, blocks touched) out of a packed activation."""
    at = layout.field_addresses(box.n, box.h, box.w, box.channels)
    fields = interpret(read_fields(memory, at, fmt.mantissa_bits), fmt)
    codes = np.empty((*fields.shape[:3], 0), np.int64)
    if fmt.exponent_bits:
        touched = blocks(box.channels, fmt.block_size)
        at = layout.code_addresses(box.n, box.h, box.w, touched)
        codes = read_fields(memory, at, fmt.exponent_bits)
    return fields, codes


def write_box(
    memory: NDArray[np.uint8],
    layout: ActivationLayout,
    fmt: Format,
    box: ActivationBox,
    fields: Fields,
    codes: Fields,
) -> None:
    """Write fields and codes, as `read_box` gives them, of a box that ends on blocks."""
    at = layout.field_addresses(box.n, box.h, box.w, box.channels)
    write_fields(memory, at, fmt.mantissa_bits, fields)
    if fmt.exponent_bits:
        touched = blocks(box.channels, fmt.block_size)
        at = layout.code_addresses(box.n, box.h, box.w, touched)
        write_fields(memory, at, fmt.exponent_bits, codes)


def blocks(intervals: Sequence[Interval], size: int) -> Fields:
    """Indices of the blocks touched, ascending."""
    return np.unique(indices(intervals) // size)


def _moved(fields: Fields, codes: Fields, fmt: Format) -> Moved:
    return Moved(fields.size * fmt.mantissa_bits, codes.size * fmt.exponent_bits)


def within(part: Interval, whole: Interval) -> slice:
    """Where a range lies in another; an empty one may lie anywhere, and takes nothing."""
    return slice(part[0] - whole[0], part[1] - whole[0])


def places(part: Fields, whole: Fields) -> slice | Fields:
    """Where ascending indices stand among others: a slice if nothing stands between them."""
    at = np.searchsorted(whole, part)
    if at.size and at[-1] - at[0] + 1 == at.size:
        return slice(int(at[0]), int(at[-1]) + 1)
    return at


def _slide(
    resident: ActivationBox, old: Fields, box: ActivationBox, new: ActivationBox, fresh: Fields
) -> Fields:
    """The tile of `box`: rows or columns that were resident, then the fresh ones."""
    if new.h != box.h:
        axis, (low, high), start = 1, box.h, resident.h[0]
    else:
        axis, (low, high), start = 2, box.w, resident.w[0]
    kept = range(low - start, high - start - fresh.shape[axis])
    return np.concatenate([np.take(old, kept, axis=axis), fresh], axis=axis)


def _decode(
    fields: Fields,
    codes: Fields,
    fmt: Format,
    top: int,
    cut: Mapping[int, Fields],
    scale: float,
) -> ExactArray:
    """Values of a tile, the tensor's own scale a factor of them.

    cut: the axis that blocks cut, and its channels (or filters)
    """
    if fmt.exponent_bits:  # of every element along the axis, so that a block is one of them
        ((axis, cells),) = cut.items()
        of_cell = cells // fmt.block_size
        codes = np.take(codes, np.searchsorted(np.unique(of_cell), of_cell), axis=axis)
    return exactly(Quantized(fields, codes, top, fmt, (1,) * fields.ndim, scale))
