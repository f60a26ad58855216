"""Products on the PE array: every mapping priced at once, with some of the operands on chip."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bfpsim.arch import Arch
from bfpsim.mapping.array import sums_lie_outside
from bfpsim.mapping.candidates import candidate_sizes
from bfpsim.mapping.closed.grid import Grid
from bfpsim.mapping.closed.traffic import FULL, times
from bfpsim.mapping.constraints import FREE, Constraints
from bfpsim.mapping.fit import check_all_blocks, footprint, stored
from bfpsim.mapping.inner import InnerMapper, with_insides
from bfpsim.mapping.mapper import TIES, orders
from bfpsim.mapping.models import outer_counts
from bfpsim.mapping.nest import DIMS, TENSORS, Mapping, MappingError, Nest, Tensor, make_nest
from bfpsim.mapping.paddings import Paddings
from bfpsim.mapping.residency.cut import Cut, Residence, Slot
from bfpsim.mapping.residency.stairs import Stairs
from bfpsim.mapping.runs import run_of
from bfpsim.objects import immutable
from bfpsim.quant.formats import ActivationLayout, Format, LayerFormats
from bfpsim.workloads import ConvLayer

_NEVER = np.iinfo(np.int64).max // 4
"""A room that no buffer has [bit]."""

_SLACK = 1.15
"""How far above the least payload mappings are kept in mind, whose bursts may pad less."""


@immutable
@dataclass(frozen=True, slots=True)
class Product:
    """A product and what is fused into it: all that decides its costs.

    addends: their formats; mean_bits: of what is written, where only the mean over the map is
    whole_channels: whether an O tile must have all channels; repeats: how often it runs
    """

    layer: ConvLayer
    formats: LayerFormats
    addends: tuple[Format, ...] = ()
    mean_bits: int | None = None
    whole_channels: bool = False
    repeats: int = 1

    def keeps_results(self, residence: Residence) -> bool:
        """Whether tiles of O go into a resident activation."""
        return residence.writes and self.mean_bits is None

    def off_chip(self, residence: Residence, moved: _Parts) -> Any:
        """Bits that go off chip, given those of each part."""
        on_w = len(residence.reads) > 1 and residence.reads[1]
        bits = moved.sums + (0 if residence.reads[0] else moved.I) + (0 if on_w else moved.W)
        if self.mean_bits is None and not residence.writes:
            bits = bits + moved.results
        for own, resident in zip(moved.addends, residence.addends, strict=True):
            bits = bits + (0 if resident else own)
        mean = self.mean_bits if self.mean_bits is not None and not residence.writes else 0
        return bits * self.repeats + mean

    def slots(self, residence: Residence, held: _Held, arch: Arch) -> list[tuple[Tensor, int, Any]]:
        """Slots in the buffers of I, W and O, of V in that of I: (buffer, operand, bits).

        An operand of -1 is no addend.
        """
        double = {t: 2 if arch.buffer(t).double_buffered else 1 for t in ("I", "W", "O")}
        outputs = held.sums if self.keeps_results(residence) else held.O
        slots: list[tuple[Tensor, int, Any]] = [("O", -1, double["O"] * outputs)]
        if not residence.reads[0]:
            slots.insert(0, ("I", -1, double["I"] * held.I))
        if not (len(residence.reads) > 1 and residence.reads[1]):
            slots.insert(-1, ("W", -1, double["W"] * held.W))
        for place, resident in enumerate(residence.addends):
            if not resident:
                slots.append(("I", place, double["I"] * held.addends[place]))
        return slots


class _Parts(NamedTuple):
    """Bits moved off chip of each operand, if all are there: payload, or burst padding.

    sums: of O, written and read; addends: once each
    """

    I: Any  # noqa: E741 - the tensor's name in the field
    W: Any
    sums: Any
    results: Any
    addends: Sequence[Any]


class _Held(NamedTuple):
    """The largest tiles [bit]. sums: of O where unfinished sums lie in SRAM, else 0."""

    I: Any  # noqa: E741
    W: Any
    O: Any  # noqa: E741
    sums: Any
    addends: Sequence[Any]


def room_taken(slots: Sequence[tuple[Tensor, int, Any]], arch: Arch) -> Any:
    """What slots take of the buffer in which activations stay; arrays too [bit].

    More than any has where another buffer of a split memory is too small.
    """
    if arch.shared:
        return sum(bits for _, _, bits in slots)
    taken: dict[str, Any] = {
        tensor: sum(bits for own, _, bits in slots if own == tensor) for tensor in ("I", "W", "O")
    }
    fits = [np.asarray(taken[tensor]) <= arch.buffer(tensor).capacity for tensor in ("W", "O")]
    room = np.where(np.logical_and(*fits), taken["I"], _NEVER)
    return room if room.shape else int(room)


class _Near(NamedTuple):
    """Mappings of about the least payload in their room, best first.

    ranks: of their orders; tiles: sizes of `DIMS`
    """

    payloads: NDArray[np.int64]
    rooms: NDArray[np.int64]
    ranks: NDArray[np.int64]
    tiles: NDArray[np.int64]


class ProductCuts:
    """All mappings of a product, by every order and tile size that can be part of a best one.

    Levels inside SRAM: `stairs` takes them as they are, `best` asks for insides that fit.

    limit: the room that there is at most [bit]; None for any
    """

    def __init__(self, product: Product, arch: Arch, limit: int | None) -> None:
        self._product, self._arch, self._limit = product, arch, limit
        self._layer = stored(product.layer, arch)
        self._orders = orders(self._layer)
        self._stairs: dict[Residence, Stairs] = {}
        self._near: dict[Residence, tuple[float, _Near]] = {}
        self._best: dict[tuple[Residence, int], Cut | None] = {}
        self._cycles: dict[Mapping, int] = {}
        self._paddings = Paddings(arch, product.formats)
        self._inner = InnerMapper(arch, product.formats) if len(arch.levels) > 2 else None
        self._open: _Tilings | None = None

    def stairs(self, residence: Residence) -> Stairs:
        """The least payload off chip over room [bit]."""
        if residence not in self._stairs:
            points = zip(*self._points(residence, together=True), strict=True)
            room, bits = (np.concatenate(own) for own in points)
            fits = room < _NEVER if self._limit is None else room <= self._limit
            self._stairs[residence] = Stairs.of(room[fits], bits[fits])
            slack = self._first_slack
            self._near[residence] = slack, self._nearest(residence, slack)
        return self._stairs[residence]

    def prepare(self, residences: Sequence[Residence]) -> None:
        """Work out the stairs of some residences, and forget what only they need."""
        for residence in residences:
            self.stairs(residence)
        self._open = None

    def best(self, residence: Residence, room: int) -> Cut | None:
        """The least traffic off chip, bursts included, in so much room; None if nothing fits.

        Ties as `mapping.mapper.best_mappings` breaks them.
        """
        if (residence, room) not in self._best:
            self._best[residence, room] = self._find(residence, room)
        return self._best[residence, room]

    # --- all at once -----------------------------------------------------------------------------

    @property
    def _tilings(self) -> _Tilings:
        if self._open is None:
            self._open = _Tilings(self._product, self._layer, self._arch, self._limit)
        return self._open

    def _points(
        self, residence: Residence, together: bool = False
    ) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
        """Room and payload of all tilings under each order; of orders of equal room together."""
        tilings, product = self._tilings, self._product
        least: dict[int, tuple[NDArray[np.int64], NDArray[np.int64]]] = {}
        for order in self._orders:
            held, moved = tilings.held(order), tilings.moved(order)
            slots = product.slots(residence, held, self._arch)
            room: NDArray[np.int64] = np.broadcast_to(room_taken(slots, self._arch), tilings.count)
            bits: NDArray[np.int64] = np.broadcast_to(
                product.off_chip(residence, moved), tilings.count
            )
            if product.keeps_results(residence):
                room = np.where(moved.sums > 0, _NEVER, room)
            if not together:
                yield room, bits
                continue
            kind = id(held) if not product.keeps_results(residence) else len(least)
            if kind in least:
                bits = np.minimum(bits, least[kind][1])
            least[kind] = room, bits
        yield from least.values()

    # --- the best one ----------------------------------------------------------------------------

    @property
    def _first_slack(self) -> float:
        return 1.0 if self._arch.dram.burst == 1 and self._inner is None else _SLACK

    def _nearest(self, residence: Residence, slack: float) -> _Near:
        stairs = self._stairs[residence]
        rooms, costs = np.array(stairs.rooms, np.int64), np.array(stairs.costs, np.int64)
        parts = []
        most = _NEVER - 1 if self._limit is None else self._limit
        for rank, (taken, bits) in enumerate(self._points(residence)):
            at = np.searchsorted(rooms, taken, side="right") - 1
            near = np.flatnonzero((at >= 0) & (taken <= most))
            if len(rooms) and slack < math.inf:
                near = near[bits[near] <= costs[at[near]] * slack]
            parts.append((bits[near], taken[near], np.full(len(near), rank), near))
        payload, room, ranks, place = (np.concatenate(own) for own in zip(*parts, strict=True))
        tiles, steps = self._tilings.tiles(place), self._tilings.steps[place]
        large = [-tiles[:, DIMS.index(dim)] for dim in "NGPQKC"]
        best_first = np.lexsort((*large, ranks, steps, payload))
        return _Near(*(own[best_first] for own in (payload, room, ranks, tiles)))

    def _find(self, residence: Residence, room: int) -> Cut | None:
        least = self.stairs(residence).at(room)
        if math.isinf(least):
            return None
        slack = self._first_slack
        while True:
            if self._near[residence][0] < slack:
                self._near[residence] = slack, self._nearest(residence, slack)
                self._open = None
            bits, tied = self._cheapest(residence, room)
            if slack == math.inf or bits <= least * slack:
                break
            slack = 2 * slack if slack < 4 else math.inf
        if not tied:
            return None
        best = tied[0]
        if len(tied) > 1 and self._inner is None:
            best = min(tied, key=self._cycles_of)
        nest = make_nest(self._layer, best, self._arch.inside)
        held = held_by(nest, self._arch, self._product)
        slots = self._product.slots(residence, held, self._arch)
        return Cut(best, int(bits), named(slots))

    def _cheapest(self, residence: Residence, room: int) -> tuple[float, list[Mapping]]:
        """The least cost in so much room, and its mappings, as many as the mapper looks at."""
        near = self._near[residence][1]
        limit, tied = math.inf, list[Mapping]()
        seen: set[Mapping] = set()
        for index in np.flatnonzero(near.rooms <= room):
            payload = int(near.payloads[index])
            if payload > limit or (payload == limit and len(tied) > TIES):
                break
            mapping = self._mapping(int(near.ranks[index]), near.tiles[index])
            if mapping in seen:
                continue
            seen.add(mapping)
            nest = make_nest(self._layer, mapping)
            total = payload + self._padding(nest, residence, limit - payload)
            if total > limit or (total == limit and len(tied) > TIES):
                continue
            if self._inner is not None:
                if total == limit:
                    continue
                insides = self._inner.best(nest)
                if insides is None:
                    continue
                mapping = replace(mapping, inner=insides.mappings)
            if total < limit:
                limit, tied = total, []
            tied.append(mapping)
        return limit, tied

    def _mapping(self, rank: int, sizes: NDArray[np.int64]) -> Mapping:
        extents = self._layer.dims
        tile = {d: int(s) for d, s in zip(DIMS, sizes, strict=True) if s < extents[d]}
        return Mapping("".join(d for d in self._orders[rank] if d in tile), tile)

    def _padding(self, nest: Nest, residence: Residence, limit: float) -> int:
        """Burst padding of all that goes off chip [bit]; no more is looked at from `limit` on."""
        if self._arch.dram.burst == 1:
            return 0
        paddings, spills = self._paddings, 2 * (times(nest, "O") - 1)
        nothing = _Parts(0, 0, 0, 0, [0] * len(residence.addends))
        total = 0
        parts: tuple[Callable[[], _Parts], ...] = (
            lambda: nothing._replace(W=times(nest, "W") * paddings.weights(nest)),
            lambda: nothing._replace(results=paddings.results(nest)),
            lambda: nothing._replace(
                addends=[paddings.results(nest, fmt) for fmt in self._product.addends]
            ),
            lambda: nothing._replace(sums=spills * paddings.sums(nest) if spills else 0),
            lambda: nothing._replace(I=0 if residence.reads[0] else paddings.inputs(nest)),
        )
        bare = replace(self._product, mean_bits=None if self._product.mean_bits is None else 0)
        for part in parts:
            if total > limit:
                break
            total += bare.off_chip(residence, part())
        mean = self._product.mean_bits
        if mean is not None and not residence.writes:
            total += -mean % self._arch.dram.burst
        return total

    def _cycles_of(self, mapping: Mapping) -> int:
        if mapping not in self._cycles:
            run = run_of(self._layer, self._arch, mapping, self._product.formats)
            self._cycles[mapping] = run.cycles
        return self._cycles[mapping]


class _Tilings:
    """Tile sizes that may fit in some residence, as flat arrays."""

    def __init__(self, product: Product, layer: ConvLayer, arch: Arch, limit: int | None) -> None:
        self._product, self._arch = product, arch
        whole = Constraints(tile={"G": layer.G, "K": layer.K}) if product.whole_channels else FREE
        own = product.formats
        each = [own, *(replace(own, O=fmt) for fmt in dict.fromkeys(product.addends))]
        sizes = candidate_sizes(layer, arch, list(dict.fromkeys(each)), "dram", whole)
        self._grid = grid = Grid(layer, arch, own, sizes)
        self._shape = shape = np.broadcast_shapes(grid.steps.shape, sum(grid.room.values()).shape)
        legal = np.broadcast_to(grid.whole_blocks, shape)
        if limit is not None:
            everything = Residence((True, True), (True,) * len(product.addends), True)
            least = _Held(
                grid.room["I"], grid.room["W"], grid.result_bits, 0, [0] * len(product.addends)
            )
            legal = legal & (room_taken(product.slots(everything, least, arch), arch) <= limit)
        self._legal = legal
        self._places = np.argwhere(legal)
        self.count = len(self._places)
        self.steps = self._flat(grid.steps)
        self._held: dict[bool, _Held] = {}
        self._known: dict[str, _Parts] = {}

    def _flat(self, values: Any) -> NDArray[np.int64]:
        return np.asarray(np.broadcast_to(values, self._shape)[self._legal])

    def tiles(self, at: NDArray[np.intp]) -> NDArray[np.int64]:
        """Sizes of `DIMS` at some places."""
        chosen = self._places[at]
        return np.stack([self._grid.sizes[d][chosen[:, i]] for i, d in enumerate(DIMS)], axis=1)

    def held(self, order: str) -> _Held:
        """The largest tiles under an order; the same object if they are the same."""
        grid = self._grid
        room = grid.room_under(order)
        usual = room is grid.room
        if usual not in self._held or not usual:
            lie = np.where(grid.sums_lie(order), room["O"], 0)
            addends = [self._flat(grid.outputs_in(fmt)[0]) for fmt in self._product.addends]
            inputs, weights, outputs = (self._flat(room[tensor]) for tensor in TENSORS)
            self._held[usual] = _Held(inputs, weights, outputs, self._flat(lie), addends)
        return self._held[usual]

    def moved(self, order: str) -> _Parts:
        """Payload under an order."""
        if order not in self._known:
            grid, width = self._grid, self._arch.pe_array.accumulator_bits
            self._known[order] = _Parts(
                self._flat(grid.fetched("I", order)),
                self._flat(grid.fetched("W", order)),
                self._flat(grid.spilled_elements(order)) * (2 * width),
                grid.results_bits,
                [self._flat(grid.outputs_in(fmt)[1]) for fmt in self._product.addends],
            )
        return self._known[order]


class GivenCut:
    """The one mapping of a product that is given. Raises MappingError if it does not suit it."""

    def __init__(self, product: Product, arch: Arch, mapping: Mapping) -> None:
        self._product, self._arch = product, arch
        layer = stored(product.layer, arch)
        self._mapping = with_insides(layer, arch, mapping, product.formats)
        self._nest = nest = make_nest(layer, self._mapping, arch.inside)
        check_all_blocks(nest, arch, product.formats)
        if product.whole_channels and nest.trips["K"] * nest.trips["G"] > 1:
            raise MappingError(
                f"{layer.name}: {mapping} cuts the channels of O, over which what is fused goes; "
                f"allowed: K={layer.K}, whole"
            )
        counts = outer_counts(nest, arch, product.formats, FULL)
        sums = counts.total(tensor="O", kind="psum")
        burst, fmt = arch.dram.burst, product.formats.O
        paddings = Paddings(arch, product.formats)
        if sums:
            sums += 2 * (times(nest, "O") - 1) * paddings.sums(nest)
        shape = layer.output_shape
        grid = Grid.of_nest(nest, arch, product.formats)
        addends = [
            int(grid.outputs_in(own)[1]) + paddings.results(nest, own) for own in product.addends
        ]
        self._moved = _Parts(
            counts.total(tensor="I"),
            counts.total(tensor="W"),
            sums,
            ActivationLayout(shape, fmt).bits + paddings.results(nest),
            addends,
        )
        if product.mean_bits is not None:
            mean = -(-product.mean_bits // burst) * burst
            self._product = replace(product, mean_bits=mean)

    def stairs(self, residence: Residence) -> Stairs:
        """What the mapping moves, bursts included, from the room that it takes on."""
        if self._product.keeps_results(residence) and self._moved.sums:
            return Stairs((), ())
        room = room_taken(self._slots(residence), self._arch)
        return Stairs((room,), (int(self._product.off_chip(residence, self._moved)),))

    def best(self, residence: Residence, room: int) -> Cut | None:
        """The mapping, if it fits."""
        bits = self.stairs(residence).at(room)
        if math.isinf(bits):
            return None
        return Cut(self._mapping, int(bits), named(self._slots(residence)))

    def _slots(self, residence: Residence) -> list[tuple[Tensor, int, Any]]:
        held = held_by(self._nest, self._arch, self._product)
        return self._product.slots(residence, held, self._arch)


def held_by(nest: Nest, arch: Arch, product: Product) -> _Held:
    """The largest tiles of a nest of the layer as stored [bit]."""
    need = footprint(nest, arch, product.formats)
    sums = need.O if sums_lie_outside(nest, arch) else 0
    grid = Grid.of_nest(nest, arch, product.formats)
    addends = [int(grid.outputs_in(fmt)[0]) for fmt in product.addends]
    return _Held(need.I, need.W, need.O, sums, addends)


def named(slots: Sequence[tuple[Tensor, int, Any]]) -> tuple[Slot, ...]:
    """Slots as the machine knows them, without those that take nothing."""
    return tuple(
        Slot(tensor if operand < 0 else "V", max(operand, 0), int(bits))
        for tensor, operand, bits in slots
        if bits
    )
