"""The mapper inside SRAM: tiles and orders of the levels between SRAM and the array.

Given what stands outside, all tile sizes of a level are priced at once for every way of reuse. Of
several levels the outer ones are tried in the order of a bound: their own cost, and the least that
the levels inside would cost without them.
"""

from __future__ import annotations

from collections.abc import Container, Iterator, Sequence
from collections.abc import Mapping as Table
from dataclasses import dataclass, replace
from functools import reduce
from heapq import heappop, heappush
from math import prod
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from bfpsim.arch import Arch, Level
from bfpsim.mapping.array import lanes_of
from bfpsim.mapping.candidates import undominated
from bfpsim.mapping.closed import exact
from bfpsim.mapping.closed.array import axis_sums
from bfpsim.mapping.closed.leaves import Leaves, Vector
from bfpsim.mapping.closed.level_grid import LevelGrid, RegisterGrid, on_axes
from bfpsim.mapping.closed.levels import tile_bits
from bfpsim.mapping.closed.registers import RegisterTiles
from bfpsim.mapping.counts import Direction
from bfpsim.mapping.fit import stored
from bfpsim.mapping.nest import (
    EVERY_DIM,
    REDUCTION,
    RELEVANT,
    TENSORS,
    Mapping,
    Nest,
    Tensor,
    join,
    make_nest,
)
from bfpsim.mapping.room import claims, inner_claims
from bfpsim.mapping.steps.inside import inside
from bfpsim.mapping.window import Window
from bfpsim.quant.formats import ActivationLayout, LayerFormats
from bfpsim.workloads import ConvLayer

_TRIED = 64
"""Choices at a level whose insides are solved, at the most."""

_FEW_TRIED = 6
"""Likewise where cycles count, whose bounds are nearly alike."""

_ORDERS = ("GKNPQCRS", "GNCRSQPK", "GNCRSPQK", "GKCRSNQP", "GKCRSNPQ")
"""The ways of reuse of `mapping.mapper.ORDERS`; R and S stand with C, the other reduction."""


Objective = Literal["energy", "latency"]
"""What is to be least inside SRAM: pJ of movement, or cycles of the steps."""


@dataclass(frozen=True, slots=True)
class Inner:
    """How the levels inside SRAM are cut, and what that costs: pJ of movement inside, or cycles.

    bound: what none of the other choices goes below
    """

    mappings: dict[str, Mapping]
    cost: float
    bound: float


class _Moved(NamedTuple):
    """Bits that pass one end of a boundary, by tile sizes. waits: whether the array waits."""

    level: Level
    tensor: Tensor
    direction: Direction
    bits: Any
    waits: bool = False

    @property
    def pj(self) -> Any:
        """Their energy [pJ]."""
        read = self.direction == "read"
        per_bit = self.level.read_pj if read else self.level.write_pj
        return self.bits * per_bit[self.tensor]

    @property
    def width(self) -> int | None:
        """Of the port that they pass, if it has a limit [bit/cycle]."""
        ports = self.level.buffers[self.tensor].ports
        return ports.read if self.direction == "read" else ports.write


class _Aim(Protocol):
    """What the decided levels cost, and how that of others comes on top."""

    def price(self, moved: Sequence[_Moved], busy: Any) -> Any:
        """The least cost with what moves at one more level, and busy cycles of the array."""

    def tie(self, moved: Sequence[_Moved], busy: Any) -> Any:
        """What decides between equal costs: the other aim's."""

    def spent(self, moved: Sequence[_Moved]) -> _Aim:
        """With one more level decided."""

    def nothing(self) -> _Aim:
        """With no level decided."""

    def inside(self, cost: Any, least: Any) -> Any:
        """The least cost with what the levels inside cost at least."""


@dataclass(frozen=True, slots=True)
class _Energy:
    """Energy [pJ], of some tensors."""

    pj: float
    tensors: Sequence[Tensor] = TENSORS

    def price(self, moved: Sequence[_Moved], busy: Any) -> Any:
        return sum((own.pj for own in moved if own.tensor in self.tensors), start=self.pj)

    def tie(self, moved: Sequence[_Moved], busy: Any) -> Any:
        return busy

    def spent(self, moved: Sequence[_Moved]) -> _Energy:
        return replace(self, pj=self.price(moved, 0))

    def nothing(self) -> _Energy:
        return replace(self, pj=0.0)

    def inside(self, cost: Any, least: Any) -> Any:
        return cost + least


@dataclass(frozen=True, slots=True)
class _Cycles:
    """Cycles by port: no step is shorter than its computing, nor all than their fullest port."""

    along: dict[_Port, float]
    waited: dict[_Port, float]

    def price(self, moved: Sequence[_Moved], busy: Any) -> Any:
        along, waited = self._ports(moved)
        waiting = reduce(np.maximum, waited.values(), 0.0)
        return reduce(np.maximum, along.values(), busy) + waiting

    def tie(self, moved: Sequence[_Moved], busy: Any) -> Any:
        return _Energy(0.0).price(moved, busy)

    def spent(self, moved: Sequence[_Moved]) -> _Cycles:
        return _Cycles(*self._ports(moved))

    def nothing(self) -> _Cycles:
        return _Cycles({}, {})

    def inside(self, cost: Any, least: Any) -> Any:
        return np.maximum(cost, least)

    def _ports(self, moved: Sequence[_Moved]) -> tuple[dict[_Port, Any], dict[_Port, Any]]:
        along, waited = dict(self.along), dict(self.waited)
        for own in moved:
            if own.width is not None:
                ports = waited if own.waits else along
                port = own.level.memories[own.tensor], own.direction
                ports[port] = ports.get(port, 0.0) + own.bits / own.width
        return along, waited


@dataclass(frozen=True, slots=True)
class _Fit:
    """Nothing: what fits is as good as any other."""

    def price(self, moved: Sequence[_Moved], busy: Any) -> Any:
        return 0.0

    def tie(self, moved: Sequence[_Moved], busy: Any) -> Any:
        return 0.0

    def spent(self, moved: Sequence[_Moved]) -> _Fit:
        return self

    def nothing(self) -> _Fit:
        return self

    def inside(self, cost: Any, least: Any) -> Any:
        return cost + least


_Port = tuple[str, Direction]


class _Option(NamedTuple):
    """A choice at a level, and what all costs at least with it."""

    mapping: Mapping
    bound: float
    aim: _Aim


def with_insides(layer: ConvLayer, arch: Arch, mapping: Mapping, formats: LayerFormats) -> Mapping:
    """A mapping with the insides of least movement energy, if it says nothing of any.

    Where none fit, the mapping as it is.
    """
    if mapping.inner or len(arch.levels) == 2:
        return mapping
    whole = InnerMapper(arch, formats).whole(stored(layer, arch), mapping, "energy")
    return mapping if whole is None else whole


def no_insides(layer: ConvLayer, arch: Arch) -> str:
    """What an error says where no tiles fit the levels inside SRAM."""
    levels = ", ".join(
        f"{name} {buffer.usable_bits} bit"
        for level in arch.levels[2:]
        for name, buffer in {level.memories[t]: own for t, own in level.buffers.items()}.items()
    )
    return (
        f"{layer.name}: no tile fits the levels inside SRAM of {arch.name}, usable: {levels}; "
        "allowed: levels that hold one element of each of their tensors, and a whole block of O"
    )


class _Priced(NamedTuple):
    """Tile sizes of a level, orders, and by both the cost and what decides between equal ones.

    costs: infinite where illegal
    """

    grid: LevelGrid
    orders: list[str]
    costs: NDArray[np.float64]
    ties: NDArray[np.float64]


class InnerMapper:
    """The mapper inside SRAM, of layers as stored; it remembers what nests have in common.

    sram: what SRAM has room for: what the architecture says; "all" tiles, with unfinished sums or
        without; or "results" alone, so that no unfinished sums may lie there
    """

    # In its methods `nests` are those of the levels from SRAM inwards that are decided.

    def __init__(
        self, arch: Arch, formats: LayerFormats, *, sram: Literal["own", "all", "results"] = "own"
    ) -> None:
        self._arch, self._formats = arch, formats
        self._last = len(arch.levels) - 1
        self._known_sizes: dict[object, Vector] = {}
        self._known_rooms: dict[object, tuple[bool, ...]] = {}
        self._sram = sram

    def best(
        self, outside: Nest, objective: Objective = "energy", most: int = _TRIED
    ) -> Inner | None:
        """The best way to cut the levels inside SRAM; None if no tile fits.

        outside: the outermost boundary's nest
        objective: "energy", or "latency": cycles if every port were as busy at every step; the
            steps of SRAM last that long at least
        most: choices at a level whose insides are solved
        """
        aim: _Aim = _Energy(0.0) if objective == "energy" else _Cycles({}, {})
        return self._best((outside,), aim, most)

    def fits(self, outside: Nest) -> bool:
        """Whether there is any way to cut the levels inside SRAM; told sooner than the best one.

        outside: the outermost boundary's nest
        """
        return self._best((outside,), _Fit(), _TRIED) is not None

    def least_pj(self, layer: ConvLayer, tensors: Sequence[Tensor] = TENSORS) -> float:
        """Energy of tensors inside SRAM that no mapping goes below, were SRAM large enough [pJ]."""
        roomy = InnerMapper(self._arch, self._formats, sram="all")
        aim = _Energy(0.0, tensors)
        found = roomy._best((make_nest(layer, Mapping()),), aim, _TRIED)
        return 0.0 if found is None else found.bound

    def whole(self, layer: ConvLayer, mapping: Mapping, objective: Objective) -> Mapping | None:
        """A mapping of the outermost boundary with the best insides; None if nothing fits there.

        objective: of "latency" the insides of the least bound and those of the least energy are
            priced step by step, and the faster ones taken
        """
        nest = make_nest(layer, mapping)
        found = self.best(nest, "energy", _TRIED if objective == "energy" else _FEW_TRIED)
        if found is None:
            return None
        whole = replace(mapping, inner=found.mappings)
        if objective == "energy":
            return whole
        fast = self.best(nest, "latency", _FEW_TRIED)
        other = whole if fast is None else replace(mapping, inner=fast.mappings)
        return min((whole, other), key=lambda own: self._cycles(layer, own))

    def _cycles(self, layer: ConvLayer, mapping: Mapping) -> int:
        """How long all steps of SRAM last together."""
        nest = make_nest(layer, mapping, self._arch.inside)
        return int(inside(nest, self._arch, self._formats).lasting.sum())

    def _best(self, nests: tuple[Nest, ...], aim: _Aim, most: int) -> Inner | None:
        """The best way to cut the levels that are left."""
        place = len(nests) + 1
        name, best, bound = self._arch.levels[place].name, None, np.inf
        for tried, option in enumerate(self._options(nests, aim)):
            if place == self._last:
                return Inner({name: option.mapping}, option.bound, option.bound)
            if best is not None and (option.bound >= best.cost or tried == most):
                bound = min(bound, option.bound)
                break
            joined = _joined(nests[-1], option.mapping)
            inside = self._best((*nests, joined), option.aim, most)
            if inside is not None:
                bound = min(bound, inside.bound)
                if best is None or inside.cost < best.cost:
                    best = Inner({name: option.mapping} | inside.mappings, inside.cost, 0.0)
        if best is None:
            return None
        return Inner(best.mappings, best.cost, min(bound, best.cost))

    def _options(self, nests: tuple[Nest, ...], aim: _Aim) -> Iterator[_Option]:
        """Choices at the next level, each once, the least bound first.

        Of ties, the cheapest were nothing kept inside over a turn of the level's loops, which
        bounds do not see; then at the last level those of the fewest cycles, or if these count, of
        the least energy; then the fewest tiles.
        """
        place = len(nests) + 1
        grid, orders, costs, ties = self._priced(nests, place, aim)
        bounds = self._with_insides(costs, nests, place, grid, aim, "")
        tiles = np.broadcast_to(grid.tiles, grid.shape).ravel()
        flat = bounds.ravel()
        legal = np.flatnonzero(np.isfinite(flat))
        again = aim.inside(bounds, aim.nothing().price(self._turned(nests, place, grid), 0)).ravel()
        keys = (tiles[legal % tiles.size], ties.ravel()[legal], again[legal], flat[legal])
        ranked = legal[np.lexsort(keys)].tolist()
        sharper: dict[object, Any] = {}
        waiting: list[tuple[float, int, Mapping]] = []
        seen: set[Mapping] = set()
        for number, index in enumerate(ranked):
            while waiting and waiting[0][0] <= flat[index]:
                bound, _, mapping = heappop(waiting)
                yield self._option(nests, grid, mapping, bound, aim)
            way, *place_at = (int(i) for i in np.unravel_index(index, costs.shape))
            tile = grid.tile(tuple(place_at))
            mapping = Mapping("".join(dim for dim in orders[way] if dim in tile), tile)
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
                    sharper[key] = self._with_insides(
                        costs, (*nests[:-1], around), place, grid, aim, "CRS"
                    )
                bound = max(bound, float(sharper[key].flat[index]))
            heappush(waiting, (bound, number, mapping))
        while waiting:
            bound, _, mapping = heappop(waiting)
            yield self._option(nests, grid, mapping, bound, aim)

    def _option(
        self, nests: tuple[Nest, ...], grid: LevelGrid, mapping: Mapping, bound: float, aim: _Aim
    ) -> _Option:
        """A choice, with what it spends if levels are left to decide."""
        place = len(nests) + 1
        if place == self._last or isinstance(aim, _Fit):
            return _Option(mapping, bound, aim)
        sizes = {d: np.array([mapping.tile.get(d, n)]) for d, n in nests[-1].tile.items()}
        one = LevelGrid(nests[-1], self._arch, self._formats, sizes)
        moved = self._moves(one, mapping.order, place)
        return _Option(mapping, bound, aim.spent([m._replace(bits=_number(m.bits)) for m in moved]))

    def _with_insides(
        self,
        costs: NDArray[np.float64],
        nests: tuple[Nest, ...],
        place: int,
        grid: LevelGrid,
        aim: _Aim,
        without: str,
    ) -> NDArray[np.float64]:
        """Costs with the least that the levels inside a place cost, by tile sizes at it."""
        for inner in range(place + 1, self._last + 1):
            costs = aim.inside(costs, self._least(nests, inner, grid, aim, without))
        return costs

    def _priced(self, nests: tuple[Nest, ...], place: int, aim: _Aim) -> _Priced:
        """Tile sizes of a level under every way of reuse, and the cost with each.

        The levels between the decided ones and this one are left whole.
        """
        level = self._arch.levels[place]
        cut = {dim for tensor in level.memories for dim in RELEVANT[tensor]}
        cut -= {d for axis in self._arch.pe_array.axes if axis.over for d in axis.dim}
        # Taps are cut only where a fold with all of them does not fit, or nothing else does.
        for taps in ("", "RS") if self._takes_fold(nests[-1], level, cut) else ("RS",):
            dims = "".join(d for d in EVERY_DIM if d in cut and (d not in "RS" or d in taps))
            in_pes = level is self._arch.registers
            sizes = {d: self._sizes(nests[-1], d, d in dims, in_pes) for d in EVERY_DIM}
            grid_of = RegisterGrid if in_pes else LevelGrid
            grid = grid_of(nests[-1], self._arch, self._formats, sizes)
            legal, orders = self._legal(grid, nests, place), self._ways(grid, place)
            priced = [self._costs(grid, order, legal, nests, place, aim) for order in orders]
            costs, ties = (np.stack(own) for own in zip(*priced, strict=True))
            if np.isfinite(costs).any():
                break
        return _Priced(grid, orders, costs, ties)

    def _takes_fold(self, outside: Nest, level: Level, cut: Container[str]) -> bool:
        """Whether a level has room for what fills the array once, with all taps.

        cut: the dimensions that may be cut there
        """
        fold = {d: 1 if d in cut and d not in "RS" else size for d, size in outside.tile.items()}
        in_pes = level is self._arch.registers
        for lanes in () if in_pes else lanes_of(self._arch.pe_array, outside.layer.dims):
            left = lanes.size
            for dim in reversed(lanes.dim):
                fold[dim] = max(fold[dim], min(left, outside.tile[dim]))
                left = max(left // fold[dim], 1)
        grid_of = RegisterGrid if in_pes else LevelGrid
        sizes = {dim: np.array([size]) for dim, size in fold.items()}
        grid = grid_of(outside, self._arch, self._formats, sizes)
        sums = level is self._arch.accumulators
        held = {tensor: grid.held(tensor, sums and tensor == "O") for tensor in level.memories}
        return all(np.all(claim.taken <= claim.usable) for claim in inner_claims(level, held))

    def _turned(self, nests: tuple[Nest, ...], place: int, grid: LevelGrid) -> list[_Moved]:
        """What levels inside a place take of I and W, were nothing kept over a turn of its loops.

        By tile sizes at the place.
        """
        outside, moved = nests[-1], []
        trips = {d: -(-outside.tile[d] // grid.sizes[d]) for d in EVERY_DIM}
        for inner in range(place + 1, self._last + 1):
            level = self._arch.levels[inner]
            for tensor in level.memories:
                if tensor == "O":
                    continue
                elements = prod(outside.extents[d] for d in RELEVANT[tensor])
                bits: Any = np.full(1, float(elements * self._formats.of(tensor).mantissa_bits))
                for dim in EVERY_DIM:
                    if dim not in RELEVANT[tensor]:
                        bits = bits * on_axes(dim, trips[dim])
                holder = self._arch.levels[self._outside(tensor, inner)]
                moved += [
                    _Moved(holder, tensor, "read", bits),
                    _Moved(level, tensor, "write", bits),
                ]
        return moved

    def _ways(self, grid: LevelGrid, place: int) -> list[str]:
        """The orders that differ in the loops that there are."""
        several = [dim for dim in EVERY_DIM if len(grid.sizes[dim]) > 1]
        level = self._arch.levels[place]
        if place == self._last and not level.holds("I"):
            turning = [d for d in several for t in level.memories if d not in RELEVANT[t]]
            if not turning:  # every turn of every loop brings a tile that was not there before
                return [_ORDERS[0]]
        ways = {"".join(d for d in order if d in several): order for order in reversed(_ORDERS)}
        return [order for order in _ORDERS if order in ways.values()]

    def _legal(self, grid: LevelGrid, nests: tuple[Nest, ...], place: int) -> Any:
        """Where tiles fit a level and end on blocks, whatever the order."""
        arch, level = self._arch, self._arch.levels[place]
        accumulates = level is arch.accumulators
        held = {t: grid.held(t, accumulates and t == "O") for t in level.memories}
        legal: Any = True
        for claim in inner_claims(level, held):
            legal = legal & (np.asarray(claim.taken) <= claim.usable)
        if level.holds("O") or (place == self._last and arch.accumulators is None):
            legal = legal & grid.whole_blocks
        if place == self._last and arch.accumulators is None:
            legal = legal & self._has_room(nests, 1, grid.contributions > 1)
        inside = arch.accumulators
        if inside is not None and not level.holds("O"):
            # Sums have to leave accumulators that do not hold the whole tile of O meanwhile.
            cut: Any = np.full(1, any(dim in REDUCTION for dim in nests[-1].order))
            for dim in REDUCTION:
                cut = cut | on_axes(dim, grid.sizes[dim] < nests[-1].tile[dim])
            whole = grid.held("O", True) <= inside.buffers["O"].usable_bits
            legal = legal & (~cut | whole | self._has_room(nests, self._outside("O", place), True))
        return legal

    def _least(
        self, nests: tuple[Nest, ...], place: int, grid: LevelGrid, aim: _Aim, without: str
    ) -> NDArray[np.float64]:
        """The least that a level inside costs, by the tile sizes of the level outside it.

        without: dimensions that are cut outside already
        """
        inner, _, costs, _ = self._priced(nests, place, aim.nothing())
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
        self,
        grid: LevelGrid,
        order: str,
        legal: Any,
        nests: tuple[Nest, ...],
        place: int,
        aim: _Aim,
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """The cost with a level, and with the array if it is the last; what decides ties."""
        if self._arch.levels[place].holds("O"):
            sums = _sums_go_outside(nests[-1], grid, order)
            legal = legal & self._has_room(nests, self._outside("O", place), sums)
        if isinstance(aim, _Fit):  # what moves need not be known
            return np.where(np.broadcast_to(legal, grid.shape), 0.0, np.inf), np.zeros(grid.shape)
        moved, busy = self._moves(grid, order, place), 0
        if place == self._last:
            moved, busy = [*moved, *self._array_moves(grid, order)], grid.busy_cycles
        cost = np.broadcast_to(aim.price(moved, busy), grid.shape)
        ties = np.broadcast_to(aim.tie(moved, busy), grid.shape)
        return np.where(np.broadcast_to(legal, grid.shape), cost, np.inf), ties

    def _outside(self, tensor: Tensor, place: int) -> int:
        """The place of the next level outside that holds a tensor."""
        return max(i for i in range(1, place) if self._arch.levels[i].holds(tensor))

    def _moves(self, grid: LevelGrid, order: str, place: int) -> list[_Moved]:
        """What moves between a level and those outside it."""
        arch, level, moved = self._arch, self._arch.levels[place], []
        for tensor in level.memories:
            holder = arch.levels[self._outside(tensor, place)]
            waits = not level.buffers[tensor].double_buffered
            if tensor != "O":
                moved += [
                    _Moved(holder, tensor, "read", grid.fetched(tensor, order), waits),
                    _Moved(level, tensor, "write", grid.written(tensor, order), waits),
                ]
                continue
            width, elements = arch.pe_array.accumulator_bits, prod(grid.layer.output_shape)
            visited, results = grid.visited(order), self._result_bits(grid)
            spilled = (visited - elements) * width
            leaving = spilled + results
            if level is arch.accumulators:
                leaving = grid.summed(order) * width
            moved += [
                _Moved(holder, "O", "read", spilled, waits),
                _Moved(level, "O", "write", spilled, waits),
                _Moved(level, "O", "read", leaving, waits),
                _Moved(holder, "O", "write", spilled + results, waits),
            ]
        return moved

    def _array_moves(self, grid: LevelGrid, order: str) -> list[_Moved]:
        """What the array reads and writes at the innermost holders."""
        if isinstance(grid, RegisterGrid):
            return self._lane_moves(grid, order)
        return self._fold_moves(grid)

    def _lane_moves(self, grid: RegisterGrid, order: str) -> list[_Moved]:
        """What multiply-accumulates read and write at the registers."""
        level, formats, layer = self._arch.levels[-1], self._formats, grid.layer
        width, elements = self._arch.pe_array.accumulator_bits, prod(layer.output_shape)
        first = grid.summed(order) - (grid.visited(order) - elements)  # sums that find none there
        inputs = grid.inputs * formats.I.mantissa_bits + grid.codes("I", order)
        weights = layer.macs * formats.W.mantissa_bits + grid.codes("W", order)
        return [
            _Moved(level, "I", "read", inputs),
            _Moved(level, "W", "read", weights),
            _Moved(level, "O", "read", (layer.macs - first) * width),
            _Moved(level, "O", "write", layer.macs * width),
        ]

    def _fold_moves(self, grid: LevelGrid) -> list[_Moved]:
        """What folds read and write there."""
        arch, level = self._arch, self._arch.holder("O")
        moved = [_Moved(arch.holder(t), t, "read", bits) for t, bits in grid.array_reads.items()]
        sums = prod(grid.layer.output_shape) * arch.pe_array.accumulator_bits
        written = (grid.contributions - 1) * sums + self._result_bits(grid)
        if level is arch.accumulators:
            written = grid.contributions * sums
        again = (grid.contributions - 1) * sums
        return [*moved, _Moved(level, "O", "read", again), _Moved(level, "O", "write", written)]

    def _sizes(self, outside: Nest, dim: str, cut: bool, in_pes: bool) -> Vector:
        """Tile sizes of a dimension, or that of the tile outside alone."""
        if not cut:
            return np.array([outside.tile[dim]])
        key = (outside.layer, dim, in_pes, *(outside.cuts(d) for d in dim + _PARTNERS[dim]))
        if key not in self._known_sizes:
            sizes = _undominated_sizes(outside, dim, self._arch, self._formats, in_pes)
            self._known_sizes[key] = sizes
        return self._known_sizes[key]

    def _result_bits(self, grid: LevelGrid) -> int:
        return ActivationLayout(grid.layer.output_shape, self._formats.O).bits

    def _has_room(self, nests: tuple[Nest, ...], place: int, sums: Any) -> Any:
        """Whether a level outside has room for its tiles, where sums of O lie there or not."""
        if place > len(nests) or (place == 1 and self._sram == "all"):
            return True  # not decided yet, or large enough
        if place == 1 and self._sram == "results":
            return ~np.asarray(sums, bool)
        nest = nests[place - 1]
        key = (nest.layer, nest.loops, place)
        if key not in self._known_rooms:
            self._known_rooms[key] = tuple(
                _room(nest, place, self._arch, self._formats, own) for own in (False, True)
            )
        without, unfinished = self._known_rooms[key]
        return np.where(sums, unfinished, without)


def _room(nest: Nest, place: int, arch: Arch, formats: LayerFormats, sums: bool) -> bool:
    """Whether the tiles of a nest fit its level."""
    level = arch.levels[place]
    held = tile_bits(nest, level, arch, formats, sums)
    wanted = claims(arch, held) if place == 1 else inner_claims(level, held)
    return all(claim.taken <= claim.usable for claim in wanted)


def _number(value: Any) -> float:
    """The one value of a grid of one tiling."""
    return float(np.asarray(value).reshape(-1)[0])


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


_PARTNERS = {
    "G": "KC",
    "K": "G",
    "C": "GRS",
    "P": "R",
    "Q": "S",
    "R": "PCGKS",
    "S": "QCGKR",
    "N": "",
}
"""The dimensions whose cuts matter to which sizes of a dimension are superfluous."""


def _undominated_sizes(
    outside: Nest, dim: str, arch: Arch, formats: LayerFormats, in_pes: bool
) -> Vector:
    """Tile sizes of a dimension at a boundary that no other size makes superfluous.

    in_pes: whether the tiles are those of registers
    """
    layer, sizes = outside.layer, np.arange(1, outside.tile[dim] + 1)
    if dim in "NPQ" and any(len(own.dim) > 1 for own in lanes_of(arch.pe_array, layer.dims)
                            if dim in own.dim):  # fmt: skip
        return sizes
    leaves = {
        d: Leaves.of_sizes(
            outside.extents[d], sizes if d == dim else np.array([size]), outside.cuts(d)
        )
        for d, size in outside.tile.items()
    }
    columns = [sizes]
    if dim not in "RS":
        columns.append(axis_sums(layer, arch.pe_array, dim, leaves))
    if dim in "PQ":
        columns += _window_columns(layer, dim, leaves, arch.dma.halo == "sliding")
    for tensor in TENSORS:
        cell = exact.Cell.of(formats.of(tensor))
        for axis, of in exact.tile_sizes(tensor, layer, leaves, cell).items():
            if dim in axis and axis not in ("PR", "QS"):
                columns += [
                    each(axis, leaves, of).reshape(-1) for each in (exact.totals, exact.largest)
                ]
    if in_pes:
        tiles = RegisterTiles(layer, arch, formats, leaves, lambda _, table: table.reshape(-1))
        columns += [np.broadcast_to(own, sizes.shape) for own in tiles.growing(dim)]
    trips = leaves[dim].rounds(-1)
    return sizes[undominated(trips, np.stack(columns, axis=1))]


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
