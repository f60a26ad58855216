"""What operations of the vector unit read for each part of what they write.

Both homes of the rules build on it: what is here is definition, not movement. An operation goes
over a grid (samples, rows, columns, channels): that of its output, or of its operand if it reduces
a map to one pixel. Each tensor has a line of the grid on each of its axes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import product
from math import ceil, prod
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bfpsim.mapping.window import Window
from bfpsim.quant.formats import Format
from bfpsim.workloads.layer import Shape
from bfpsim.workloads.program import Operation, View
from bfpsim.workloads.vector import operations_of, vector_function

Vector = NDArray[np.int64]


class VectorTiling(NamedTuple):
    """How much of the grid a tile of a vector operation has; samples come one at a time."""

    rows: int
    columns: int
    channels: int


class Whole(NamedTuple):
    """All of an axis is needed, whatever the grid's range: of a single one, or of all channels."""

    extent: int

    def stored(self, low: Any, high: Any) -> tuple[Any, Any]:
        """What a range of the grid needs; of arrays, too."""
        return low * 0, high * 0 + self.extent


class Part(NamedTuple):
    """The axis lies in the grid's from `first` on, `per` of the grid's to one of its own.

    Of a whole axis of the same extent `first` is 0 and `per` 1.
    """

    first: int
    extent: int
    per: int = 1

    def stored(self, low: Any, high: Any) -> tuple[Any, Any]:
        """What a range of the grid needs, as Whole's; nothing is an empty range."""
        low, high = (
            np.minimum(np.maximum(edge - self.first, 0), self.extent * self.per)
            for edge in (low, high)
        )
        return low // self.per, -(-high // self.per)


class Stretched(NamedTuple):
    """An axis of `inputs`, stretched to `outputs`: place i is nearest to i * inputs // outputs.

    beside: how many on either side of that may have a share in it
    """

    inputs: int
    outputs: int
    beside: int = 0

    def stored(self, low: Any, high: Any) -> tuple[Any, Any]:
        """What a range of the grid needs, as Whole's."""
        first, last = (edge * self.inputs // self.outputs for edge in (low, high - 1))
        return (
            np.maximum(first - self.beside, 0),
            np.minimum(last + self.beside, self.inputs - 1) + 1,
        )


Line = Window | Whole | Part | Stretched
Lines = tuple[Line, Line, Line, Line]


class Access(NamedTuple):
    """How a stored tensor is gone through.

    lines: what of samples, rows, columns and channels a range of the grid's needs. None: elements
        move in a way that is not known, so every output may need all of it; then it passes in
        order, once
    box: what of it is read or written at all, from the front
    """

    view: View
    lines: Lines | None
    box: Shape


class Loop(NamedTuple):
    """A loop over ranges low .. high of an axis of the grid; axis None: over readings."""

    axis: int | None
    low: Vector
    high: Vector


@dataclass(frozen=True)
class Plan:
    """What a vector operation goes over and through.

    grid: (samples, rows, columns, channels)
    readings: how often it goes over a sample, all but the last time without writing
    by_pixel: whether results depend on all channels. Then ranges of channels come innermost, and
        where there are several, a pixel is read once to find out, and once more to write
    grid_work: operations of the lanes on the elements of the grid, evenly over all readings
    result_work: those for each element that is written, requantisation included; with
        `grid_work` they are the program's `vector_work`
    """

    grid: Shape
    readings: int
    reads: tuple[Access, ...]
    writes: Access
    by_pixel: bool
    grid_work: int
    result_work: int

    def loops(self, tiling: VectorTiling) -> tuple[Loop, ...]:
        """The loops over the grid's tiles, outer to inner, and the one over readings."""
        sizes = (1, tiling.rows, tiling.columns, tiling.channels)
        axes = []
        for axis, (extent, size) in enumerate(zip(self.grid, sizes, strict=True)):
            low = np.arange(0, extent, size)
            axes.append(Loop(axis, low, np.minimum(low + size, extent)))
        samples, rows, columns, channels = axes
        again = self.by_pixel and len(channels.low) > 1 and self.writes.box[3] == self.grid[3]
        once = np.zeros(2 if again else self.readings, np.int64)
        reading = Loop(None, once, once)
        if self.by_pixel:
            return samples, columns, rows, reading, channels
        return samples, reading, channels, columns, rows


def plan_of(operation: Operation) -> Plan:
    """How the vector unit goes about an operation. Raises ValueError for another unit's."""
    core, out = operation.nodes[0], operation.writes.shape
    function = vector_function(core)
    if operation.unit != "vector" or function is None:
        raise ValueError(f"{operation.name}: unit {operation.unit}; allowed: vector")
    views = tuple(dict.fromkeys(operation.reads))
    grid, readings = out, 1
    if function.reach == "map":
        reads = tuple(_access(view, None) for view in views)
        over = views[0].shape
        if _alike(out, over) is not None and _reduces(over, out):
            grid, readings = over, function.readings
            reads = tuple(_access(view, _spread(view.shape, over)) for view in views)
    elif function.reach == "window":
        reads = tuple(_access(view, _windows(operation, view)) for view in views)
    elif function.reach == "copy":
        reads = _copied(core.function or core.op, views, out)
    else:
        lines_of = _spread if function.reach == "element" else _through
        reads = tuple(_access(view, lines_of(view.shape, out)) for view in views)
    addends = tuple(
        _access(view, _spread(view.shape, out))
        for view in dict.fromkeys(operation.addends)
        if view not in views
    )
    writes = _access(operation.writes, _alike(out, grid))
    by_pixel = operation.whole_channels or function.reach == "channels" or out[3] < grid[3]
    return Plan(grid, readings, reads + addends, writes, by_pixel, *_work(operation))


def vector_tilings(operation: Operation, formats: Mapping[str, Format]) -> tuple[VectorTiling, ...]:
    """Tilings to choose from, those of the largest tiles first.

    Channels are cut between blocks of what is written, columns only where a row is too much, and
    channels on which a result depends where a pixel is.

    formats: by activation
    """
    plan = plan_of(operation)
    _, rows, columns, channels = plan.grid
    block = formats[plan.writes.view.activation].block_size
    widths = [-(-size // block) * block for size in _shares(channels)]
    widths = [channels, *dict.fromkeys(width for width in widths if width < channels)]
    strips = [(1, strip) for strip in _shares(columns)[1:]]
    maps = [*((height, columns) for height in _shares(rows)), *strips]
    made = [VectorTiling(*each, width) for each, width in product(maps, widths)]
    if plan.by_pixel:
        made = [own for own in made if own.channels == channels or own[:2] == (1, 1)]
    return tuple(sorted(made, key=lambda own: (-prod(own), -own.channels, -own.columns)))


def _shares(extent: int) -> list[int]:
    """Sizes that cut an extent into 1, 2, 3, 4, 6, 8, 12, ... parts, descending."""
    parts = sorted(
        own << power
        for power in range(extent.bit_length())
        for own in (2, 3)
        if own << power < 2 * extent
    )
    sizes = (max(1, -(-extent // own)) for own in (1, *parts))
    return [*dict.fromkeys(sizes)]


def pieces(box: Shape, steps: int, block: int) -> tuple[int, int, int, int]:
    """Sizes of samples, rows, columns and channels that cut a box into at most so many pieces.

    block: channels are cut at its multiples
    """
    sizes = []
    for axis, extent in enumerate(box):
        size = ceil(extent / min(extent, steps))
        if axis == 3:
            size = min(extent, -(-size // block) * block)
        sizes.append(size)
        steps //= ceil(extent / size)
    return sizes[0], sizes[1], sizes[2], sizes[3]


def _access(view: View, lines: Lines | None) -> Access:
    return Access(view, lines, view.shape)


def _spread(shape: Shape, grid: Shape) -> Lines | None:
    """Lines of an operand with the grid's extents, or single ones; None if it has others.

    One that has a value per channel and no more is kept as a whole.
    """
    kept = prod(shape[:3]) == 1 < prod(grid[:3]) and shape[3] == grid[3]
    return _alike(shape, grid, pixelwise=not kept)


def _through(shape: Shape, grid: Shape) -> Lines | None:
    """Lines of an operand whose channels all have a share in a result, however many there are."""
    return _alike(shape, grid, pixelwise=shape[3] == grid[3])


def _alike(shape: Shape, grid: Shape, *, pixelwise: bool = True) -> Lines | None:
    """Lines of a tensor with the grid's extents, or single ones; None if it has others.

    pixelwise: without, all channels are needed, however many
    """
    lines: list[Line] = []
    for axis, (own, extent) in enumerate(zip(shape, grid, strict=True)):
        if axis == 3 and not pixelwise:
            lines.append(Whole(own))
        elif own == extent > 1:
            lines.append(Part(0, own))
        elif own == 1:
            lines.append(Whole(1))
        else:
            return None
    return _four(lines)


def _windows(operation: Operation, view: View) -> Lines | None:
    pool = operation.nodes[0].pool
    N, H, W, C = view.shape
    if pool is None or view not in operation.reads:
        return None
    rows, columns = (
        Window(pool.stride[axis], pool.kernel[axis], 1, pool.padding[axis], extent)
        for axis, extent in enumerate((H, W))
    )
    return Part(0, N), rows, columns, Part(0, C)


# How many rows or columns beside the nearest have a share: of none, linear, or cubic splines.
_BESIDE = {
    "upsample_nearest1d": 0, "upsample_nearest2d": 0, "upsample": 1, "upsample_linear1d": 1,
    "upsample_bilinear2d": 1, "resize": 2, "interpolate": 2,
}  # fmt: skip
_REPEATED = ("expand", "broadcast_to")
_JOINED = ("concat", "cat", "concat_tokens", "tokens", "reshape", "flatten", "view")
_CUT = (
    "split", "split_with_sizes", "chunk", "unbind", "select", "slice", "narrow", "crop",
)  # fmt: skip


def _copied(function: str, views: tuple[View, ...], out: Shape) -> tuple[Access, ...]:
    """How a function that moves elements reads each operand."""
    N, P, Q, K = out
    shapes = [view.shape for view in views]
    if function in _BESIDE and len(views) == 1:
        ((n, h, w, c),) = shapes
        if (n, c) == (N, K) and h <= P and w <= Q:
            rows, columns = _stretched(function, h, P), _stretched(function, w, Q)
            return (_access(views[0], (Part(0, N), rows, columns, Part(0, K))),)
    if function in _REPEATED:
        return tuple(_access(view, _spread(view.shape, out)) for view in views)
    if function in _JOINED and all(shape[:3] == out[:3] for shape in shapes):
        firsts = _running(shape[3] for shape in shapes)
        if firsts[-1] == K:
            return tuple(
                _access(view, (Part(0, N), Part(0, P), Part(0, Q), Part(first, view.shape[3])))
                for view, first in zip(views, firsts, strict=False)
            )
    if function in _JOINED and Q == 1 and all((n, c) == (N, K) for n, _, _, c in shapes):
        firsts = _running(shape[1] * shape[2] for shape in shapes)
        if firsts[-1] == P:
            return tuple(
                _access(
                    view,
                    (Part(0, N), Part(first, view.shape[1], w), Whole(w), Part(0, K)),
                )
                for view, first in zip(views, firsts, strict=False)
                for w in view.shape[2:3]
            )
    if function in _CUT and len(views) == 1:
        own = views[0].shape
        if all(part <= extent for part, extent in zip(out, own, strict=True)):
            return (Access(views[0], None, out),)
    return tuple(_access(view, None) for view in views)


def _stretched(function: str, inputs: int, outputs: int) -> Line:
    return Whole(1) if inputs == 1 else Stretched(inputs, outputs, _BESIDE[function])


def _running(widths: Iterable[int]) -> list[int]:
    firsts = [0]
    for width in widths:
        firsts.append(firsts[-1] + width)
    return firsts


def _four(lines: list[Line]) -> Lines:
    return lines[0], lines[1], lines[2], lines[3]


def _reduces(over: Shape, out: Shape) -> bool:
    """Whether one result after the other is finished as a grid is gone through."""
    return out[0] == over[0] and (out[2] == over[2] or out[1] == 1)


def _work(operation: Operation) -> tuple[int, int]:
    """Operations on the whole grid, and on each result."""
    core, *fused = operation.nodes
    function, written = vector_function(core), operation.writes.elements
    assert function is not None
    given = [view.shape for view in operation.reads]
    on_grid, per_result = operations_of(core, given, operation.writes.shape), 1  # requantisation
    if function.reach in ("element", "copy") or core.pool is not None:
        on_grid, per_result = 0, 1 + on_grid // written
    for node in fused:
        operands = 2 if node.function == "add_parameter" else len(node.inputs)
        alike = [operation.writes.shape] * operands
        per_result += operations_of(node, alike, operation.writes.shape) // written
    return on_grid, per_result
