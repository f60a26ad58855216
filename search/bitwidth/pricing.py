"""A layer's mappings priced in every format: by a model over all of them, or some with bursts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bfpsim.arch import Arch
from bfpsim.mapping.array import passes
from bfpsim.mapping.candidates import candidate_sizes
from bfpsim.mapping.closed import paper
from bfpsim.mapping.closed.grid import Grid
from bfpsim.mapping.closed.leaves import Values, Vector
from bfpsim.mapping.counts import Counts, energy_pj
from bfpsim.mapping.energy import written
from bfpsim.mapping.mapper import orders
from bfpsim.mapping.models import full_counts, stored
from bfpsim.mapping.nest import DIMS, TENSORS, Mapping, MappingError, Tensor, make_nest
from bfpsim.mapping.objective import Objective
from bfpsim.mapping.room import fits
from bfpsim.quant.formats import Format, LayerFormats
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

    Legality is rule 7 of the movement rules for both, so that every mapping can be simulated.
    Raises MappingError if no mapping is legal in any format.
    """
    kept = stored(layer, arch)
    lines = make_lines(formats)
    ends = [LayerFormats.uniform(fmt) for fmt in lines.ends]
    sizes = candidate_sizes(kept, arch, ends, objective)
    grids = [Grid(kept, arch, each, sizes) for each in ends]
    possible = _possible(grids, arch)
    if not possible.any():
        raise MappingError(grids[0].shortage())
    tilings = _tilings(grids, possible, passes(arch.pe_array, ends[0]))
    counted = tilings.busy if objective == "latency" else None
    tiling = paper.of_sizes(kept, sizes)
    found: dict[Model, Costs] = {}
    for order in orders(kept):
        by_grid = [_exact_moved(grid, order, arch, objective, possible) for grid in grids]
        by_model: dict[Model, dict[Tensor, Values]] = {
            "exact": {t: np.stack([each[t] for each in by_grid]) for t in TENSORS},
            "paper": _paper_moved(tiling, order, arch, lines.ends, objective, possible),
        }
        for model, moved in by_model.items():
            rows = [moved[t] for t in TENSORS]
            best = undominated(arch, rows, tilings.room_rows(), tilings.whole, counted)
            costs = Costs(
                layer,
                arch,
                objective,
                tuple(formats),
                {t: lines.all(values[:, best]) for t, values in moved.items()},
                tilings.room(lines, best),
                tilings.whole[:, best][lines.low],  # the same at both ends
                tilings.busy[best],
                tilings.sizes[best],
                np.full(best.size, order),
            )
            before = found.get(model)
            found[model] = (before.joined(costs) if before else costs).undominated()
    return found


class _Tilings(NamedTuple):
    """Tilings that are legal in some formats; rows for the ends of the formats' lines.

    inputs, weights, results: room of the largest tile [bit]; sums: of O's as partial sums
    whole: whether O's blocks stay whole
    busy: cycles of the PE array in one pass
    sizes: (tilings, 6): in the order of `DIMS`
    """

    inputs: Values
    weights: Values
    results: Values
    sums: Values
    whole: NDArray[np.bool_]
    busy: Values
    sizes: Vector

    def room_rows(self) -> list[Values]:
        """Rows for `undominated`.

        O takes the larger of two, whose difference is not below the lesser of theirs.
        """
        return [self.inputs, self.weights, np.vstack((self.results, self.sums))]

    def room(self, lines: Lines, at: NDArray[np.intp]) -> dict[Tensor, Values]:
        """Room of some tilings in every format."""
        return {
            "I": lines.all(self.inputs[:, at]),
            "W": lines.all(self.weights[:, at]),
            "O": np.maximum(lines.all(self.results[:, at]), self.sums[at]),
        }


def _tilings(grids: Sequence[Grid], where: NDArray[np.bool_], one_pass: int) -> _Tilings:
    def row(values: Vector | NDArray[np.bool_]) -> Values:
        return np.broadcast_to(values, where.shape)[where].astype(float)

    first, places = grids[0], np.argwhere(where)
    return _Tilings(
        np.stack([row(grid.room["I"]) for grid in grids]),
        np.stack([row(grid.room["W"]) for grid in grids]),
        np.stack([row(grid.result_bits) for grid in grids]),
        row(first.sum_bits),
        np.stack([row(grid.whole_blocks) for grid in grids]).astype(bool),
        row(first.compute_cycles) / one_pass,
        np.stack([first.sizes[d][places[:, axis]] for axis, d in enumerate(DIMS)], axis=1),
    )


def _possible(grids: Sequence[Grid], arch: Arch) -> NDArray[np.bool_]:
    """Tilings that are legal in some triple of formats."""
    least = {t: np.minimum.reduce([grid.room[t] for grid in grids]) for t in TENSORS}
    whole = np.logical_or.reduce([grid.whole_blocks for grid in grids])
    possible: NDArray[np.bool_] = fits(arch, least) & whole
    return np.broadcast_to(possible, np.broadcast_shapes(possible.shape, grids[0].steps.shape))


def _exact_moved(
    grid: Grid, order: str, arch: Arch, objective: Objective, where: NDArray[np.bool_]
) -> dict[Tensor, Values]:
    outer = grid.outer_bits(order)
    moved: dict[Tensor, Values] = {t: np.asarray(bits, float) for t, bits in outer.items()}
    if objective == "energy":
        sram = grid.inner_bits(outer)
        outside, inside = written(outer, sram, grid.results_bits)
        moved = {t: _energy((moved[t], outside[t]), (sram[t], inside[t]), t, arch) for t in TENSORS}
    return {t: np.broadcast_to(values, where.shape)[where] for t, values in moved.items()}


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
    outer, inner = arch.levels
    energy: Values = outer.pj(tensor, *dram) + inner.pj(tensor, *sram)
    return energy


def burst_costs(
    layer: ConvLayer,
    arch: Arch,
    formats: Sequence[Format],
    objective: Objective,
    mappings: Sequence[Mapping],
) -> Costs:
    """Some mappings, whole bursts counted: what the simulator moves, bit for bit.

    Of the latency objective, what the simulator cannot beat.
    """
    kept = stored(layer, arch)
    shape = (len(formats), len(mappings))
    moved: dict[Tensor, Values] = {t: np.empty(shape) for t in TENSORS}
    room: dict[Tensor, Values] = {t: np.empty(shape) for t in TENSORS}
    whole, busy = np.empty(shape, bool), np.empty(len(mappings))
    for column, mapping in enumerate(mappings):
        nest = make_nest(kept, mapping, [level.name for level in arch.levels[2:]])
        for row, fmt in enumerate(formats):
            uniform = LayerFormats.uniform(fmt)
            counts, cycles = full_counts(nest, arch, uniform)
            busy[column] = cycles / passes(arch.pe_array, uniform)
            tiling = Grid.of_nest(nest, arch, uniform)
            for tensor in TENSORS:
                own = Counts({flow: n for flow, n in counts.items() if flow.tensor == tensor})
                moved[tensor][row, column] = (
                    math.fsum(energy_pj(flow, bits, arch) for flow, bits in own.items())
                    if objective == "energy"
                    else own.total(arch.levels[0].name)
                )
                room[tensor][row, column] = tiling.room[tensor]
            whole[row, column] = tiling.whole_blocks
    tiles = np.array(
        [[m.tile.get(d, layer.dims[d]) for d in DIMS] for m in mappings], np.int64
    ).reshape(-1, len(DIMS))
    orders = np.array([mapping.order for mapping in mappings], np.str_)
    return Costs(layer, arch, objective, tuple(formats), moved, room, whole, busy, tiles, orders)
