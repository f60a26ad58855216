"""The mapper: every tiling and every way of reuse, priced at once, to a proven optimum."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
from numpy.typing import NDArray

from bfpsim.arch import Arch
from bfpsim.mapping import timed
from bfpsim.mapping.candidates import grid_of
from bfpsim.mapping.closed.exact import recurs
from bfpsim.mapping.closed.traffic import times
from bfpsim.mapping.constraints import FREE, Constraints
from bfpsim.mapping.inner import InnerMapper, no_insides
from bfpsim.mapping.models import stored
from bfpsim.mapping.nest import DIMS, Mapping, MappingError, Nest, make_nest
from bfpsim.mapping.objective import Objective
from bfpsim.mapping.paddings import Paddings
from bfpsim.mapping.runs import run_of
from bfpsim.quant.formats import LayerFormats
from bfpsim.workloads import ConvLayer

ORDERS = ("GKNPQC", "GNCQPK", "GNCPQK", "GKCNQP", "GKCNPQ")
"""One loop order per way of reusing tiles; every other order moves at least as much, but where
`orders` has more.

The innermost loop decides what stays: C keeps O until it is finished; K keeps I, and the loop
outside it may slide; P or Q keep W, and slide I. In the last case N, P and Q all stand inside the
loops of W, so W moves once. The place of every other loop changes nothing.
"""

_CLIPPED = ("GNCKQP", "GNCKPQ", "GNCQKP", "GNCPKQ")
"""Where I is the same for all tiles of P, or of Q, it stays over these and K: C may be outside."""

Model = Literal["exact", "full"]


def orders(layer: ConvLayer) -> tuple[str, ...]:
    """The loop orders among which there is a best one, of a layer as it is stored.

    `ORDERS`; and where clipping to the map leaves all tiles of P (or Q) the same rows (columns), as
    it does under a dilation as large as the map, those in which I is kept for that reason.
    """
    return ORDERS + _CLIPPED if any(recurs(layer, dim) for dim in "PQ") else ORDERS


@dataclass(frozen=True, slots=True)
class Choice:
    """A mapping and what it costs: DRAM bits, pJ (Eq. 8), cycles or pJ x cycles, by objective.

    bound: no mapping of the candidates that stand behind it costs less
    """

    mapping: Mapping
    cost: float
    bound: float

    @property
    def proven(self) -> bool:
        """Whether the cost is the least."""
        return self.bound >= self.cost


class Point(NamedTuple):
    """A mapping on the front of DRAM bits (bursts included) and cycles.

    proven: whether no candidate has fewer of one and as few of the other
    """

    mapping: Mapping
    dram_bits: int
    cycles: int
    proven: bool


def find_mapping(
    layer: ConvLayer,
    arch: Arch,
    formats: LayerFormats,
    *,
    objective: Objective = "dram",
    model: Model = "exact",
    constraints: Constraints = FREE,
) -> Mapping:
    """The best legal mapping; the first of `best_mappings`."""
    return best_mappings(layer, arch, formats, 1, objective, model, constraints)[0].mapping


def best_mappings(
    layer: ConvLayer,
    arch: Arch,
    formats: LayerFormats,
    count: int,
    objective: Objective = "dram",
    model: Model = "exact",
    constraints: Constraints = FREE,
) -> list[Choice]:
    """The best legal mapping, and the `count` - 1 next ones of the candidates, best first.

    objective: "dram" bits; "energy" of movement by Eq. 8; "latency", the cycles of a run; "edp",
        movement energy x cycles
    model: "exact" counts payload; "full" counts whole bursts too, as the simulator does. Latency
        and edp are the simulator's in both
    constraints: what the mapping must keep to; all that is said here is of what they allow

    "dram" and "energy" with "exact": the first is the least over all legal mappings, every order
    and every tile size (see `orders` and `mapping.candidates`). With "full" it is the least over
    the same candidates, tried in the order of their exact cost until that alone exceeds the best
    found; a size left out for equal payload may pad less, so its bound is the exact cost.
    "latency" and "edp": the least over all tile sizes under `orders`, or the best of
    `mapping.timed.MOST_RUNS`, with the bound that is left.

    Ties: of "dram" and "energy" fewest cycles (among the first `TIES`), of the others fewest bits,
    then least energy. Then fewest tile steps, the order's place in `orders`, the largest tiles,
    those of C first, then of K, Q, P, G and N.
    Raises MappingError if no mapping is legal: which buffer is short, and by how many bits; or
    which constraint leaves nothing.
    """
    if objective not in get_args(Objective):
        raise ValueError(f"objective={objective!r}; allowed: {', '.join(get_args(Objective))}")
    if model not in ("exact", "full"):
        raise ValueError(f"model={model!r}; allowed: exact, full")
    if count < 1:
        raise ValueError(f"count={count}; allowed: a whole number from 1")
    kept = stored(layer, arch)
    if objective in ("latency", "edp"):
        aim = timed.latency if objective == "latency" else timed.edp
        free = constraints.orders(orders(kept))
        timetable = timed.Timetable(kept, arch, formats, free, constraints)
        first: list[Mapping] = []
        if len(arch.levels) > 2:  # few mappings are run, so never slower than these
            first = [
                best_mappings(layer, arch, formats, 1, other, "full", constraints)[0].mapping
                for other in ("dram", "energy")
            ]
        found, bound = timetable.best(aim, count, first)
        return [Choice(m, cost[0], min(cost[0], bound)) for cost, m in found]
    candidates = _Candidates(kept, arch, formats, objective, constraints)
    if len(arch.levels) > 2:
        return _least_inside(candidates, kept, arch, formats, count, objective, model)
    if model == "exact" or arch.dram.burst == 1:
        best = _least(candidates, count)
    else:
        best = _least_padded(candidates, kept, arch, formats, count)
    return _faster_first(best, kept, arch, formats)[:count]


def front(
    layer: ConvLayer, arch: Arch, formats: LayerFormats, constraints: Constraints = FREE
) -> list[Point]:
    """The mappings of which none has fewer DRAM bits (bursts included) and fewer cycles.

    From the fewest cycles to the fewest bits, of all tile sizes under `orders`.
    Raises MappingError as `best_mappings` does.
    """
    kept = stored(layer, arch)
    free = constraints.orders(orders(kept))
    timetable = timed.Timetable(kept, arch, formats, free, constraints)
    least = best_mappings(layer, arch, formats, 1, "dram", "full", constraints)[0].mapping
    return [Point(*own) for own in timetable.front(least)]


TIES = 16
"""Mappings of equal cost of which the fastest is looked for."""


def _least(candidates: _Candidates, count: int) -> list[Choice]:
    """The best by exact cost, and some more if they tie with the last."""
    best: list[Choice] = []
    for mapping, cost, _ in candidates.ascending(count + TIES):
        if len(best) >= count and cost > best[-1].cost:
            break
        best.append(Choice(mapping, cost, cost))
    return best


def _least_padded(
    candidates: _Candidates, kept: ConvLayer, arch: Arch, formats: LayerFormats, count: int
) -> list[Choice]:
    """The best by cost with bursts, and some more if they tie with the last."""
    paddings = Paddings(arch, formats)
    best: list[Choice] = []
    bound = math.inf
    for mapping, cost, padded in candidates.ascending(None):
        bound = min(bound, cost)
        limit = best[count - 1].cost if len(best) >= count else math.inf
        if cost > limit or (cost == limit and len(best) == count + TIES):
            break
        above = math.nextafter(limit, math.inf)
        total = padded(*_padding(paddings, make_nest(kept, mapping), padded, above))
        if total <= limit:
            best.append(Choice(mapping, total, bound))
            best.sort(key=lambda found: found.cost)
            least = best[min(count, len(best)) - 1].cost
            best = [one for one in best if one.cost <= least][: count + TIES]
    return best


def _least_inside(
    candidates: _Candidates,
    kept: ConvLayer,
    arch: Arch,
    formats: LayerFormats,
    count: int,
    objective: Objective,
    model: Model,
) -> list[Choice]:
    """The best on a machine with levels inside SRAM, each with its best insides.

    Candidates are tried in the order of a bound: their own cost, of energy with the least that the
    insides of any mapping cost.
    """
    paddings, inner = Paddings(arch, formats), InnerMapper(arch, formats)
    floor = inner.least_pj(kept) if objective == "energy" else 0.0
    best: list[Choice] = []
    for mapping, cost, padded in candidates.ascending(None):
        limit = best[-1].cost if len(best) == count else math.inf
        if cost + floor >= limit:
            break
        nest, total = make_nest(kept, mapping), cost
        if model == "full" and arch.dram.burst > 1:
            total = padded(*_padding(paddings, nest, padded, limit))
            if total + floor >= limit:
                continue
        insides = inner.best(nest)
        if insides is None:
            continue
        bound = cost  # a tile size left out for equal payload may pad less
        if objective == "energy":
            total += insides.cost
            bound += insides.bound if model == "exact" else floor
        best.append(Choice(replace(mapping, inner=insides.mappings), total, bound))
        best.sort(key=lambda found: found.cost)
        del best[count:]
    if not best:
        raise MappingError(no_insides(kept, arch))
    return best


def _faster_first(
    choices: list[Choice], kept: ConvLayer, arch: Arch, formats: LayerFormats
) -> list[Choice]:
    """Choices in ascending order, of equal cost the faster first."""
    ordered: list[Choice] = []
    for _, tied in groupby(choices, key=lambda own: own.cost):
        group = list(tied)
        if len(group) > 1 and len(arch.levels) == 2:  # further inside, tiles are yet to be chosen
            group.sort(key=lambda own: run_of(kept, arch, own.mapping, formats).cycles)
        ordered += group
    return ordered


_BATCH = 4096
"""Candidates that are put in order first; mostly the best is among them."""

Padded = Callable[[int, int], float]
"""A candidate's cost when its transfers carry that much burst padding, of which written [bit]."""


class _Candidates:
    """All legal tilings under all `orders`, in the order of their exact cost."""

    def __init__(
        self,
        layer: ConvLayer,
        arch: Arch,
        formats: LayerFormats,
        objective: Objective,
        constraints: Constraints,
    ) -> None:
        self._dims, self._arch, self._objective = layer.dims, arch, objective
        self._orders = constraints.orders(orders(layer))
        self._grid = grid = grid_of(layer, arch, formats, objective, constraints)
        by_order = [grid.legal(order) for order in self._orders]
        legal = np.logical_or.reduce(by_order)
        if not legal.any():
            raise MappingError(constraints.shortage(grid, layer, formats))
        self._places = np.argwhere(legal)
        self._illegal = ~np.concatenate([own[legal] for own in by_order])
        self._steps = np.broadcast_to(grid.steps, legal.shape)[legal]
        outer = [grid.outer_bits(order) for order in self._orders]
        self._outer = np.concatenate([sum(bits.values())[legal] for bits in outer])
        self._rest: NDArray[Any] = np.zeros(0)  # energy of the level inside
        if objective == "energy":
            self._rest = np.concatenate([self._inner_pj(own)[legal] for own in self._orders])

    def ascending(self, count: int | None) -> Iterator[tuple[Mapping, float, Padded]]:
        """(mapping, exact cost, cost with padding), best first, each mapping once."""
        cost = self._costs()
        tilings = len(self._places)
        seen: set[Mapping] = set()
        for chosen in timed.batches(cost, _BATCH if count is None else count * len(self._orders)):
            rank, place = np.divmod(chosen, tilings)
            # Of ties, tiles that are large where neighbours in DRAM are: channels, columns, rows.
            large = [-self._places[place, DIMS.index(dim)] for dim in "NGPQKC"]
            preference = np.lexsort((*large, rank, self._steps[place], cost[chosen]))
            for index in chosen[preference]:
                if self._illegal[index]:
                    return
                mapping = self._mapping(*divmod(int(index), tilings))
                if mapping not in seen:  # equal mappings arise from several orders
                    seen.add(mapping)
                    yield mapping, self._cost(int(index), 0, 0), self._padded(int(index))
                    if len(seen) == count:
                        return

    def _costs(self) -> NDArray[Any]:
        costs: NDArray[Any] = self._outer
        if self._objective == "energy":
            costs = self._outer * self._arch.dram.read_pj + self._rest
        return np.where(self._illegal, np.inf, costs) if self._illegal.any() else costs

    def _cost(self, index: int, padding: int, writes: int) -> float:
        bits = int(self._outer[index]) + padding
        if self._objective == "dram":
            return bits
        return float(self._arch.levels[0].pj("O", bits, writes) + self._rest[index])

    def _padded(self, index: int) -> Padded:
        return lambda padding, writes: self._cost(index, padding, writes)

    def _inner_pj(self, order: str) -> NDArray[np.float64]:
        """Energy of SRAM, and what writing to DRAM costs above reading."""
        grid = self._grid
        spilled = grid.spilled_elements(order) * self._arch.pe_array.accumulator_bits
        above = self._arch.levels[0].pj("O", 0, spilled + grid.results_bits)
        return np.asarray(above + grid.buffer_pj(order))

    def _mapping(self, rank: int, place: int) -> Mapping:
        sizes = dict(zip(DIMS, self._grid.tile(self._places[place]), strict=True))
        tile = {d: size for d, size in sizes.items() if size < self._dims[d]}
        return Mapping("".join(d for d in self._orders[rank] if d in tile), tile)


def _padding(paddings: Paddings, nest: Nest, padded: Padded, limit: float) -> tuple[int, int]:
    """Padding of all transfers, and of writes [bit]; ends once the cost reaches `limit`."""
    spills = 2 * (times(nest, "O") - 1)
    parts: tuple[tuple[int, int, Callable[[Nest], int]], ...] = (
        (times(nest, "W"), 0, paddings.weights),
        (1, 1, paddings.results),
        (spills, spills // 2, paddings.sums),
        (1, 0, paddings.inputs),
    )
    total = of_writes = 0
    for repeats, writes, padding in parts:
        if repeats and padded(total, of_writes) < limit:
            bits = padding(nest)
            total += repeats * bits
            of_writes += writes * bits
    return total, of_writes
