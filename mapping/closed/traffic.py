"""One mapping's traffic in closed form: the paper's model, and by effects up to the rules."""

from __future__ import annotations

from enum import Enum
from fractions import Fraction
from math import prod
from typing import Any, cast

from bfpsim.arch import Arch
from bfpsim.mapping.closed import exact, paper
from bfpsim.mapping.closed.grid import whole_number
from bfpsim.mapping.closed.leaves import Leaves
from bfpsim.mapping.closed.movement import Axis, Repeats, coincidences, moved
from bfpsim.mapping.counts import Counts
from bfpsim.mapping.nest import EVERY_DIM, RELEVANT, Nest, Tensor
from bfpsim.mapping.window import Window
from bfpsim.quant.formats import ActivationLayout, LayerFormats


class Effect(Enum):
    """A rung: one thing that happens and that the paper's model leaves out. In ladder order."""

    EDGES = "edges"
    """Whole trips and edge tiles: the last tile of a dimension is cut to what is left."""
    PADDING = "padding"
    """Padding is not stored, so it is not fetched."""
    HALO = "halo"
    """Exactly the overlap that rule 3 keeps: none without sliding, and no rows between strides."""
    PARTIAL_SUMS = "partial_sums"
    """Unfinished outputs move at `accumulator_bits`, and are read back."""
    BLOCKS = "cut_blocks"
    """Exponents of short and cut blocks, not SE / BS per element."""
    BURSTS = "bursts"
    """The outermost level moves whole bursts."""


Effects = frozenset[Effect]
PAPER: Effects = frozenset()
EXACT: Effects = frozenset(Effect) - {Effect.BURSTS}
FULL: Effects = frozenset(Effect)


class Payload:
    """What a nest with one boundary moves at the outermost level, bursts apart, by any effects.

    nest: of the layer as stored
    """

    def __init__(self, nest: Nest, arch: Arch, formats: LayerFormats) -> None:
        self._nest, self._arch, self._formats = nest, arch, formats
        self._leaves = leaves_of_nest(nest)
        self._sizes: dict[tuple[Tensor, exact.Cell], dict[str, int]] = {}
        self._known: dict[object, Any] = {}

    def counts(self, effects: Effects) -> Counts:
        """Bits per flow, with some effects modelled.

        Fractions where the paper's real-valued trips leave them; whole numbers with all of `EXACT`.
        """
        level, counts, layer = self._arch.levels[0].name, Counts(), self._nest.layer
        for tensor in ("I", "W"):
            fmt = self._formats.of(tensor)
            positions = layer.R * layer.S if tensor == "W" else 1
            moved = self._moved(tensor, exact.ELEMENTS, effects)
            counts.add(level, tensor, "read", "mantissa", moved * fmt.mantissa_bits)
            if Effect.BLOCKS not in effects:
                codes = moved * paper.code_bits(fmt, positions)
            elif fmt.exponent_bits:
                blocks = exact.Cell.blocks(fmt)
                codes = self._moved(tensor, blocks, effects) * fmt.exponent_bits
            else:
                codes = 0
            counts.add(level, tensor, "read", "exponent", codes)
        fmt, elements = self._formats.O, prod(layer.output_shape)
        codes = elements * paper.code_bits(fmt)
        if Effect.BLOCKS in effects:
            codes = ActivationLayout(layer.output_shape, fmt).bits - elements * fmt.mantissa_bits
        visited = self._moved("O", exact.ELEMENTS, effects)
        results = Fraction(1) if Effect.PARTIAL_SUMS in effects else Fraction(visited, elements)
        counts.add(level, "O", "write", "mantissa", elements * fmt.mantissa_bits * results)
        counts.add(level, "O", "write", "exponent", codes * results)
        if Effect.PARTIAL_SUMS in effects:
            sums = (visited - elements) * self._arch.pe_array.accumulator_bits
            counts.add(level, "O", "write", "psum", sums)
            counts.add(level, "O", "read", "psum", sums)
        return counts

    def _moved(self, tensor: Tensor, cell: exact.Cell, effects: Effects) -> Any:
        """Cells of I and W that are fetched; of O, over all visits of its tiles."""
        effects = effects & _SHAPING[tensor]
        key = (tensor, cell, effects)
        if key not in self._known:
            widened = effects - {Effect.HALO}
            if Effect.HALO not in effects:
                self._known[key] = self._model(tensor, cell, effects)
            elif Effect.EDGES in effects:
                self._known[key] = self._fetched(cell, Effect.PADDING in effects)
            else:  # what the halo explains where edges are counted, on top of the paper's trips
                whole = self._moved(tensor, cell, widened | {Effect.EDGES})
                exact_cells = self._fetched(cell, Effect.PADDING in effects)
                self._known[key] = self._moved(tensor, cell, widened) + exact_cells - whole
        return self._known[key]

    def _fetched(self, cell: exact.Cell, clipped: bool) -> int:
        """Cells of I that rule 3 moves."""
        key = (cell, clipped)
        if key not in self._known:
            windows = self._windows(clipped)
            self._known[key] = _moved_cells(self._nest, "I", self._leaves, cell, windows)
        return int(self._known[key])

    def _windows(self, clipped: bool) -> list[Axis[Any]]:
        if ("windows", clipped) not in self._known:
            sliding = self._arch.dma.halo == "sliding"
            self._known["windows", clipped] = exact.window_axes(
                self._nest.layer, self._leaves, sliding, whole_number, clipped
            )
        return cast(list[Axis[Any]], self._known["windows", clipped])

    def _model(self, tensor: Tensor, cell: exact.Cell, effects: Effects) -> Any:
        """Cells that move if a sweep of P or Q brings what a widened tile holds."""
        nest = self._nest
        looped = [loop.dim for loop in nest.loops]
        axes = []
        for dims, size in self._totals(tensor, cell).items():
            present = "".join(d for d in dims if d in looped)
            if dims in ("PR", "QS"):
                axes.append(self._window(dims[0], present, effects))
            else:
                axes.append(paper.equal_tiles(present, size, _PRESENT))
        trips = {d: self._trips(d, effects) for d in looped if d not in RELEVANT[tensor]}
        return moved(nest.order, axes, {d: Repeats([1, t], (), ()) for d, t in trips.items()})

    def _totals(self, tensor: Tensor, cell: exact.Cell) -> dict[str, int]:
        """All tiles of a tensor together, along each axis."""
        if (tensor, cell) not in self._sizes:
            sizes = exact.tile_sizes(tensor, self._nest.layer, self._leaves, cell)
            self._sizes[tensor, cell] = {dims: int(of.sum()) for dims, of in sizes.items()}
        return self._sizes[tensor, cell]

    def _trips(self, dim: str, effects: Effects) -> Fraction | int:
        """Extent / tile as the paper has it, or whole tiles."""
        if Effect.EDGES in effects:
            return self._nest.trips[dim]
        return Fraction(self._nest.extents[dim], self._nest.tile[dim])

    def _window(self, dim: str, present: str, effects: Effects) -> Axis[Any]:
        """Rows of P, or columns of Q."""
        nest, window, own = self._nest, Window.of(self._nest.layer, dim), self._leaves[dim]
        extent, padded = nest.extents[dim], Effect.PADDING in effects
        every: Any = window.span(nest.tile[dim]) * self._trips(dim, effects)
        if Effect.EDGES in effects:
            every = int(window.span(own.lengths).sum())
        swept = window.span(extent)
        if padded:  # what is not stored
            start, stop = window.stored(own.low, own.high)
            every -= int((window.span(own.lengths) - (stop - start)).sum())
            low, high = window.interval((0, extent))
            swept = high - low
        return paper.equal_tiles(present, every, _PRESENT, {dim: swept})


_PRESENT = dict.fromkeys(EVERY_DIM, 0)
"""No dimension's loop is absent."""

_SHAPING: dict[Tensor, Effects] = {
    "I": frozenset({Effect.EDGES, Effect.PADDING, Effect.HALO}),
    "W": frozenset({Effect.EDGES}),
    "O": frozenset({Effect.EDGES}),
}
"""The effects that change how many cells of a tensor move."""


def times(nest: Nest, tensor: Tensor) -> int:
    """How often the whole of W or O moves in a nest with one boundary."""
    loops = [loop.dim for loop in nest.loops]
    axes = [paper.equal_tiles(d, 1, _PRESENT) for d in loops if d in RELEVANT[tensor]]
    idle = {d: Repeats([1, nest.trips[d]], (), ()) for d in loops if d not in RELEVANT[tensor]}
    return int(moved(nest.order, axes, idle)) if axes else 1


def leaves_of_nest(nest: Nest) -> dict[str, Leaves]:
    """The innermost tiles of every dimension."""
    return {d: Leaves.nested(extent, nest.cuts(d)) for d, extent in nest.extents.items()}


def moved_cells(nest: Nest, tensor: Tensor, cell: exact.Cell, sliding: bool) -> int:
    """Cells of a tensor that become resident over a nest of any number of boundaries.

    Of O that is every visit of its tiles: what is resident once, and the rest read back.
    sliding: whether the overlap of neighbouring boxes of I stays
    """
    leaves = leaves_of_nest(nest)
    windows = exact.window_axes(nest.layer, leaves, sliding, whole_number) if tensor == "I" else []
    return _moved_cells(nest, tensor, leaves, cell, windows)


def _moved_cells(
    nest: Nest,
    tensor: Tensor,
    leaves: dict[str, Leaves],
    cell: exact.Cell,
    windows: list[Axis[Any]],
) -> int:
    axes = [*exact.axes_of(tensor, nest.layer, leaves, cell, whole_number), *windows]
    loops = set(nest.order)
    idle = {d: exact.repeats(d, leaves[d], whole_number) for d in exact.IDLE[tensor] if d in loops}
    cells = moved(nest.order, axes, idle)
    if windows:
        cells -= coincidences(nest.order, axes, idle) or 0
    return int(cells)
