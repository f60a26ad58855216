"""What the mappings of a layer cost in every format, tensor by tensor.

Neither DRAM nor SRAM traffic of a tensor depends on the formats of the other two. So one array per
tensor, (formats, mappings), prices every triple of formats: a mapping costs the sum of three
entries, and is legal if the room it takes, a sum of three likewise, is there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from arch import Arch
from mapping.array_model import array_totals
from mapping.candidates import Objective, candidate_sizes
from mapping.capacity import check_output_blocks, footprint
from mapping.dram_model import FULL, average_code_bits, dram_counts, stored
from mapping.grid import Grid
from mapping.mapper import ORDERS
from mapping.models import dma_side
from mapping.nest import DIMS, Mapping, MappingError, Nest, Tensor, make_nest
from mapping.paper_grid import PaperGrid
from mapping.pe_array import passes
from mapping.ragged import Vector
from quant.formats import Format, LayerFormats
from search.bitwidth.space import TENSORS
from workloads import ConvLayer

Model = Literal["exact", "paper"]
Values = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Costs:
    """Mappings of one layer in every format.

    moved: by tensor, (formats, mappings): DRAM bits, or pJ over both levels if the objective is
        energy
    room: by tensor, (formats, mappings): of the largest resident tile [bit]
    whole: (formats of O, mappings): whether O's blocks stay whole
    busy: (mappings,): cycles of the PE array in one pass
    """

    layer: ConvLayer
    arch: Arch
    objective: Objective
    formats: tuple[Format, ...]
    moved: dict[Tensor, Values]
    room: dict[Tensor, Values]
    whole: NDArray[np.bool_]
    busy: Values

    def prices(self, i: Sequence[int], w: Sequence[int], o: Sequence[int]) -> Values:
        """The least cost of any legal mapping, for these formats of I, W and O: (i, w, o).

        Infinite where none is legal.
        """
        found = np.full((len(i), len(w), len(o)), np.inf)
        of_o = list(o)
        moved, room = self.moved["O"][of_o], self.room["O"][of_o]
        cut = ~self.whole[of_o]
        for a, fmt_i in enumerate(i):
            for b, fmt_w in enumerate(w):
                cost = moved + (self.moved["I"][fmt_i] + self.moved["W"][fmt_w])
                if self.objective == "latency":
                    cost = self._cycles(cost, fmt_i, fmt_w)
                cost[cut | ~self._fits(fmt_i, fmt_w, room)] = np.inf
                found[a, b] = cost.min(axis=1)
        return found

    def _cycles(self, bits: Values, i: int, w: int) -> Values:
        """The cycles that no schedule beats: PE array busy, or DRAM channel busy."""
        one = LayerFormats(self.formats[i], self.formats[w], self.formats[i])
        rate = self.arch.dram_bits_per_cycle
        channel = np.ceil(bits * rate.denominator / rate.numerator)
        cycles: Values = np.maximum(channel, self.busy * passes(self.arch.pe_array, one))
        return cycles

    def _fits(self, i: int, w: int, room_o: Values) -> NDArray[np.bool_]:
        arch = self.arch
        room_i, room_w = self.room["I"][i], self.room["W"][w]
        if arch.shared:
            fits: NDArray[np.bool_] = room_o <= arch.usable_bits("I") - (room_i + room_w)
        else:
            alone = (room_i <= arch.usable_bits("I")) & (room_w <= arch.usable_bits("W"))
            fits = alone & (room_o <= arch.usable_bits("O"))
        return fits

    def at(self, mappings: NDArray[np.intp] | NDArray[np.bool_]) -> Costs:
        """The same for some of the mappings."""
        return replace(
            self,
            moved={t: values[:, mappings] for t, values in self.moved.items()},
            room={t: values[:, mappings] for t, values in self.room.items()},
            whole=self.whole[:, mappings],
            busy=self.busy[mappings],
        )

    def joined(self, other: Costs) -> Costs:
        """The mappings of both."""
        return replace(
            self,
            moved={t: np.hstack((self.moved[t], other.moved[t])) for t in TENSORS},
            room={t: np.hstack((self.room[t], other.room[t])) for t in TENSORS},
            whole=np.hstack((self.whole, other.whole)),
            busy=np.hstack((self.busy, other.busy)),
        )

    def undominated(self, references: int = 64) -> Costs:
        """Without mappings that another one makes superfluous, whatever the formats.

        Nothing is lost: the least cost of every triple stays. Compared with some of the best only,
        so superfluous ones may stay too.
        """
        weight = np.sum([values.mean(axis=0) for values in self.moved.values()], axis=0)
        order = np.lexsort((weight, ~self._anywhere()))
        left = self.at(order)
        by = 0
        while by < min(references, left.busy.size):
            keep = ~left._beaten(by)
            keep[: by + 1] = True
            left = left.at(keep)
            by += 1
        return left

    def _beaten(self, by: int) -> NDArray[np.bool_]:
        """Which mappings cost no less than one, and are legal only where it is, in any triple.

        A triple's difference is a sum of three, each at least its least over the formats.
        """

        def least(own: dict[Tensor, Values]) -> list[Values]:
            return [(own[t] - own[t][:, [by]]).min(axis=0) for t in TENSORS]

        beaten = (sum(least(self.moved)) >= 0) & (self.whole <= self.whole[:, [by]]).all(axis=0)
        if self.objective == "latency":
            beaten &= self.busy >= self.busy[by]
        if self._anywhere()[by]:
            return beaten
        roomier = np.stack(least(self.room))
        fits = (roomier.sum(axis=0) if self.arch.shared else roomier.min(axis=0)) >= 0
        legal: NDArray[np.bool_] = beaten & fits
        return legal

    def _anywhere(self) -> NDArray[np.bool_]:
        """Which mappings fit the buffers in any triple."""
        most = {t: self.room[t].max(axis=0) for t in TENSORS}
        if self.arch.shared:
            fits: NDArray[np.bool_] = sum(most.values()) <= self.arch.usable_bits("I")
            return fits
        return np.stack([most[t] <= self.arch.usable_bits(t) for t in TENSORS]).all(axis=0)


def model_costs(
    layer: ConvLayer, arch: Arch, formats: Sequence[Format], objective: Objective, model: Model
) -> Costs:
    """Every mapping that can be best for some triple of the formats, priced by a model.

    model: "exact", payload by the movement rules: the prices are proven least over all mappings;
        or "paper", Eq. 2-6 with real-valued trips over the same tile sizes and loop orders.

    Legality is rule 7 of the movement rules for both, so that every mapping can be simulated.
    Raises MappingError if no mapping is legal in any format.
    """
    kept = stored(layer, arch)
    uniform = [LayerFormats.uniform(fmt) for fmt in formats]
    sizes = candidate_sizes(kept, arch, uniform, objective)
    grids = [Grid(kept, arch, each, sizes) for each in uniform]
    possible = _possible(grids, arch)
    if not possible.any():
        raise MappingError(grids[0].shortage())

    def rows(values: Callable[[Grid], Vector | NDArray[np.bool_]]) -> Values:
        return np.stack(
            [np.broadcast_to(values(grid), possible.shape)[possible] for grid in grids]
        ).astype(float)

    room: dict[Tensor, Values] = {
        "I": rows(lambda grid: grid.input_bits),
        "W": rows(lambda grid: grid.weight_bits),
        "O": rows(lambda grid: grid.output_bits),
    }
    whole = rows(lambda grid: grid.whole_blocks).astype(bool)
    cycles = np.broadcast_to(grids[0].compute_cycles, possible.shape)[possible]
    busy = cycles / passes(arch.pe_array, uniform[0])
    paper = PaperGrid(kept, arch, sizes)
    found: Costs | None = None
    for order in ORDERS:
        if model == "paper":
            moved = _paper_moved(paper, order, kept, arch, formats, objective, possible)
        else:
            by_grid = [_exact_moved(grid, order, arch, objective, possible) for grid in grids]
            moved = {t: np.stack([each[t] for each in by_grid]) for t in TENSORS}
        costs = Costs(layer, arch, objective, tuple(formats), moved, room, whole, busy)
        found = (costs if found is None else found.joined(costs)).undominated()
    assert found is not None
    return found


def _possible(grids: Sequence[Grid], arch: Arch) -> NDArray[np.bool_]:
    """Tilings that are legal in some triple of formats."""
    least = {
        "I": np.minimum.reduce([grid.input_bits for grid in grids]),
        "W": np.minimum.reduce([grid.weight_bits for grid in grids]),
        "O": np.minimum.reduce([grid.output_bits for grid in grids]),
    }
    if arch.shared:
        fits = least["I"] + least["W"] + least["O"] <= arch.usable_bits("I")
    else:
        fits = np.ones((1,) * len(DIMS), bool)
        for tensor in TENSORS:
            fits = fits & (least[tensor] <= arch.usable_bits(tensor))
    whole = np.logical_or.reduce([grid.whole_blocks for grid in grids])
    possible: NDArray[np.bool_] = fits & whole
    return np.broadcast_to(possible, np.broadcast_shapes(possible.shape, grids[0].steps.shape))


def _exact_moved(
    grid: Grid, order: str, arch: Arch, objective: Objective, where: NDArray[np.bool_]
) -> dict[Tensor, Values]:
    moved: dict[Tensor, Values] = {
        t: bits.astype(float) for t, bits in grid.dram_bits_by_tensor(order).items()
    }
    if objective == "energy":
        sram = grid.sram_bits_by_tensor(order)
        moved = {t: _energy(moved[t], sram[t], t, arch) for t in TENSORS}
    return {t: np.broadcast_to(values, where.shape)[where] for t, values in moved.items()}


def _paper_moved(
    paper: PaperGrid,
    order: str,
    layer: ConvLayer,
    arch: Arch,
    formats: Sequence[Format],
    objective: Objective,
    where: NDArray[np.bool_],
) -> dict[Tensor, Values]:
    dram = paper.dram_elements(order)
    if objective == "energy":
        sram = paper.sram_elements()
        dram = {t: _energy(dram[t], sram[t], t, arch) for t in TENSORS}
    widths = {
        t: np.array([_width(fmt, layer.R * layer.S if t == "W" else 1) for fmt in formats])
        for t in TENSORS
    }
    return {
        t: widths[t][:, None] * np.broadcast_to(dram[t], where.shape)[where][None] for t in TENSORS
    }


def _width(fmt: Format, positions: int) -> float:
    """Bits per element by Eq. 6."""
    return float(fmt.mantissa_bits + average_code_bits(fmt, positions))


def _energy(dram: Values, sram: Vector | Values, tensor: Tensor, arch: Arch) -> Values:
    energy: Values = dram * arch.dram.energy + sram * arch.buffer(tensor).pj_per_bit
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
        nest = make_nest(kept, mapping)
        for row, fmt in enumerate(formats):
            uniform = LayerFormats.uniform(fmt)
            counts = dram_counts(nest, arch, uniform, FULL)
            dma_side(counts)
            totals = array_totals(nest, arch, uniform)
            counts.merge(totals.counts)
            busy[column] = totals.cycles / passes(arch.pe_array, uniform)
            need = footprint(nest, arch, uniform)
            for tensor, bits in zip(TENSORS, (need.I, need.W, need.O), strict=True):
                dram = float(counts.total("DRAM", tensor))
                sram = float(counts.total("SRAM", tensor))
                both = dram * arch.dram.energy + sram * arch.buffer(tensor).pj_per_bit
                moved[tensor][row, column] = both if objective == "energy" else dram
                room[tensor][row, column] = bits
            whole[row, column] = _whole(nest, uniform)
    return Costs(layer, arch, objective, tuple(formats), moved, room, whole, busy)


def _whole(nest: Nest, formats: LayerFormats) -> bool:
    try:
        check_output_blocks(nest, formats)
    except MappingError:
        return False
    return True
