"""A layer's DRAM payload and footprints as sums of products of tables, one table per dimension.

Every factor of the exact model depends on the tile size of one dimension (with groups, of two). So
do its conditions: "no loop of W runs inside" is a product of "has one trip". Cost and footprint are
therefore sums of products of tables over candidate tile sizes: what a solver of integer programs
can be given whole, without a case left out.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

import numpy as np

from bfpsim.arch import Arch
from bfpsim.mapping.candidates import candidate_sizes
from bfpsim.mapping.nest import RELEVANT, Tensor
from bfpsim.mapping.profiles import fold_sums
from bfpsim.mapping.ragged import Vector
from bfpsim.mapping.tile_bits import channel_tables, result_tables, weight_tables
from bfpsim.mapping.windows import window_profile
from bfpsim.quant.formats import BFP, LayerFormats
from bfpsim.workloads import ConvLayer


@dataclass(frozen=True, slots=True, eq=False)
class Term:
    """A product: a whole number times a table over tile sizes for each of some dimensions."""

    factor: int
    tables: dict[str, Vector]

    def __mul__(self, other: Term) -> Term:
        both = self.tables | other.tables
        for dim in self.tables.keys() & other.tables.keys():
            both[dim] = self.tables[dim] * other.tables[dim]
        vanishes = not all(table.any() for table in both.values())
        return Term(0 if vanishes else self.factor * other.factor, both)


@dataclass(frozen=True, slots=True, eq=False)
class Products:
    """A sum of terms."""

    terms: tuple[Term, ...]

    def __add__(self, other: Products) -> Products:
        return Products(self.terms + other.terms)

    def __mul__(self, other: Products | int) -> Products:
        factors = number(other).terms if isinstance(other, int) else other.terms
        products = (a * b for a in self.terms for b in factors)
        return Products(tuple(term for term in products if term.factor))

    def __sub__(self, other: Products) -> Products:
        return self + other * -1

    def merged(self) -> Products:
        """The same sum with equal products taken together: what cancels is gone."""
        factors: dict[tuple[tuple[str, bytes], ...], int] = {}
        tables = {}
        for term in self.terms:
            key = tuple((dim, term.tables[dim].tobytes()) for dim in sorted(term.tables))
            factors[key] = factors.get(key, 0) + term.factor
            tables[key] = term.tables
        return Products(tuple(Term(f, tables[key]) for key, f in factors.items() if f))

    def at(self, place: dict[str, int]) -> int:
        """The value at one candidate of every dimension, given by its number."""
        return sum(
            term.factor * prod(int(table[place[dim]]) for dim, table in term.tables.items())
            for term in self.terms
        )


def number(value: int) -> Products:
    """A constant."""
    return Products((Term(value, {}),) if value else ())


NONE, ONE = number(0), number(1)


def table(dim: str, values: Vector) -> Products:
    """A value for every candidate of a dimension."""
    if len(values) == 1:
        return number(int(values[0]))
    return Products((Term(1, {dim: values}),)) if values.any() else NONE


def table_of_two(dims: str, values: Vector) -> Products:
    """A value for every pair of candidates of two dimensions."""
    if values.shape[1] == 1:
        return table(dims[0], values[:, 0])
    rows = np.eye(len(values), dtype=np.int64)
    parts = (table(dims[0], row) * table(dims[1], of) for row, of in zip(rows, values, strict=True))
    return sum(parts, NONE)


class Terms:
    """Tables of a layer as stored in DRAM, and what the exact model makes of them.

    sizes: candidate tile sizes per dimension, as in `mapping.grid`
    """

    def __init__(self, layer: ConvLayer, arch: Arch, formats: LayerFormats) -> None:
        self._layer, self._arch, self._formats = layer, arch, formats
        self.sizes = candidate_sizes(layer, arch, [formats], "dram")
        trips = {d: -(-layer.dims[d] // sizes) for d, sizes in self.sizes.items()}
        self._trips = {d: table(d, count) for d, count in trips.items()}
        self._one = {d: table(d, (count == 1).astype(np.int64)) for d, count in trips.items()}
        self._many = {d: table(d, (count > 1).astype(np.int64)) for d, count in trips.items()}
        self._again = {d: table(d, count - 1) for d, count in trips.items()}
        self._size = {d: table(d, sizes) for d, sizes in self.sizes.items()}
        self._windows = {d: window_profile(layer, d, self.sizes[d]) for d in "PQ"}
        g, k, c = (self.sizes[d] for d in "GKC")
        self._pixel, self._pixel_largest = channel_tables(layer, g, c, formats.I)
        self._weights, self._weights_largest = weight_tables(layer, g, k, c, formats.W)
        self._results, self.whole_blocks = result_tables(layer, g, k, formats.O)

    # --- footprints ------------------------------------------------------------------------------

    def footprints(self) -> dict[Tensor, Products]:
        """The most that each tensor's resident tile takes [bit]; see `mapping.capacity`."""
        size, array, layer = self._size, self._arch.pe_array, self._layer
        rows, cols = (table(d, self._windows[d].largest) for d in "PQ")
        if layer.C == 1:
            weights = table_of_two("GK", self._weights_largest[:, :, 0])
        else:  # in proportion to the filters
            filter_bits = self._weights_largest[0, 0] // (self.sizes["G"][0] * self.sizes["K"][0])
            weights = size["G"] * size["K"] * table("C", filter_bits)
        filters = self.sizes["G"][:, None] * self.sizes["K"]
        wider = np.maximum(filters * array.accumulator_bits - self._results, 0)
        folds = fold_sums(layer, array, self.sizes["C"]).largest
        unfinished = table("C", ((self.sizes["C"] < layer.C) | (folds > 1)).astype(np.int64))
        pixel = table_of_two("GK", self._results) + unfinished * table_of_two("GK", wider)
        return {
            "I": size["N"] * rows * cols * table_of_two("GC", self._pixel_largest),
            "W": weights,
            "O": size["N"] * size["P"] * size["Q"] * pixel,
        }

    # --- DRAM payload ----------------------------------------------------------------------------

    def dram_bits(self, order: str) -> Products:
        """DRAM payload under a loop order [bit]."""
        return (self._input(order) + self._weight(order) + self._output(order)).merged()

    def _none(self, dims: str) -> Products:
        """1 if none of the dimensions has a loop, else 0."""
        return prod((self._one[d] for d in dims), start=ONE)

    def _some(self, dims: str) -> Products:
        """1 if one of the dimensions has a loop, else 0: by the first that has."""
        return sum((self._none(dims[:i]) * self._many[d] for i, d in enumerate(dims)), NONE)

    def _weight(self, order: str) -> Products:
        """W moves once for every trip of N, P, Q outside its innermost loop."""
        if self._layer.C == 1:
            moved = table_of_two("GK", self._weights[:, :, 0])
        else:
            moved = table("C", self._weights[0, 0])
        times, inside, since = NONE, "", ""
        for position in reversed(range(len(order))):
            if order[position] in RELEVANT["W"]:
                since += order[position]
                continue
            outer = (self._trips[d] for d in order[: position + 1] if d in "NPQ")
            times += self._none(inside) * self._some(since) * prod(outer, start=ONE)
            inside, since = inside + since, ""
        return moved * (times + self._none(inside))

    def _output(self, order: str) -> Products:
        """O leaves once as results; its sums leave and come back if a loop runs inside C's."""
        layer, fmt = self._layer, self._formats.O
        n, p, q, channels = layer.output_shape
        pixel = channels * fmt.mantissa_bits
        if isinstance(fmt, BFP):
            pixel += -(-channels // fmt.block_size) * fmt.exponent_bits
        sums = n * p * q * channels * self._arch.pe_array.accumulator_bits
        leaves = self._some(order[order.index("C") + 1 :])
        return number(n * p * q * pixel) + leaves * self._again["C"] * (2 * sums)

    def _input(self, order: str) -> Products:
        """By the innermost loop of I that has several trips; what clipping spares comes off."""
        total, inside = NONE, ""
        every = self._boxes(dict.fromkeys(RELEVANT["I"], "every"))
        for position in reversed(range(len(order))):
            dim = order[position]
            if dim == "K":
                continue
            boxes = every
            if dim in "PQ" and self._arch.dma.halo == "sliding":
                state = dict.fromkeys(RELEVANT["I"], "every")
                boxes = sum((self._boxes(state | {dim: part}) for part in ("first", "fresh")), NONE)
            times = self._trips["K"] if "K" in order[:position] else ONE
            total += self._none(inside) * self._many[dim] * times * boxes
            inside += dim
        return total + self._none(inside) * every - self._coincidences(order)

    def _coincidences(self, order: str) -> Products:
        """Bits of boxes that clipping makes equal to the box before, though an index changed."""
        total = NONE
        for position, advancing in enumerate(order):
            wrapping = order[position + 1 :]
            if advancing in "NGC":
                continue
            state = dict.fromkeys(order[:position], "every")
            spared = self._none("".join(d for d in wrapping if d in "NGC"))
            spared *= self._boxes({d: state.get(d, "first") for d in "NGC"})
            lengths, alone = ONE, ONE  # with the wrapping tiles; with a single tile of each
            for dim in "PQ":
                window = self._windows[dim]
                if dim == advancing:
                    lengths *= table(dim, window.same)
                    alone *= table(dim, window.same)
                elif dim in wrapping:
                    single = self._one[dim] * table(dim, window.first)
                    lengths *= single + table(dim, window.wrapped)
                    alone *= single
                else:
                    lengths *= table(dim, window.every)
                    alone *= table(dim, window.every)
            # A box alone among I's loops slides, and what K repeats in place never moved.
            if advancing == "K" or self._arch.dma.halo == "sliding":
                lengths = lengths - alone
            times = ONE
            if advancing == "K":
                times = self._again["K"]
            elif "K" in state:
                times = self._trips["K"]
            total += times * spared * lengths
        return total

    def _boxes(self, state: dict[str, str]) -> Products:
        """Bits of the boxes at which each dimension is in its state; those not named left out."""
        sizes, extent = self.sizes["N"], self._layer.N
        batch = {"every": np.full_like(sizes, extent), "first": sizes}[state["N"]]
        bits = table("N", batch) * table_of_two("GC", self._pixel[state["G"], state["C"]])
        for dim in "PQ":
            if dim in state:
                bits *= table(dim, self._windows[dim].of(state[dim]))
        return bits
