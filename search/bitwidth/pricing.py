"""A layer's mappings priced in every format: by a model over all of them, or a pool of some.

On a machine with levels inside SRAM a mapping is priced with all its boundaries, and pools alone
are: `model_costs` has bounds there.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bfpsim.arch import Arch
from bfpsim.mapping.array import passes
from bfpsim.mapping.candidates import candidate_sizes
from bfpsim.mapping.closed import paper
from bfpsim.mapping.closed.grid import Grid, Sizes
from bfpsim.mapping.closed.leaves import Values, Vector
from bfpsim.mapping.closed.levels import held_bits
from bfpsim.mapping.counts import Counts, energy_pj
from bfpsim.mapping.energy import written
from bfpsim.mapping.fit import check_all_blocks
from bfpsim.mapping.inner import InnerMapper
from bfpsim.mapping.mapper import orders
from bfpsim.mapping.models import EXACT, FULL, PAPER, full_counts, nest_counts, stored
from bfpsim.mapping.nest import DIMS, TENSORS, Mapping, MappingError, Nest, Tensor, make_nest
from bfpsim.mapping.objective import Objective
from bfpsim.mapping.room import fits
from bfpsim.quant.formats import Format, LayerFormats, Plain
from bfpsim.search.bitwidth.costs import Costs
from bfpsim.search.bitwidth.dominance import undominated
from bfpsim.search.bitwidth.lines import Lines, make_lines
from bfpsim.workloads import ConvLayer

Model = Literal["exact", "paper"]


def model_costs(
    layer: ConvLayer, arch: Arch, formats: Sequence[Format], objective: Objective
) -> dict[Model, Costs]:
    """Every mapping that can be best for some triple of the formats, priced by each model.

    "exact" is payload by the movement rules: its prices are proven least over all mappings.
    "paper" is Eq. 2-6 with real-valued trips, over the same tile sizes and loop orders.

    On a machine with levels inside SRAM mappings are of the boundary with DRAM alone, and there is
    only "exact": the least that any tiling inside can make of each, every tensor by itself. No
    mapping of the whole machine costs less; none may cost as little.

    Legality is rule 7 of the movement rules for both, so that every mapping can be simulated.
    Raises MappingError if no mapping is legal in any format.
    """
    kept = stored(layer, arch)
    lines = make_lines(formats)
    ends = [LayerFormats.uniform(fmt) for fmt in lines.ends]
    sizes = candidate_sizes(kept, arch, ends, objective)
    grids = [Grid(kept, arch, each, sizes) for each in ends]
    inside = _least_inside(kept, arch, ends, objective)
    computing = _computing(kept, arch, formats, sizes) if objective == "latency" else {}
    tilings: dict[bool, _Tilings] = {}
    tiling = paper.of_sizes(kept, sizes)
    found: dict[Model, Costs] = {}
    for order in orders(kept):
        keeps = _keeps_sums(arch, order)
        if keeps not in tilings:
            tilings[keeps] = _tilings(grids, arch, keeps, computing)
        own = tilings[keeps]
        if not own.where.any():
            continue
        by_grid = [_exact_moved(grid, order, arch, objective, own.where) for grid in grids]
        by_model: dict[Model, dict[Tensor, Values]] = {
            "exact": {t: np.stack([each[t] for each in by_grid]) for t in TENSORS}
        }
        if inside is not None:
            by_model["exact"] = {t: by_model["exact"][t] + inside[t][:, None] for t in TENSORS}
        if len(arch.levels) == 2:
            by_model["paper"] = _paper_moved(tiling, order, arch, lines.ends, objective, own.where)
        for model, moved in by_model.items():
            rows = [moved[t] for t in TENSORS]
            best = undominated(arch, rows, own.room_rows(), own.whole, own.busy_rows())
            costs = Costs(
                layer,
                arch,
                objective,
                tuple(formats),
                {t: lines.all(values[:, best]) for t, values in moved.items()},
                own.room(lines, best),
                {},
                own.whole[:, best][lines.low],  # the same at both ends
                {n: values[best] for n, values in own.busy.items()},
                tuple(_mapping(kept, order, each) for each in own.sizes[best].tolist()),
            )
            before = found.get(model)
            found[model] = (before.joined(costs) if before else costs).undominated()
    if not found:
        raise MappingError(grids[0].shortage())
    return found


def _mapping(layer: ConvLayer, order: str, sizes: Sequence[int]) -> Mapping:
    tile = {d: size for d, size in zip(DIMS, sizes, strict=True) if size < layer.dims[d]}
    return Mapping("".join(d for d in order if d in tile), tile)


def _keeps_sums(arch: Arch, order: str) -> bool:
    """Whether accumulators may keep the sums of a tile of O to the end, under a loop order."""
    level = arch.accumulators
    return order.endswith("C") and level is not None and level.tensors == ("O",)


def _least_inside(
    layer: ConvLayer, arch: Arch, ends: Sequence[LayerFormats], objective: Objective
) -> dict[Tensor, Values] | None:
    """What each tensor costs inside SRAM at least, by format [pJ]; None where that does not count.

    Mantissas alone, of which every tiling's cost is a line, so that the least is not below the line
    between the fewest and the most bits. DMA's side of SRAM is apart.
    """
    if len(arch.levels) == 2 or objective != "energy":
        return None
    widths = [each.I.mantissa_bits for each in ends]
    few = sorted({min(widths), max(widths)})
    mappers = [InnerMapper(arch, LayerFormats.uniform(Plain(bits))) for bits in few]
    return {
        t: np.interp(widths, few, [own.least_pj(layer, (t,)) for own in mappers]) for t in TENSORS
    }


class _Tilings(NamedTuple):
    """Tilings that are legal in some formats; rows for the ends of the formats' lines.

    where: of all combinations of tile sizes
    inputs, weights, results: room of the largest tile [bit]; sums: of O's as partial sums
    whole: whether O's blocks stay whole
    busy: by passes of the array, cycles that it computes, where they count
    sizes: (tilings, 6): in the order of `DIMS`
    """

    where: NDArray[np.bool_]
    inputs: Values
    weights: Values
    results: Values
    sums: Values
    whole: NDArray[np.bool_]
    busy: dict[int, Values]
    sizes: Vector

    def room_rows(self) -> list[Values]:
        """Rows for `undominated`.

        O takes the larger of two, whose difference is not below the lesser of theirs.
        """
        return [self.inputs, self.weights, np.vstack((self.results, self.sums))]

    def busy_rows(self) -> Values | None:
        """Rows for `undominated`."""
        return np.stack(list(self.busy.values())) if self.busy else None

    def room(self, lines: Lines, at: NDArray[np.intp]) -> dict[Tensor, Values]:
        """Room of some tilings in every format."""
        return {
            "I": lines.all(self.inputs[:, at]),
            "W": lines.all(self.weights[:, at]),
            "O": np.maximum(lines.all(self.results[:, at]), self.sums[at]),
        }


def _tilings(
    grids: Sequence[Grid], arch: Arch, keeps: bool, computing: dict[int, Vector]
) -> _Tilings:
    """Tilings that are legal in some triple of formats.

    keeps: whether sums that accumulators hold whole take no room
    computing: by passes of the array, cycles that it computes
    """
    first = grids[0]
    sums = first.sum_bits
    if keeps and arch.accumulators is not None:
        sums = np.where(sums <= arch.accumulators.buffers["O"].usable_bits, 0, sums)
    least = {t: np.minimum.reduce([grid.room[t] for grid in grids]) for t in TENSORS}
    results = np.minimum.reduce([grid.result_bits for grid in grids])
    least["O"] = np.maximum(results, sums)
    possible: NDArray[np.bool_] = fits(arch, least)
    possible = possible & np.logical_or.reduce([grid.whole_blocks for grid in grids])
    where = np.broadcast_to(possible, np.broadcast_shapes(possible.shape, first.steps.shape))

    def row(values: Vector | NDArray[np.bool_]) -> Values:
        return np.broadcast_to(values, where.shape)[where].astype(float)

    places = np.argwhere(where)
    return _Tilings(
        where,
        np.stack([row(grid.room["I"]) for grid in grids]),
        np.stack([row(grid.room["W"]) for grid in grids]),
        np.stack([row(grid.result_bits) for grid in grids]),
        row(sums),
        np.stack([row(grid.whole_blocks) for grid in grids]).astype(bool),
        {n: row(cycles) for n, cycles in computing.items()},
        np.stack([first.sizes[d][places[:, axis]] for axis, d in enumerate(DIMS)], axis=1),
    )


def _computing(
    layer: ConvLayer, arch: Arch, formats: Sequence[Format], sizes: Sizes
) -> dict[int, Vector]:
    """Cycles that the array computes by its passes, which formats of I and W decide."""
    return {
        n: Grid(layer, arch, one, sizes).compute_cycles
        for n, one in _by_passes(arch, formats).items()
    }


def _by_passes(arch: Arch, formats: Sequence[Format]) -> dict[int, LayerFormats]:
    """Formats that make the array pass so many times, for every number that there is."""
    widths = {fmt.significand_bits: fmt for fmt in formats}.values()
    triples = [LayerFormats(i, w, i) for i in widths for w in widths]
    return {passes(arch.pe_array, one): one for one in triples}


def _exact_moved(
    grid: Grid, order: str, arch: Arch, objective: Objective, where: NDArray[np.bool_]
) -> dict[Tensor, Values]:
    outer = grid.outer_bits(order)
    moved: dict[Tensor, Values] = {t: np.asarray(bits, float) for t, bits in outer.items()}
    if objective == "energy" and len(arch.levels) > 2:
        moved = _outside_pj(grid, order, arch)
    elif objective == "energy":
        sram = grid.inner_bits(outer)
        outside, inside = written(outer, sram, grid.results_bits)
        moved = {t: _energy((moved[t], outside[t]), (sram[t], inside[t]), t, arch) for t in TENSORS}
    return {t: np.broadcast_to(values, where.shape)[where] for t, values in moved.items()}


def _outside_pj(grid: Grid, order: str, arch: Arch) -> dict[Tensor, Values]:
    """Energy of DRAM, and of SRAM on DMA's side [pJ]."""
    dram, sram = arch.levels[:2]
    spilled = grid.spilled_elements(order) * float(arch.pe_array.accumulator_bits)
    both = spilled + grid.results_bits
    outputs = dram.pj("O", spilled + both, both) + sram.pj("O", spilled + both, spilled)
    fetched: dict[Tensor, Values] = {
        t: np.asarray(grid.fetched(t, order) * (dram.read_pj[t] + sram.write_pj[t]), float)
        for t in TENSORS
        if t != "O"
    }
    return fetched | {"O": np.asarray(outputs, float)}


def _paper_moved(
    tiling: paper.Tiling,
    order: str,
    arch: Arch,
    formats: Sequence[Format],
    objective: Objective,
    where: NDArray[np.bool_],
) -> dict[Tensor, Values]:
    layer, loops = tiling.layer, "".join(d for d in order if tiling.layer.dims[d] > 1)
    dram = {t: tiling.elements(t, loops) for t in TENSORS}
    if objective == "energy":
        sram = paper.array_elements(tiling, arch.pe_array)
        # The model does not say which way O moves; half of it each.
        half = {t: 0.5 if t == "O" else 0.0 for t in TENSORS}
        dram = {
            t: _energy((dram[t], dram[t] * half[t]), (sram[t], sram[t] * half[t]), t, arch)
            for t in TENSORS
        }
    widths = {
        t: np.array([_width(fmt, layer.R * layer.S if t == "W" else 1) for fmt in formats])
        for t in TENSORS
    }
    return {
        t: widths[t][:, None] * np.broadcast_to(dram[t], where.shape)[where][None] for t in TENSORS
    }


def _width(fmt: Format, positions: int) -> float:
    """Bits per element by Eq. 6."""
    return float(fmt.mantissa_bits + paper.code_bits(fmt, positions))


def _energy(dram: Sequence[Any], sram: Sequence[Any], tensor: Tensor, arch: Arch) -> Values:
    """Of what moves at each level, and what of it is written."""
    outer, inner = arch.levels[:2]
    energy: Values = outer.pj(tensor, *dram) + inner.pj(tensor, *sram)
    return energy


def pool_costs(
    layer: ConvLayer,
    arch: Arch,
    formats: Sequence[Format],
    objective: Objective,
    mappings: Sequence[Mapping],
    model: Literal["full", "exact", "paper"],
) -> Costs:
    """Some mappings of the whole machine, priced at every level.

    Of the latency objective, what the simulator cannot beat.
    model: "full" counts whole bursts: what the simulator moves, bit for bit; "exact" and "paper" as
        `mapping.models.predict`
    """
    kept = stored(layer, arch)
    levels = [(2 + n, level) for n, level in enumerate(arch.levels[2:])]
    shape = (len(formats), len(mappings))

    def tables(tensors: Iterable[Tensor]) -> dict[Tensor, Values]:
        return {t: np.empty(shape) for t in tensors}

    moved, room = tables(TENSORS), tables(TENSORS)
    inner_room = {level.name: tables(level.memories) for _, level in levels}
    whole = np.empty(shape, bool)
    by_passes = _by_passes(arch, formats) if objective == "latency" else {}
    busy = {n: np.empty(len(mappings)) for n in by_passes}
    for column, mapping in enumerate(mappings):
        nest = make_nest(kept, mapping, arch.inside)
        for row, fmt in enumerate(formats):
            uniform = LayerFormats.uniform(fmt)
            counts = nest_counts(nest, arch, uniform, _EFFECTS[model])
            held = held_bits(nest, 1, arch, uniform)
            for tensor in TENSORS:
                own = Counts({flow: n for flow, n in counts.items() if flow.tensor == tensor})
                moved[tensor][row, column] = (
                    math.fsum(energy_pj(flow, bits, arch) for flow, bits in own.items())
                    if objective == "energy"
                    else own.total(arch.levels[0].name)
                )
                room[tensor][row, column] = held[tensor]
            for place, level in levels:
                for tensor, bits in held_bits(nest, place, arch, uniform).items():
                    inner_room[level.name][tensor][row, column] = bits
            whole[row, column] = _blocks_stay_whole(nest, arch, uniform)
        for n, one in by_passes.items():
            _, busy[n][column] = full_counts(nest, arch, one)
    return Costs(
        layer, arch, objective, tuple(formats), moved, room, inner_room, whole, busy,
        tuple(mappings),
    )  # fmt: skip


_EFFECTS = {"full": FULL, "exact": EXACT, "paper": PAPER}


def _blocks_stay_whole(nest: Nest, arch: Arch, formats: LayerFormats) -> bool:
    try:
        check_all_blocks(nest, arch, formats)
    except MappingError:
        return False
    return True
