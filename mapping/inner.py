"""The mapper inside SRAM: tiles and orders of the levels between SRAM and the array.

Given what stands outside, all tile sizes of a level are priced at once for every way of reuse. Of
several levels the outer ones are tried in the order of a bound: their own cost, and the least that
the levels inside would cost without them.
"""

from __future__ import annotations

from collections.abc import Iterator
from collections.abc import Mapping as Table
from dataclasses import dataclass
from heapq import heappop, heappush
from math import prod
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bfpsim.arch import Arch, Level
from bfpsim.mapping.candidates import undominated
from bfpsim.mapping.closed import exact
from bfpsim.mapping.closed.array import axis_sums
from bfpsim.mapping.closed.leaves import Leaves, Vector
from bfpsim.mapping.closed.level_grid import LevelGrid, on_axes
from bfpsim.mapping.closed.levels import tile_bits
from bfpsim.mapping.nest import EVERY_DIM, REDUCTION, RELEVANT, TENSORS, Mapping, Nest, join
from bfpsim.mapping.room import claims, inner_claim
from bfpsim.mapping.window import Window
from bfpsim.quant.formats import ActivationLayout, LayerFormats
from bfpsim.workloads import ConvLayer

_TRIED = 64
"""Choices at a level whose insides are solved, at the most."""

_ORDERS = ("GKNPQCRS", "GNCRSQPK", "GNCRSPQK", "GKCRSNQP", "GKCRSNPQ")
"""The ways of reuse of `mapping.mapper.ORDERS`; R and S stand with C, the other reduction."""


@dataclass(frozen=True, slots=True)
class Inner:
    """How the levels inside SRAM are cut, and the energy of what moves inside [pJ].

    bound: what none of the other choices goes below
    """

    mappings: dict[str, Mapping]
    energy_pj: float
    bound: float


def best_inner(outside: Nest, arch: Arch, formats: LayerFormats) -> Inner | None:
    """The way of least movement energy inside SRAM; None if no tile fits.

    outside: the outermost boundary's nest of the layer as stored
    """
    return _Search(arch, formats).best((outside,))


class _Option(NamedTuple):
    """A choice at a level, what it costs there, and with the least that the insides cost [pJ]."""

    mapping: Mapping
    cost: float
    bound: float


class _Search:
    """One layer's choices; `nests` are those of the levels from SRAM inwards that are decided."""

    def __init__(self, arch: Arch, formats: LayerFormats) -> None:
        self._arch, self._formats = arch, formats
        self._last = len(arch.levels) - 1

    def best(self, nests: tuple[Nest, ...]) -> Inner | None:
        """The best way to cut the levels that are left."""
        place = len(nests) + 1
        name, best, bound = self._arch.levels[place].name, None, np.inf
        for tried, option in enumerate(self._options(nests)):
            if place == self._last:
                return Inner({name: option.mapping}, option.cost, option.cost)
            if best is not None and (option.bound >= best.energy_pj or tried == _TRIED):
                bound = min(bound, option.bound)
                break
            inside = self.best((*nests, _joined(nests[-1], option.mapping)))
            if inside is not None:
                bound = min(bound, option.cost + inside.bound)
                cost = option.cost + inside.energy_pj
                if best is None or cost < best.energy_pj:
                    best = Inner({name: option.mapping} | inside.mappings, cost, 0.0)
        if best is None:
            return None
        return Inner(best.mappings, best.energy_pj, min(bound, best.energy_pj))

    def _options(self, nests: tuple[Nest, ...]) -> Iterator[_Option]:
        """Choices at the next level, each once, the least bound first; of ties the fewest tiles."""
        place = len(nests) + 1
        grid, costs = self._priced(nests, place)
        bounds = costs + self._insides(nests, place, grid, "")
        tiles = np.broadcast_to(grid.tiles, grid.shape).ravel()
        flat = bounds.ravel()
        legal = np.flatnonzero(np.isfinite(flat))
        ranked = legal[np.lexsort((tiles[legal % tiles.size], flat[legal]))].tolist()
        sharper: dict[object, Any] = {}
        waiting: list[tuple[float, int, Mapping]] = []
        seen: set[Mapping] = set()
        for number, index in enumerate(ranked):
            while waiting and waiting[0][0] <= flat[index]:
                bound, at, mapping = heappop(waiting)
                yield _Option(mapping, float(costs.flat[ranked[at]]), bound)
            way, *place_at = (int(i) for i in np.unravel_index(index, costs.shape))
            tile = grid.tile(tuple(place_at))
            mapping = Mapping("".join(dim for dim in _ORDERS[way] if dim in tile), tile)
            if mapping in seen:
                continue
            seen.add(mapping)
            bound = float(flat[index])
            cut = {dim: size for dim, size in tile.items() if dim in REDUCTION}
            # Sums have to leave the levels inside that do not hold the whole tile of O.
            if place < self._last and cut and mapping.order[0] in REDUCTION:
                key = tuple(cut.items())
                if key not in sharper:
                    around = _joined(nests[-1], Mapping("".join(cut), cut))
                    sharper[key] = self._insides((*nests[:-1], around), place, grid, "CRS")
                least = np.broadcast_to(sharper[key], grid.shape)[tuple(place_at)]
                bound = max(bound, float(costs.flat[index] + least))
            heappush(waiting, (bound, number, mapping))
        while waiting:
            bound, at, mapping = heappop(waiting)
            yield _Option(mapping, float(costs.flat[ranked[at]]), bound)

    def _insides(self, nests: tuple[Nest, ...], place: int, grid: LevelGrid, without: str) -> Any:
        """The least that the levels inside a place cost, by tile sizes at it [pJ]."""
        least: Any = 0.0
        for inner in range(place + 1, self._last + 1):
            least = least + self._least(nests, inner, grid, without)
        return least

    def _priced(self, nests: tuple[Nest, ...], place: int) -> tuple[LevelGrid, NDArray[np.float64]]:
        """Tile sizes of a level, and by order what they cost there; infinite where illegal.

        The levels between the decided ones and this one are left whole.
        """
        level = self._arch.levels[place]
        for taps in ("", "RS"):  # cut only where nothing fits otherwise
            cut = {dim for tensor in level.memories for dim in RELEVANT[tensor]}
            dims = "".join(d for d in EVERY_DIM if d in cut and (d not in "RS" or d in taps))
            sizes = _sizes(nests[-1], dims, self._arch, self._formats)
            grid = LevelGrid(nests[-1], self._arch, self._formats, sizes)
            costs = np.stack([self._costs(grid, order, nests, place) for order in _ORDERS])
            if np.isfinite(costs).any():
                break
        return grid, costs

    def _least(
        self, nests: tuple[Nest, ...], place: int, grid: LevelGrid, without: str
    ) -> NDArray[np.float64]:
        """The least that a level inside costs, by the tile sizes of the level outside it.

        without: dimensions that are cut outside already
        """
        inner, costs = self._priced(nests, place)
        least = costs.min(axis=0)
        for axis, dim in enumerate(EVERY_DIM):
            if dim in without:
                least = least.min(axis=axis, keepdims=True)
                continue
            own, outer = inner.sizes[dim], grid.sizes[dim]
            most = np.minimum.accumulate(least, axis=axis)
            # Sizes that are not larger than the tile outside; if none is, the smallest.
            below = np.maximum(np.searchsorted(own, outer, side="right") - 1, 0)
            least = np.take(most, below, axis=axis)
        return np.asarray(least)

    def _costs(
        self, grid: LevelGrid, order: str, nests: tuple[Nest, ...], place: int
    ) -> NDArray[np.float64]:
        """What moves to and from a level, and the array if it is the last [pJ]."""
        arch, level = self._arch, self._arch.levels[place]
        accumulates = level is arch.accumulators
        held = {t: grid.held(t, accumulates and t == "O") for t in level.memories}
        claim = inner_claim(level, held)
        legal = np.asarray(claim.taken) <= claim.usable
        if level.holds("O") or (place == self._last and arch.accumulators is None):
            legal = legal & grid.whole_blocks
        cost: Any = 0.0
        for tensor in level.memories:
            outside = max(i for i in range(1, place) if arch.levels[i].holds(tensor))
            if tensor == "O":
                cost = cost + self._outputs_pj(grid, order, outside, level)
                sums = _sums_go_outside(nests[-1], grid, order)
                legal = legal & self._has_room(nests, outside, sums)
            else:
                per_bit = arch.levels[outside].read_pj[tensor] + level.write_pj[tensor]
                cost = cost + grid.fetched(tensor, order) * per_bit
        if place == self._last:
            cost = cost + self._array_pj(grid)
            if arch.accumulators is None:
                legal = legal & self._has_room(nests, 1, grid.contributions > 1)
        return np.where(
            np.broadcast_to(legal, grid.shape), np.broadcast_to(cost, grid.shape), np.inf
        )

    def _outputs_pj(self, grid: LevelGrid, order: str, outside: int, level: Level) -> Any:
        """Sums and results of O between the holder outside and a level [pJ]."""
        arch, holder = self._arch, self._arch.levels[outside]
        width, elements = arch.pe_array.accumulator_bits, prod(grid.layer.output_shape)
        visited, results = grid.visited(order), self._result_bits(grid)
        spilled = (visited - elements) * width
        energy = spilled * (holder.read_pj["O"] + level.write_pj["O"] + holder.write_pj["O"])
        leaving = visited * width if level is arch.accumulators else spilled + results
        return energy + results * holder.write_pj["O"] + leaving * level.read_pj["O"]

    def _array_pj(self, grid: LevelGrid) -> Any:
        """What the array reads and writes at the innermost holders [pJ]."""
        arch, level = self._arch, self._arch.holder("O")
        energy: Any = 0.0
        for tensor, bits in grid.array_reads.items():
            energy = energy + bits * arch.holder(tensor).read_pj[tensor]
        sums = prod(grid.layer.output_shape) * arch.pe_array.accumulator_bits
        energy = energy + (grid.contributions - 1) * (sums * level.read_pj["O"])
        if level is arch.accumulators:
            return energy + grid.contributions * (sums * level.write_pj["O"])
        written = (grid.contributions - 1) * sums + self._result_bits(grid)
        return energy + written * level.write_pj["O"]

    def _result_bits(self, grid: LevelGrid) -> int:
        return ActivationLayout(grid.layer.output_shape, self._formats.O).bits

    def _has_room(self, nests: tuple[Nest, ...], place: int, sums: Any) -> Any:
        """Whether a level outside has room for its tiles, where sums of O lie there or not."""
        if place > len(nests):
            return True  # not decided yet
        without, unfinished = (
            _room(nests[place - 1], place, self._arch, self._formats, own) for own in (False, True)
        )
        return np.where(sums, unfinished, without)


def _room(nest: Nest, place: int, arch: Arch, formats: LayerFormats, sums: bool) -> bool:
    """Whether the tiles of a nest fit its level."""
    level = arch.levels[place]
    held = tile_bits(nest, level, arch, formats, sums)
    wanted = claims(arch, held) if place == 1 else [inner_claim(level, held)]
    return all(claim.taken <= claim.usable for claim in wanted)


def _joined(outside: Nest, mapping: Mapping) -> Nest:
    """The nest with one more boundary."""
    loops = [(loop.dim, {loop.dim: loop.tile}) for loop in outside.loops]
    return join(outside.layer, [*loops, (mapping.order, mapping.tile)])


def _sums_go_outside(outside: Nest, grid: LevelGrid, order: str) -> Any:
    """Where a loop over C, R or S goes round outside one over O's dimensions."""
    reduced: Any = False
    outwards: Any = False
    for dim in outside.order:
        outwards = outwards or (reduced and dim in RELEVANT["O"])
        reduced = reduced or dim in REDUCTION
    for dim in order:
        several = on_axes(dim, grid.sizes[dim] < outside.tile[dim])
        if dim in RELEVANT["O"]:
            outwards = outwards | (several & reduced)
        if dim in REDUCTION:
            reduced = reduced | several
    return outwards


def _sizes(outside: Nest, dims: str, arch: Arch, formats: LayerFormats) -> dict[str, Vector]:
    """Tile sizes of a boundary that no other size of the dimension makes superfluous.

    dims: what may be cut; the others stay whole
    """
    every = {
        d: np.arange(1, n + 1) if d in dims else np.array([n]) for d, n in outside.tile.items()
    }
    leaves = {
        d: Leaves.of_sizes(outside.extents[d], every[d], outside.cuts(d)) for d in outside.extents
    }
    fused = {d for axis in arch.pe_array.axes if len(axis.dim) > 1 for d in axis.dim}
    layer, found = outside.layer, dict(every)
    for dim in dims:
        sizes, own = every[dim], leaves[dim]
        if dim in fused and dim in "NPQ":
            continue
        whole = {d: Leaves.of_sizes(outside.extents[d], np.array([outside.tile[d]]),
                                    outside.cuts(d)) for d in leaves} | {dim: own}  # fmt: skip
        columns = [sizes]
        if dim not in "RS":
            columns.append(axis_sums(layer, arch.pe_array, dim, whole))
        if dim in "PQ":
            columns += _window_columns(layer, dim, whole, arch.dma.halo == "sliding")
        for tensor in TENSORS:
            cell = exact.Cell.of(formats.of(tensor))
            for axis, of in exact.tile_sizes(tensor, layer, whole, cell).items():
                if dim in axis and axis not in ("PR", "QS"):
                    columns += [each(axis, whole, of).reshape(-1)
                                for each in (exact.totals, exact.largest)]  # fmt: skip
        trips = own.rounds(-1)
        found[dim] = sizes[undominated(trips, np.stack(columns, axis=1))]
    return found


def _window_columns(
    layer: ConvLayer, dim: str, leaves: Table[str, Leaves], sliding: bool
) -> list[Vector]:
    """Of P or Q: sums over its tiles with which the cost of I grows, over tile sizes."""
    dims = "PR" if dim == "P" else "QS"
    own = {d: leaves[d] for d in dims}
    axis = exact.windows(dims, Window.of(layer, dim), own, sliding, lambda _, table: table[:, 0])
    most = exact.largest(dims, own, exact.tile_sizes("I", layer, leaves, exact.ELEMENTS)[dims])
    kept = [
        axis.single[depth] - table if advancing == "" else -table
        for (advancing, depth), table in axis.same.items()
    ]
    return [most[:, 0], *axis.single.values(), *axis.fresh.values(), *kept]
