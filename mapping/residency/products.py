"""Products on the PE array: every mapping priced at once, with some of the operands on chip."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from collections.abc import Mapping as ByName
from dataclasses import dataclass, replace
from functools import cached_property
from math import prod
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bfpsim.arch import Arch
from bfpsim.mapping.array import sums_lie_outside
from bfpsim.mapping.candidates import candidate_sizes
from bfpsim.mapping.closed.grid import Grid, Sizes
from bfpsim.mapping.closed.leaves import Vector
from bfpsim.mapping.closed.traffic import FULL, times
from bfpsim.mapping.constraints import FREE, Constraints
from bfpsim.mapping.fit import check_all_blocks, footprint, stored
from bfpsim.mapping.inner import with_insides
from bfpsim.mapping.mapper import TIES, orders
from bfpsim.mapping.models import outer_counts
from bfpsim.mapping.nest import DIMS, TENSORS, Mapping, MappingError, Nest, Tensor, make_nest
from bfpsim.mapping.paddings import Paddings
from bfpsim.mapping.residency.beyond import Beyond
from bfpsim.mapping.residency.cut import Cut, Residence, Slot
from bfpsim.mapping.residency.ranking import IMPOSSIBLE, Part, Ranking
from bfpsim.mapping.residency.stairs import Stairs
from bfpsim.mapping.runs import run_of
from bfpsim.objects import immutable
from bfpsim.quant.formats import ActivationLayout, Format, LayerFormats
from bfpsim.workloads import ConvLayer

_NEVER = np.iinfo(np.int64).max // 4
"""A room that no buffer has [bit]."""

_SLACKS = (1.05, 1.2, 2.0, math.inf)
"""How far above the least payload to look for mappings whose bursts pad less, one after another."""


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
        bits = moved.sums
        bits = bits + (0 if residence.reads[0] else moved.I)
        bits = bits + (0 if residence.weights else moved.W)
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
        stays = self.mean_bits is not None or residence.writes  # no result waits in its slot
        outputs = held.sums if stays else held.O
        slots: list[tuple[Tensor, int, Any]] = [("O", -1, double["O"] * outputs)]
        if not residence.reads[0]:
            slots.insert(0, ("I", -1, double["I"] * held.I))
        if not residence.weights:
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


class _Choice(NamedTuple):
    """A mapping: the rank of its order, and the place of its tile among the sizes' combinations."""

    rank: int
    place: int


class _Near(NamedTuple):
    """Mappings of about the least payload in their room, best first.

    slack: how far above the least payload in their room; payloads, rooms: [bit]; ranks: of their
    orders; places: of their tiles among the combinations of sizes; fetches: of every tile of W;
    spills: of every tile of O
    """

    slack: float
    payloads: NDArray[np.int64]
    rooms: NDArray[np.int64]
    ranks: NDArray[np.int8]
    places: NDArray[np.int32]
    fetches: NDArray[np.int32]
    spills: NDArray[np.int32]

    @property
    def alike(self) -> NDArray[np.int64]:
        """Equal of mappings of the same tiles, where they are left unfinished or where not."""
        return 2 * self.places.astype(np.int64) + (self.spills > 0)

    def choice(self, number: int) -> _Choice:
        return _Choice(int(self.ranks[number]), int(self.places[number]))


def staircase(
    layer: ConvLayer, arch: Arch, formats: LayerFormats, residence: Residence | None = None
) -> Stairs:
    """The least payload off chip of a product over room, of every size and order [bit].

    Room is that of the shared buffer, twice what tiles take if it is double-buffered; or that of
    I's, the other two being what they are. Levels inside SRAM are taken as they are.

    residence: what is on chip already, or stays; without it nothing
    """
    cuts = ProductCuts(Product(layer, formats), arch, None)
    return cuts.stairs(residence or Residence((False,), (), False))


class ProductCuts:
    """All mappings of a product, by every order and tile size that can be part of a best one.

    Levels inside SRAM: `stairs` takes them as they are, `best` asks for insides that fit.

    limit: the room that there is at most [bit]; None for any
    beyond: of the layer as stored, which other products of it may share
    """

    def __init__(
        self, product: Product, arch: Arch, limit: int | None, beyond: Beyond | None = None
    ) -> None:
        self._product, self._arch, self._limit = product, arch, limit
        self._layer = stored(product.layer, arch)
        self._orders = orders(self._layer)
        self._stairs: dict[Residence, Stairs] = {}
        self._near: dict[Residence, _Near] = {}
        self._ranked: dict[Residence, Ranking] = {}
        self._tied: dict[tuple[Residence, int], tuple[float, list[_Choice]]] = {}
        self._cycles: dict[Mapping, int] = {}
        self._beyond = beyond or Beyond(self._layer, arch, product.formats)
        self._insides = len(arch.levels) > 2
        self._open: _Tilings | None = None

    def stairs(self, residence: Residence) -> Stairs:
        """The least payload off chip over room [bit]."""
        if residence not in self._stairs:
            points = zip(*self._points(residence, together=True), strict=True)
            room, bits = (np.concatenate(own) for own in points)
            fits = room < _NEVER if self._limit is None else room <= self._limit
            self._stairs[residence] = Stairs.of(room[fits], bits[fits])
        return self._stairs[residence]

    def prepare(self, residences: Sequence[Residence]) -> None:
        """Work out some residences while all tilings are at hand, and let go of these."""
        for residence in residences:
            if residence not in self._near:
                self.stairs(residence)
                self._near[residence] = self._nearest(residence, self._slacks[0])
        self._open = None

    def cost(self, residence: Residence, room: int) -> float:
        """The least traffic off chip, bursts included, in so much room; infinite if nothing fits.

        [bit]
        """
        return self._cheapest(residence, room)[0]

    def best(self, residence: Residence, room: int) -> Cut | None:
        """A cut of that cost; None if nothing fits.

        Ties as `mapping.mapper.best_mappings` breaks them.
        """
        bits, tied = self._cheapest(residence, room)
        if not tied:
            return None
        mappings = dict.fromkeys(self._mapping(own) for own in tied)
        if self._insides:
            best = self._beyond.with_insides(next(iter(mappings)))
        else:
            best = min(mappings, key=self._cycles_of)
        nest = make_nest(self._layer, best, self._arch.inside)
        held = held_by(nest, self._arch, self._product)
        slots = self._product.slots(residence, held, self._arch)
        return Cut(best, int(bits), named(slots))

    # --- all at once -----------------------------------------------------------------------------

    @property
    def _tilings(self) -> _Tilings:
        if self._open is None:
            self._open = _Tilings(
                self._product, self._layer, self._arch, self._candidates, self._limit
            )
        return self._open

    @cached_property
    def _candidates(self) -> Sizes:
        """The tile sizes that can be part of a best mapping, in every format of a box of O."""
        product, layer = self._product, self._layer
        whole = Constraints(tile={"G": layer.G, "K": layer.K}) if product.whole_channels else FREE
        each = [product.formats, *(replace(product.formats, O=own) for own in product.addends)]
        return candidate_sizes(layer, self._arch, list(dict.fromkeys(each)), "dram", whole)

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
    def _slacks(self) -> tuple[float, ...]:
        """How far above the least payload to look for mappings, one after another."""
        exact = self._arch.dram.burst == 1 and not self._insides
        return (1.0,) if exact else _SLACKS

    def _nearest(self, residence: Residence, slack: float) -> _Near:
        """The mappings of about the least payload in their room."""
        stairs, tilings = self._stairs[residence], self._tilings
        rooms, costs = np.array(stairs.rooms, np.int64), np.array(stairs.costs, np.int64)
        parts = []
        most = _NEVER - 1 if self._limit is None else self._limit
        for rank, (taken, bits) in enumerate(self._points(residence)):
            at = np.searchsorted(rooms, taken, side="right") - 1
            near = np.flatnonzero((at >= 0) & (taken <= most))
            if len(rooms) and slack < math.inf:
                near = near[bits[near] <= costs[at[near]] * slack]
            parts.append((bits[near], taken[near], np.full(len(near), rank, np.int8), near))
        payload, room, ranks, at = (np.concatenate(own) for own in zip(*parts, strict=True))
        sizes = self._sizes(tilings.places[at])
        large = [-sizes[dim] for dim in "NGPQKC"]
        first = np.lexsort((*large, ranks, tilings.steps[at], payload))
        if not self._insides:  # there are as many as the mapper looks at, each once
            alike = tilings.places[at].astype(np.int64) * len(self._orders)
            alike += self._same_orders[ranks, _cuts(sizes, self._layer.dims)]
            first = first[np.sort(np.unique(alike[first], return_index=True)[1])]
        ranks, at = ranks[first], at[first]
        fetches, spills = np.zeros(len(at), np.int32), np.zeros(len(at), np.int32)
        for rank, order in enumerate(self._orders):
            own = np.flatnonzero(ranks == rank)
            fetches[own], spills[own] = tilings.sweeps(order, at[own])
        places = tilings.places[at]
        return _Near(slack, payload[first], room[first], ranks, places, fetches, spills)

    @cached_property
    def _same_orders(self) -> NDArray[np.int64]:
        """The first order that is the same among what is cut, by order and the dimensions cut."""
        table = np.zeros((len(self._orders), 1 << len(DIMS)), np.int64)
        for cuts in range(1 << len(DIMS)):
            known: dict[str, int] = {}
            for rank, order in enumerate(self._orders):
                own = "".join(dim for dim in order if cuts >> DIMS.index(dim) & 1)
                table[rank, cuts] = known.setdefault(own, rank)
        return table

    def _sizes(self, places: NDArray[np.int32]) -> dict[str, NDArray[np.int64]]:
        """Tile sizes at places of the grid, by dimension."""
        every = self._candidates
        numbers = np.unravel_index(places, [len(every[dim]) for dim in DIMS])
        return {dim: every[dim][own] for dim, own in zip(DIMS, numbers, strict=True)}

    def _cheapest(self, residence: Residence, room: int) -> tuple[float, list[_Choice]]:
        """The least cost in so much room, and its mappings, as many as the mapper looks at."""
        key = residence, room
        if key not in self._tied:
            self._tied[key] = math.inf, []
            least = self.stairs(residence).at(room)
            for slack in self._slacks if math.isfinite(least) else ():
                if residence not in self._near or self._near[residence].slack < slack:
                    self._near[residence] = self._nearest(residence, slack)
                    self._ranked.pop(residence, None)
                    self._open = None
                near = self._near[residence]
                if residence not in self._ranked:
                    self._ranked[residence] = self._ranking(near, residence)
                cost, places = self._ranked[residence].least(room, self._count)
                self._tied[key] = cost, [near.choice(place) for place in places.tolist()]
                if cost <= least * near.slack:
                    break
        return self._tied[key]

    @property
    def _count(self) -> int:
        """How many mappings of equal cost are looked at."""
        return 1 if self._insides else TIES + 1

    def _ranking(self, near: _Near, residence: Residence) -> Ranking:
        """The mappings by cost, with burst padding and insides as parts."""
        parts = []
        if self._arch.dram.burst > 1:
            parts += self._padded_parts(near, residence)
        payloads = near.payloads
        if self._product.mean_bits is not None and not residence.writes:
            payloads = payloads + -self._product.mean_bits % self._arch.dram.burst
        if self._insides:

            def inside(place: int) -> int:
                return 0 if self._beyond.fits(self._mapping(near.choice(place))) else IMPOSSIBLE

            parts.append(Part(near.alike, 1, inside))
        return Ranking(payloads, near.rooms, parts)

    def _padded_parts(self, near: _Near, residence: Residence) -> list[Part]:
        """Burst padding of all that goes off chip."""
        sizes, product = self._sizes(near.places), self._product
        weights, outputs = (_keys(sizes, dims, self._layer.dims) for dims in ("GKC", "NGKPQ"))
        formats = [
            fmt for fmt, on in zip(product.addends, residence.addends, strict=True) if not on
        ]
        if product.mean_bits is None and not residence.writes:
            formats.append(product.formats.O)

        def price(part: Callable[[Mapping], int]) -> Callable[[int], int]:
            return lambda place: part(self._mapping(near.choice(place)))

        of = self._beyond
        parts = []
        if not residence.weights:
            parts.append(
                Part(weights, product.repeats * near.fetches.astype(np.int64), price(of.weights))
            )
        if formats:
            parts.append(
                Part(outputs, product.repeats, price(lambda own: of.results(own, formats)))
            )
        parts.append(
            Part(outputs, 2 * product.repeats * near.spills.astype(np.int64), price(of.sums))
        )
        if not residence.reads[0]:
            parts.append(Part(np.arange(len(outputs)), product.repeats, price(of.inputs)))
        return parts

    def _mapping(self, choice: _Choice) -> Mapping:
        """A mapping, the levels inside SRAM left whole."""
        order, extents = self._orders[choice.rank], self._layer.dims
        sizes = self._sizes(np.array([choice.place], np.int32))
        tile = {dim: int(own[0]) for dim, own in sizes.items() if own[0] < extents[dim]}
        return Mapping("".join(d for d in order if d in tile), tile)

    def _cycles_of(self, mapping: Mapping) -> int:
        if mapping not in self._cycles:
            run = run_of(self._layer, self._arch, mapping, self._product.formats)
            self._cycles[mapping] = run.cycles
        return self._cycles[mapping]


class _Tilings:
    """Combinations of tile sizes that may fit in some residence, as flat arrays.

    places: of each among all combinations of `sizes`
    """

    def __init__(
        self, product: Product, layer: ConvLayer, arch: Arch, sizes: Sizes, limit: int | None
    ) -> None:
        self._product, self._arch = product, arch
        self._grid = grid = Grid(layer, arch, product.formats, sizes)
        self._shape = shape = np.broadcast_shapes(grid.steps.shape, sum(grid.room.values()).shape)
        legal = np.broadcast_to(grid.whole_blocks, shape)
        if limit is not None:
            everything = Residence((True, True), (True,) * len(product.addends), True)
            least = _Held(
                grid.room["I"], grid.room["W"], grid.result_bits, 0, [0] * len(product.addends)
            )
            legal = legal & (room_taken(product.slots(everything, least, arch), arch) <= limit)
        self._legal = legal
        self.places = np.flatnonzero(legal).astype(np.int32)
        self.count = len(self.places)
        self.steps = self._flat(grid.steps)
        self._held: dict[bool, _Held] = {}
        self._known: dict[str, _Parts] = {}
        self._sums_once = 2 * prod(layer.output_shape) * arch.pe_array.accumulator_bits

    def _flat(self, values: Any) -> NDArray[np.int64]:
        return np.asarray(np.broadcast_to(values, self._shape)[self._legal])

    def sweeps(self, order: str, at: NDArray[np.intp]) -> tuple[Vector, Vector]:
        """How often each tile of W is fetched, and each of O spilled, at some places."""
        once, own = self.moved("GKCNPQ").W[at], self.moved(order)  # W inside no loop of N, P, Q
        return own.W[at] // once, own.sums[at] // self._sums_once

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

    def cost(self, residence: Residence, room: int) -> float:
        """The same, in so much room."""
        return self.stairs(residence).at(room)

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
        Slot(tensor if operand < 0 else "V", max(operand, 0), int(bits), tensor)
        for tensor, operand, bits in slots
        if bits
    )


def _cuts(sizes: ByName[str, Vector], extents: ByName[str, int]) -> Vector:
    """Which dimensions are cut, as bits of a number in the order of `DIMS`."""
    return np.asarray(
        sum((sizes[dim] < extents[dim]).astype(np.int64) << at for at, dim in enumerate(DIMS))
    )


def _keys(sizes: ByName[str, Vector], dims: str, extents: ByName[str, int]) -> Vector:
    """A number for each combination of the sizes of some dimensions."""
    keys = np.zeros_like(sizes[dims[0]])
    for dim in dims:
        keys = keys * (extents[dim] + 1) + sizes[dim]
    return keys
