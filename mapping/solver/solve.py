"""The tiling problem given to SCIP: to a proven integer optimum, or as the paper relaxes it.

`mapping.mapper` finds the same optimum by pricing every tiling, sooner; here another method with
another code says so. Needs pyomo and pyscipopt.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import ceil, inf
from time import perf_counter
from typing import Literal, cast

import numpy as np

from bfpsim.arch import Arch
from bfpsim.mapping.candidates import grid_of
from bfpsim.mapping.closed.grid import Grid
from bfpsim.mapping.closed.products import Products, over_sizes
from bfpsim.mapping.closed.traffic import EXACT, Payload
from bfpsim.mapping.fit import check
from bfpsim.mapping.mapper import ORDERS, orders
from bfpsim.mapping.models import stored
from bfpsim.mapping.nest import DIMS, Mapping, MappingError
from bfpsim.mapping.solver.integer import IntegerTiling
from bfpsim.mapping.solver.relaxed import RealTiling
from bfpsim.mapping.solver.scip import FEASIBILITY
from bfpsim.quant.formats import LayerFormats
from bfpsim.workloads import ConvLayer

Solver = Literal["scip", "relaxed"]


@dataclass(frozen=True, slots=True)
class Solution:
    """What a solver found, and what it proved.

    mapping: the best legal mapping found
    dram_bits: its payload by the exact model, priced apart from the solver [bit]
    objective: what the solver minimised, at its own point [bit]: with "scip" `dram_bits`, with
        "relaxed" the paper's cost of real tile sizes; infinite if it found no point in time
    bound: proven lower bound on that objective, less SCIP's tolerance [bit]
    gap: (objective - bound) / objective
    seconds: wall-clock time, model building included
    status: "optimal", "time limit", or SCIP's other reason to stop
    order: the loop order class, one of `mapping.mapper.orders`
    per_class: where several classes were solved, the solution of each
    """

    mapping: Mapping
    dram_bits: int
    objective: float
    bound: float
    gap: float
    seconds: float
    status: str
    order: str
    per_class: tuple[Solution, ...] = ()


def solve(
    layer: ConvLayer,
    arch: Arch,
    formats: LayerFormats,
    order: str | None = None,
    solver: Solver = "scip",
    seconds: float = 60.0,
) -> Solution:
    """The tiling of least DRAM payload, by SCIP.

    order: one of `mapping.mapper.orders`; None solves each apart and returns the best, with a
        bound for all
    solver: "scip" minimises the exact model over legal integer tiles. "relaxed" minimises the
        paper's model (Eq. 2-6) over real tile sizes, whose bound holds for the paper's cost of
        mappings whose tiles fit with their padding (of all orders together; of one order, as if it
        had all its loops). Its point is rounded down to a legal mapping, enlarged while that helps
    seconds: wall-clock limit of each order [s]; SCIP may take a little longer to stop

    Raises MappingError for an unknown order, if no mapping is legal, or if by the paper's model no
    tile fits; ValueError for an unknown solver, or a time limit that is not positive.
    """
    kept = stored(layer, arch)
    # By the paper's model, which knows no clipping, the same few always suffice.
    classes = orders(kept) if solver == "scip" else ORDERS
    if order is not None and order not in classes:
        raise MappingError(f"order={order!r}; allowed: {', '.join(classes)}, or None for all")
    if solver not in ("scip", "relaxed"):
        raise ValueError(f"solver={solver!r}; allowed: scip, relaxed")
    if not 0 < seconds < inf:
        raise ValueError(f"seconds={seconds!r}; allowed: a number above 0")
    problem = _Problem(kept, arch, formats)
    solve_one = problem.integer if solver == "scip" else problem.relaxed
    if order is not None:
        return solve_one(order, seconds)
    return _best(tuple(solve_one(each, seconds) for each in classes))


def _best(per_class: tuple[Solution, ...]) -> Solution:
    best = min(per_class, key=lambda s: s.dram_bits)  # of equals, the first
    objective = min(s.objective for s in per_class)
    bound = min(s.bound for s in per_class)
    # A class stopped early matters only if it could still hold something better.
    pending = [s for s in per_class if s.status != "optimal" and s.bound < objective]
    return replace(
        best,
        objective=objective,
        bound=bound,
        gap=_gap(objective, bound),
        seconds=sum(s.seconds for s in per_class),
        status=pending[0].status if pending else "optimal",
        per_class=per_class,
    )


def _gap(objective: float, bound: float) -> float:
    return (objective - bound) / objective if objective < inf else inf


Numbers = tuple[int, ...]
"""The number of a candidate tile size per dimension, in the order of `DIMS`."""


class _Problem:
    """A layer as stored in DRAM, its candidate tiles, and which of them are legal."""

    def __init__(self, layer: ConvLayer, arch: Arch, formats: LayerFormats) -> None:
        self._layer, self._arch, self._formats = layer, arch, formats
        grid = grid_of(layer, arch, formats)
        self._legal = grid.legal()
        if not self._legal.any():
            raise MappingError(grid.shortage())
        self._steps = np.broadcast_to(grid.steps, self._legal.shape)
        self._sizes, self._whole_blocks = grid.sizes, grid.whole_blocks[0, :, :, 0, 0, 0]
        self._sums = Grid(layer, arch, formats, grid.sizes, over_sizes)

    def integer(self, order: str, seconds: float) -> Solution:
        """The exact model's optimum of a class."""
        start = perf_counter()
        largest = cast(Numbers, tuple(size - 1 for size in self._legal.shape))
        place = self._rounded(order, largest)
        mapping, known = self._priced(order, place)
        cost = self._cost(order)
        model = IntegerTiling(self._sums, self._whole_blocks, cost, self._arch, known)
        found, claimed, bound, status = model.solve(seconds - (perf_counter() - start))
        if found is not None:
            place = tuple(found[d] for d in DIMS)
            mapping, bits = self._priced(order, place)
            if abs(bits - claimed) > 1e-6 * bits:
                raise RuntimeError(
                    f"{self._layer.name}: SCIP claims {claimed} bit for {mapping}, which costs "
                    f"{bits} bit"
                )
            known = bits
        # Payload is whole bits, so a bound rounds up, but for what floats cannot tell.
        bound = min(known, max(0, ceil(bound * (1 - FEASIBILITY)))) if bound > 0 else 0
        took = perf_counter() - start
        return Solution(mapping, known, known, bound, _gap(known, bound), took, status, order)

    def relaxed(self, order: str, seconds: float) -> Solution:
        """The paper's relaxation of a class, rounded."""
        start = perf_counter()
        model = RealTiling(self._layer, self._arch, self._formats, order)
        tile, objective, bound, status = model.solve(seconds - (perf_counter() - start))
        if status == "infeasible":
            raise MappingError(
                f"{self._layer.name}: by the paper's model no tile fits {self._arch.name}, for it "
                "counts padding as fetched; allowed: more memory, or the solver scip"
            )
        near = {d: float(size) for d, size in self._layer.dims.items()} | (tile or {})
        tolerance = 1 + 1e-6  # SCIP's 15.9999999 is 16
        down = (np.searchsorted(self._sizes[d], near[d] * tolerance, "right") for d in DIMS)
        place = self._rounded(order, tuple(max(0, int(i) - 1) for i in down))
        mapping, bits = self._priced(order, place)
        bound = max(0.0, bound * (1 - 1e-6))
        took = perf_counter() - start
        gap = _gap(objective, bound)
        return Solution(mapping, bits, objective, bound, gap, took, status, order)

    def _cost(self, order: str) -> Products:
        """Payload under a loop order [bit]."""
        return sum(self._sums.outer_bits(order).values(), Products(())).merged()

    def _rounded(self, order: str, place: Numbers) -> Numbers:
        """A legal place: the fewest steps among tiles no larger, then enlarged while that helps."""
        below = self._legal[tuple(slice(0, i + 1) for i in place)]
        if not below.any():  # smaller tiles are not always legal: blocks of O, partial sums
            below = self._legal
        steps = self._steps[tuple(slice(0, size) for size in below.shape)]
        fewest = np.argmin(np.where(below, steps, np.iinfo(np.int64).max))
        here = tuple(int(i) for i in np.unravel_index(fewest, below.shape))
        cost = self._cost(order)

        def bits(at: Numbers) -> int:
            return cost.at(dict(zip(DIMS, at, strict=True)))

        while True:
            larger = [self._next(here, axis) for axis in range(len(DIMS))]
            best = min((at for at in larger if at is not None), key=bits, default=here)
            if bits(best) >= bits(here):
                return here
            here = best

    def _next(self, place: Numbers, axis: int) -> Numbers | None:
        """The next larger legal tile of one dimension."""
        for size in range(place[axis] + 1, self._legal.shape[axis]):
            at = (*place[:axis], size, *place[axis + 1 :])
            if self._legal[at]:
                return at
        return None

    def _priced(self, order: str, place: Numbers) -> tuple[Mapping, int]:
        """The mapping at a place, and its payload by the exact model [bit]."""
        dims, sizes = self._layer.dims, self._sizes
        every = {d: int(sizes[d][i]) for d, i in zip(DIMS, place, strict=True)}
        tile = {d: size for d, size in every.items() if size < dims[d]}
        mapping = Mapping("".join(d for d in order if d in tile), tile)
        nest = check(self._layer, self._arch, mapping, self._formats)
        return mapping, int(Payload(nest, self._arch, self._formats).counts(EXACT).total())
