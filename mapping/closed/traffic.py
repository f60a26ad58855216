"""One mapping's traffic in closed form: the paper's model, and by effects up to the rules."""

from __future__ import annotations

from enum import Enum
from fractions import Fraction
from math import prod
from typing import Any

from bfpsim.arch import Arch
from bfpsim.mapping.closed import exact, paper
from bfpsim.mapping.closed.grid import Grid, whole_number
from bfpsim.mapping.closed.leaves import Leaves
from bfpsim.mapping.closed.movement import Axis, Repeats, coincidences, moved
from bfpsim.mapping.counts import Counts, Direction
from bfpsim.mapping.nest import DIMS, RELEVANT, TENSORS, Nest, Tensor
from bfpsim.mapping.window import Window
from bfpsim.quant.formats import LayerFormats


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


def payload_counts(nest: Nest, arch: Arch, formats: LayerFormats, effects: Effects) -> Counts:
    """Payload at the outermost level of a nest of the stored layer, with some effects modelled.

    Fractions where the paper's real-valued trips leave them; whole numbers with all of `EXACT`.
    """
    level, counts = arch.levels[0].name, Counts()
    tiles = _Tiles(nest, arch, effects)
    for tensor in ("I", "W"):
        fmt = formats.of(tensor)
        positions = nest.layer.R * nest.layer.S if tensor == "W" else 1
        kinds = {
            "mantissa": (exact.ELEMENTS, Fraction(fmt.mantissa_bits)),
            "exponent": (exact.ELEMENTS, paper.code_bits(fmt, positions)),
        }
        if Effect.BLOCKS in effects:
            blocks = exact.Cell(0, 1, fmt.block_size)
            kinds["exponent"] = (blocks, Fraction(fmt.exponent_bits))
        for kind, (cell, bits) in kinds.items():
            if bits:
                counts.add(level, tensor, "read", kind, tiles.fetched(tensor, cell) * bits)  # type: ignore[arg-type]
    fmt, elements = formats.O, prod(nest.layer.output_shape)
    codes = elements * paper.code_bits(fmt)
    if Effect.BLOCKS in effects:
        channels = nest.layer.output_shape[3]
        blocks_of_O = elements // channels * -(-channels // fmt.block_size)
        codes = Fraction(blocks_of_O * fmt.exponent_bits)
    times = Fraction(tiles.visited()) / elements
    results = Fraction(1) if Effect.PARTIAL_SUMS in effects else times
    counts.add(level, "O", "write", "mantissa", elements * fmt.mantissa_bits * results)
    counts.add(level, "O", "write", "exponent", codes * results)
    if Effect.PARTIAL_SUMS in effects:
        sums = (times - 1) * elements * arch.pe_array.accumulator_bits
        counts.add(level, "O", "write", "psum", sums)
        counts.add(level, "O", "read", "psum", sums)
    return counts


def times(nest: Nest, tensor: Tensor) -> int:
    """How often the whole of W or O moves in a nest with one boundary."""
    loops = [loop.dim for loop in nest.loops]
    absent = dict.fromkeys(loops, 0)
    axes = [paper.equal_tiles(d, 1, absent) for d in loops if d in RELEVANT[tensor]]
    idle = {d: Repeats([1, nest.trips[d]], (), ()) for d in loops if d not in RELEVANT[tensor]}
    return int(moved(nest.order, axes, idle)) if axes else 1


def moved_cells(
    nest: Nest, tensor: Tensor, cell: exact.Cell, sliding: bool, clipped: bool = True
) -> int:
    """Cells of a tensor that become resident over a nest of any number of boundaries.

    Of O that is every visit of its tiles: what is resident once, and the rest read back.
    sliding: whether the overlap of neighbouring boxes of I stays; clipped: whether padding is left
        out
    """
    leaves = {d: Leaves.nested(nest.extents[d], nest.cuts(d)) for d in nest.extents}
    axes = exact.axes_of(tensor, nest.layer, leaves, cell, sliding, whole_number, clipped)
    idle = {d: exact.repeats(d, leaves[d], whole_number) for d in exact.IDLE[tensor]}
    cells = moved(nest.order, axes, idle)
    if tensor == "I":
        cells -= coincidences(nest.order, axes, idle) or 0
    return int(cells)


class _Tiles:
    """The tiles of a nest with one boundary, as a set of effects sees them."""

    def __init__(self, nest: Nest, arch: Arch, effects: Effects) -> None:
        self._nest, self._effects = nest, effects
        self._sliding = arch.dma.halo == "sliding"
        self._leaves = {d: Leaves.nested(nest.extents[d], nest.cuts(d)) for d in nest.extents}
        self._absent = {d: int(not nest.cuts(d)) for d in nest.extents}

    def fetched(self, tensor: Tensor, cell: exact.Cell) -> Any:
        """Cells of I or W that move."""
        effects = self._effects
        if tensor == "I" and Effect.HALO in effects:
            whole = effects | {Effect.EDGES}
            clipped = Effect.PADDING in effects
            fetched = moved_cells(self._nest, "I", cell, self._sliding, clipped)
            overlap = fetched - self._moved("I", cell, whole)
            return self._moved("I", cell, effects) + overlap
        return self._moved(tensor, cell, effects)

    def visited(self) -> Any:
        """Elements of O over all visits of its tiles."""
        return self._moved("O", exact.ELEMENTS, self._effects)

    def _moved(self, tensor: Tensor, cell: exact.Cell, effects: Effects) -> Any:
        """Cells that move if a sweep of P or Q brings what a widened tile holds."""
        nest, leaves = self._nest, self._leaves
        axes = []
        for dims, sizes in exact.tile_sizes(tensor, nest.layer, leaves, cell).items():
            if dims in ("PR", "QS"):
                axes.append(self._window(dims, effects))
            else:
                axes.append(paper.equal_tiles(dims, Fraction(int(sizes.sum())), self._absent))
        trips = {d: self._trips(d, effects) for d in DIMS if d not in RELEVANT[tensor]}
        return moved(nest.order, axes, {d: Repeats([1, t], (), ()) for d, t in trips.items()})

    def _trips(self, dim: str, effects: Effects) -> Fraction:
        """Extent / tile as the paper has it, or whole tiles."""
        if Effect.EDGES in effects:
            return Fraction(self._nest.trips[dim])
        return Fraction(self._nest.extents[dim], self._nest.tile[dim])

    def _window(self, dims: str, effects: Effects) -> Axis[Any]:
        nest, dim = self._nest, dims[0]
        window, own = Window.of(nest.layer, dim), self._leaves[dim]

        def padding(low: Any, high: Any) -> Any:
            """Rows of the ranges that are not stored."""
            start, stop = window.stored(low, high)
            return (window.span(high - low) - (stop - start)) * (Effect.PADDING in effects)

        every = window.span(Fraction(nest.tile[dim])) * self._trips(dim, effects)
        if Effect.EDGES in effects:
            every = Fraction(int(window.span(own.lengths).sum()))
        every -= int(padding(own.low, own.high).sum())
        swept = Fraction(window.span(nest.extents[dim]) - int(padding(0, nest.extents[dim])))
        return paper.equal_tiles(dims, every, self._absent, {dim: swept})


def inner_counts(nest: Nest, arch: Arch, formats: LayerFormats) -> tuple[Counts, int]:
    """The array's side of the innermost level over a whole nest, and the cycles it computes."""
    level, counts, grid = arch.levels[-1].name, Counts(), Grid.of_nest(nest, arch, formats)
    for tensor, reads, passes in (
        ("I", grid.input_reads, grid.input_passes),
        ("W", grid.weight_reads, grid.weight_passes),
    ):
        fmt = formats.of(tensor)  # type: ignore[arg-type]
        mantissas = reads.elements * fmt.mantissa_bits
        codes = reads.codes.item() * fmt.exponent_bits
        counts.add(level, tensor, "read", "mantissa", mantissas * passes)  # type: ignore[arg-type]
        counts.add(level, tensor, "read", "exponent", codes * passes)  # type: ignore[arg-type]
    elements, fmt = prod(nest.layer.output_shape), formats.O
    sums = (grid.contributions - 1) * elements * arch.pe_array.accumulator_bits
    counts.add(level, "O", "read", "psum", sums)
    counts.add(level, "O", "write", "psum", sums)
    mantissas = elements * fmt.mantissa_bits
    counts.add(level, "O", "write", "mantissa", mantissas)
    counts.add(level, "O", "write", "exponent", grid.results_bits - mantissas)
    return counts, int(grid.compute_cycles)


def paper_inner_counts(nest: Nest, arch: Arch, formats: LayerFormats) -> Counts:
    """DM_S of the paper, in bits."""
    counts, level = Counts(), arch.levels[-1].name
    elements = paper.array_elements(paper.of_nest(nest), arch.pe_array)
    for tensor in TENSORS:
        direction: Direction = "write" if tensor == "O" else "read"
        fmt = formats.of(tensor)
        positions = nest.layer.R * nest.layer.S if tensor == "W" else 1
        moved_bits = elements[tensor] * fmt.mantissa_bits
        counts.add(level, tensor, direction, "mantissa", moved_bits)
        codes = elements[tensor] * paper.code_bits(fmt, positions)
        counts.add(level, tensor, direction, "exponent", codes)
    return counts
