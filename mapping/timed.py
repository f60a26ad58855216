"""The search where cycles count: all tile sizes, best first under sound bounds.

Tilings with equally many tiles of each dimension make a class. A class is bounded by the sizes that
suffice for bits and computed cycles (`mapping.candidates`), with the shortest first and last tiles
that any of its sizes makes. It is opened, its tilings bounded one by one, only if that is below the
best run so far; a tiling is run only if its own bound is.
"""

from __future__ import annotations

from bisect import bisect_right, insort
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from heapq import heappop, heappush
from math import prod
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bfpsim.arch import Arch
from bfpsim.mapping.candidates import allowed_sizes, candidate_sizes
from bfpsim.mapping.closed.cycles import Edges, least_cycles
from bfpsim.mapping.closed.exact import whole_blocks
from bfpsim.mapping.closed.grid import Grid, Sizes
from bfpsim.mapping.closed.leaves import Vector
from bfpsim.mapping.constraints import FREE, Constraints
from bfpsim.mapping.inner import InnerMapper, no_insides
from bfpsim.mapping.nest import DIMS, Mapping, MappingError, Tensor
from bfpsim.mapping.padded import LeastPadding
from bfpsim.mapping.runs import Run, run_of
from bfpsim.quant.formats import LayerFormats
from bfpsim.workloads import ConvLayer

MOST_RUNS = 8000
"""Runs after which the best so far is taken, and the gap to the bound is left open."""

MOST_RUNS_INSIDE = 24
"""Likewise on machines with levels inside SRAM, where each run looks for the best insides."""

_POINTS = 1 << 20
"""Tilings whose bounds are worked out at once."""

_AS_LONG = 2000
"""Tilings that are bounded together in the time in which one class is opened."""

_MOST_POINTS = 1 << 22
"""Tilings that are few enough to be bounded all, once so many classes have been opened."""

_TRIALS, _SLACKS = 8, (1.0005, 1.005, 1.05)
"""Runs before any class is opened: of the fewest bits that cost at most so much of the least."""

_CLASSES = 4096
"""Classes that are put in order first; mostly the best is among them."""


class Bound(NamedTuple):
    """What a run costs at least: cycles, DRAM bits and movement energy [pJ]; or arrays of these."""

    cycles: Any
    bits: Any
    pj: Any


_NEVER = 1 << 62
"""Cycles of a tiling that is not legal under an order."""

Aim = Callable[[Any, Any, Any], tuple[Any, Any, Any]]
"""Cost and tie-breaks of cycles, bits and energy; each grows with all three."""


def latency(cycles: Any, bits: Any, pj: Any) -> tuple[Any, Any, Any]:
    """Cycles; of equal ones the fewer bits, then the less energy."""
    return cycles, bits, pj


def edp(cycles: Any, bits: Any, pj: Any) -> tuple[Any, Any, Any]:
    """Energy x cycles [pJ x cycle]; of equal ones the fewer bits, then the less energy."""
    return pj * cycles, bits, pj


def _product(cycles: Any, bits: Any, pj: Any) -> tuple[Any, Any, Any]:
    """Cycles x bits, as floats: whole numbers might overflow."""
    return cycles * 1.0 * bits, bits, pj


class Tilings:
    """Legal tilings of a grid under some orders, one order after the other, and their bounds.

    steps: of each; bound: of each
    """

    def __init__(
        self,
        layer: ConvLayer,
        arch: Arch,
        grid: Grid,
        orders: Sequence[str],
        edges: Edges,
        padding: Callable[[Grid, str], dict[Tensor, Any]],
    ) -> None:
        self._dims, self._orders = layer.dims, orders
        self._grid = grid
        by_order = [grid.legal(order) for order in orders]
        legal = np.logical_or.reduce(by_order)
        self.places = np.argwhere(legal)
        if not len(self.places):
            return
        bounds = []
        for order, own in zip(orders, by_order, strict=True):
            payload, padded = grid.outer_bits(order), padding(grid, order)
            bits = sum(payload.values()) + sum(padded.values())
            cycles = least_cycles(layer, arch, grid, order, payload, padded, edges)
            each = (
                np.where(own, cycles, _NEVER),
                bits,
                _least_pj(grid, arch, bits, order),
            )
            bounds.append([np.broadcast_to(own, legal.shape)[legal] for own in each])
        self.bound = Bound(*(np.concatenate(own) for own in zip(*bounds, strict=True)))
        self.steps = np.broadcast_to(grid.steps, legal.shape)[legal]

    def __len__(self) -> int:
        return len(self.places) * len(self._orders)

    def sizes(self, at: int) -> tuple[int, ...]:
        """Tile sizes of a tiling, in the order of `DIMS`."""
        return self._grid.tile(self.places[at % len(self.places)])

    def rank(self, at: int) -> int:
        """The place of a tiling's order."""
        return at // len(self.places)

    def mapping(self, at: int) -> Mapping:
        """A tiling as a mapping."""
        sizes = dict(zip(DIMS, self.sizes(at), strict=True))
        tile = {d: size for d, size in sizes.items() if size < self._dims[d]}
        return Mapping("".join(d for d in self._orders[self.rank(at)] if d in tile), tile)

    def preference(self, at: NDArray[np.intp]) -> list[Vector]:
        """Of ties: few steps, an early order, large tiles, of C first; the first key decides."""
        rank, place = np.divmod(at, len(self.places))
        return [self.steps[place], rank, *(-self.places[place, DIMS.index(d)] for d in "CKQPGN")]


def _least_pj(grid: Grid, arch: Arch, bits: Any, order: str) -> Any:
    """Energy of DRAM and SRAM [pJ]."""
    dram = arch.levels[0]
    least = min(*dram.read_pj.values(), *dram.write_pj.values())
    return (bits * least + grid.buffer_pj(order)) * (1 - _ROUNDING)


_ROUNDING = 1e-12
"""More than sums of floats in another order differ by."""


class Timetable:
    """The candidates of a layer as stored, to be run best first.

    orders: the loop orders among which the best is looked for
    constraints: which tile sizes

    Raises MappingError if no mapping is legal.
    """

    def __init__(
        self,
        layer: ConvLayer,
        arch: Arch,
        formats: LayerFormats,
        orders: Sequence[str],
        constraints: Constraints = FREE,
    ) -> None:
        self._of = (layer, arch, formats)
        self._orders = orders
        self._allowed = allowed_sizes(layer, arch, constraints)
        sizes = candidate_sizes(layer, arch, [formats], "latency", constraints)
        self._padding = LeastPadding(layer, arch, formats)
        self._inner = InnerMapper(arch, formats) if len(arch.levels) > 2 else None
        grid, ends = Grid(*self._of, sizes), Edges.of_classes(*self._of, sizes)
        self._classes = Tilings(layer, arch, grid, orders, ends, self._padding.of_classes)
        if not len(self._classes):
            raise MappingError(constraints.shortage(grid, layer, formats))
        self._runs: dict[Mapping, tuple[Mapping, Run] | None] = {}

    @property
    def _most_runs(self) -> int:
        return MOST_RUNS if self._inner is None else MOST_RUNS_INSIDE

    @property
    def runs(self) -> int:
        """How many mappings were run."""
        return len(self._runs)

    def run(self, mapping: Mapping) -> tuple[Mapping, Run] | None:
        """What the simulator reports of a mapping with the best insides; None if none fit."""
        if mapping not in self._runs:
            layer, arch, formats = self._of
            whole: Mapping | None = mapping
            if self._inner is not None:
                whole = self._inner.whole(layer, mapping, "latency")
            self._runs[mapping] = (
                None if whole is None else (whole, run_of(layer, arch, whole, formats))
            )
        return self._runs[mapping]

    def best(
        self, aim: Aim, count: int, known_first: Sequence[Mapping] = ()
    ) -> tuple[list[tuple[Any, Mapping]], Any]:
        """The best runs as (cost and tie-breaks, mapping), and a bound of the cost of all others.

        With levels inside SRAM that is the least bound of any tiling, tried ones too, because other
        insides of these might be faster.

        Of equal runs the first in the order of bounds stays.
        known_first: whole mappings to begin with
        """
        found: list[tuple[Any, Mapping]] = []
        known: set[Mapping] = set()
        limit = None

        def run(mapping: Mapping) -> None:
            nonlocal limit
            if mapping in known:
                return
            known.add(mapping)
            ran = self.run(mapping)
            if ran is None:
                return
            whole, own = ran
            floor = aim(own.cycles, own.dram_bits, 0 if aim is latency else own.energy_pj)
            if limit is not None and floor >= limit:
                return
            found.append((aim(own.cycles, own.dram_bits, own.energy_pj), whole))
            found.sort(key=lambda one: one[0])
            del found[count:]
            if len(found) == count:
                limit = found[-1][0]

        for mapping in known_first:
            self._runs[mapping] = (mapping, run_of(*self._of[:2], mapping, self._of[2]))
            run(mapping)
        for at in self._promising(aim)[: self._most_runs]:
            run(self._classes.mapping(at))
        classes = self._ascending(self._classes, aim)
        opened: set[tuple[object, ...]] = set()
        points: list[tuple[Any, int, Mapping]] = []
        number = 0
        alone = 1 + self._count // _AS_LONG
        of_class = next(classes, None)
        every = None if self._inner is None or of_class is None else of_class[0][0]
        while points or of_class is not None:
            of_point = bool(points) and (of_class is None or points[0][0] <= of_class[0])
            least = points[0][0] if of_point else of_class[0]  # type: ignore[index]
            if limit is not None and least >= limit:
                return found, limit[0] if every is None else min(every, limit[0])
            if len(known) >= self._most_runs and found:
                return found, least[0] if every is None else min(every, least[0])
            if of_point:
                run(heappop(points)[2])
                continue
            assert of_class is not None
            key = self._class(of_class[1])
            of_class = next(classes, None)
            if key in opened:
                continue
            opened.add(key)
            inside = self._opened(key)
            if len(opened) == alone and self._count <= _MOST_POINTS:  # cheaper all at once
                inside, of_class = self._every(), None
            for tilings in inside:
                for cost, place in self._below(tilings, aim, limit):
                    heappush(points, (cost, number, tilings.mapping(place)))
                    number += 1
        if not found:
            raise MappingError(no_insides(*self._of[:2]))
        return found, found[-1][0][0] if every is None else min(every, found[-1][0][0])

    def front(self, least: Mapping) -> list[tuple[Mapping, int, int, bool]]:
        """Mappings, DRAM bits and cycles of which no other has fewer of one and no more of both.

        From the fewest cycles to the fewest bits; and whether that is proven. Candidates are tried
        in the order of their bounds' product.

        least: a mapping of few bits to begin with
        """
        found: list[tuple[int, int, Mapping]] = []  # cycles ascending, bits descending

        def beaten(cycles: int, bits: int) -> bool:
            place = bisect_right(found, cycles, key=lambda own: own[0])
            return place > 0 and found[place - 1][1] <= bits

        tried: set[Mapping] = set()

        def run(mapping: Mapping) -> None:
            tried.add(mapping)
            ran = self.run(replace(mapping, inner={}))
            if ran is None or beaten(ran[1].cycles, ran[1].dram_bits):
                return
            whole, own = ran
            found[:] = [one for one in found if one[0] < own.cycles or one[1] < own.dram_bits]
            insort(found, (own.cycles, own.dram_bits, whole), key=lambda one: one[:2])

        for mapping in (least, self.best(latency, 1)[0][0][1]):
            run(mapping)
        opened: set[tuple[object, ...]] = set()
        proven = self._inner is None  # other insides might be faster
        for _, at in self._ascending(self._classes, _product):
            bound = self._classes.bound
            if beaten(bound.cycles[at], bound.bits[at]):
                continue
            key = self._class(at)
            if key in opened:
                continue
            opened.add(key)
            for tilings in self._opened(key):
                for place in range(len(tilings)):
                    own = tilings.bound.cycles[place], tilings.bound.bits[place]
                    if beaten(*own):
                        continue
                    if len(tried) >= self._most_runs:
                        proven = False
                        continue
                    mapping = tilings.mapping(place)
                    if mapping not in tried:
                        run(mapping)
        return [(mapping, bits, cycles, proven) for cycles, bits, mapping in found]

    def _promising(self, aim: Aim) -> list[int]:
        """Classes of few bits among those of little cost: some run, before many are bounded."""
        cost, bits, _ = aim(*self._classes.bound)
        chosen: dict[int, None] = {}
        for slack in _SLACKS:
            near = np.flatnonzero(cost <= cost.min() * slack)
            few = np.argsort(bits[near], kind="stable")[:_TRIALS]
            chosen |= dict.fromkeys(near[few].tolist())
        return list(chosen)

    @property
    def _sizes(self) -> Sizes:
        """All tile sizes that are allowed and keep O's blocks whole."""
        layer, _, formats = self._of
        sizes = self._allowed
        whole = whole_blocks(layer, sizes["G"], sizes["K"], formats.O.block_size)
        return sizes | {"G": sizes["G"][whole.any(axis=1)], "K": sizes["K"][whole.any(axis=0)]}

    @property
    def _count(self) -> int:
        """Combinations of all tile sizes."""
        return prod(len(own) for own in self._sizes.values())

    def _every(self) -> Iterator[Tilings]:
        """All tilings, some at a time."""
        for order in self._orders:
            yield from self._tilings(self._sizes, order)

    def _tilings(self, sizes: Sizes, order: str) -> Iterator[Tilings]:
        """Those of some sizes under one order, as many at a time as are worked out at once."""
        layer, arch, _ = self._of
        for part in _parts(sizes):
            grid, ends = Grid(*self._of, part), Edges.of(*self._of, part)
            tilings = Tilings(layer, arch, grid, (order,), ends, self._padding.of)
            if len(tilings):
                yield tilings

    def _class(self, at: int) -> tuple[int, tuple[int, ...]]:
        """The class of a tiling: its order's place, and its tiles of each dimension."""
        sizes = zip(DIMS, self._classes.sizes(at), strict=True)
        trips = tuple(-(-self._of[0].dims[dim] // size) for dim, size in sizes)
        return self._classes.rank(at), trips

    def _opened(self, key: tuple[int, tuple[int, ...]]) -> Iterator[Tilings]:
        """All tilings of a class, some at a time."""
        rank, trips = key
        layer, _, _ = self._of
        sizes = {
            dim: own[-(-layer.dims[dim] // own) == count]
            for (dim, own), count in zip(self._allowed.items(), trips, strict=True)
        }
        return self._tilings(sizes, self._orders[rank])

    def _below(
        self, tilings: Tilings, aim: Aim, limit: Any
    ) -> Iterator[tuple[tuple[Any, Any, Any], int]]:
        """The tilings whose bound is below a limit, in order."""
        cost = aim(*tilings.bound)[0]
        near = np.arange(len(tilings)) if limit is None else np.flatnonzero(cost <= limit[0])
        for key, at in _ordered(tilings, aim, near):
            if limit is None or key < limit:
                yield key, at

    @staticmethod
    def _ascending(tilings: Tilings, aim: Aim) -> Iterator[tuple[tuple[Any, Any, Any], int]]:
        """All tilings in the order of their bounds."""
        for near in batches(aim(*tilings.bound)[0], _CLASSES):
            yield from _ordered(tilings, aim, near)


def _ordered(
    tilings: Tilings, aim: Aim, at: NDArray[np.intp]
) -> Iterator[tuple[tuple[Any, Any, Any], int]]:
    costs = [np.asarray(own)[at] for own in aim(*tilings.bound)]
    order = np.lexsort([*reversed(tilings.preference(at)), *reversed(costs)])
    rows = zip(*(own[order].tolist() for own in costs), strict=True)
    return zip(rows, at[order].tolist(), strict=True)


def _parts(sizes: Sizes) -> Iterator[Sizes]:
    """Sizes whose combinations are few enough to be worked out at once."""
    if prod(len(own) for own in sizes.values()) <= _POINTS:
        yield sizes
        return
    longest = max(sizes, key=lambda dim: len(sizes[dim]))
    half = len(sizes[longest]) // 2
    for part in (sizes[longest][:half], sizes[longest][half:]):
        yield from _parts({**sizes, longest: part})


def batches(cost: NDArray[Any], size: int) -> Iterator[NDArray[np.intp]]:
    """Indices of the least costs, then of the next ones, eight times as many each time."""
    left = np.arange(cost.size)
    while left.size:
        if size < left.size:
            limit = np.partition(cost[left], size - 1)[size - 1]
            near = cost[left] <= limit  # ties of the last one too
            yield left[near]
            left, size = left[~near], size * 8
        else:
            yield left
            return
