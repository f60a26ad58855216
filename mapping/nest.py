"""Tiled loop nests: a tile size per dimension and the order of the loops between tiles."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate
from math import prod
from operator import mul
from typing import Literal

from bfpsim.objects import immutable
from bfpsim.workloads import ConvLayer

DIMS = "NGKCPQ"
"""The dimensions that are tiled at the outermost boundary; R and S stay whole in a tile."""

EVERY_DIM = DIMS + "RS"
"""The dimensions that boundaries further inside may tile."""

Tensor = Literal["I", "W", "O"]

TENSORS: tuple[Tensor, ...] = ("I", "W", "O")

RELEVANT: dict[Tensor, str] = {"I": "NGCPQRS", "W": "GKCRS", "O": "NGKPQ"}
"""The dimensions that each tensor depends on."""

REDUCTION = "CRS"
"""The dimensions that O sums over."""


class MappingError(ValueError):
    """A mapping that does not suit its layer, architecture or formats."""


@immutable
@dataclass(frozen=True)
class Mapping:
    """How a layer is cut into tiles, and in which order they run.

    order: loop dimensions from outer to inner, of N G K C P Q, in `inner` of R S too. A dimension
        with a single tile has no loop: it may be left out, or stand anywhere.
    tile: tile size per dimension [elements]; a dimension left out is whole.
    inner: by name of a level between SRAM and array, how the tile of the level outside is cut
        there; at a level left out it is whole.

    Raises MappingError for unknown or repeated dimensions and for sizes below 1.
    """

    order: str = ""
    tile: dict[str, int] = field(default_factory=dict)
    inner: dict[str, Mapping] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, part, kind in (
            ("order", self.order, str), ("tile", self.tile, dict), ("inner", self.inner, dict),
        ):  # fmt: skip
            if not isinstance(part, kind):
                raise MappingError(f"{name}={part!r}; allowed: a {kind.__name__}")
        for dim in self.order:
            _known(dim, f"order={self.order!r}")
        if len(set(self.order)) != len(self.order):
            raise MappingError(f"order={self.order!r} repeats a dimension; allowed: each once")
        for dim, size in self.tile.items():
            _known(dim, f"tile={self.tile!r}")
            if isinstance(size, bool) or not isinstance(size, int) or size < 1:
                raise MappingError(f"tile {dim}={size!r}; allowed: a whole number from 1")
        for level, own in self.inner.items():
            if not isinstance(own, Mapping) or own.inner:
                raise MappingError(
                    f"inner of {level!r} is {own!r}; allowed: a Mapping without inner ones"
                )
        ordered = {dim: self.tile[dim] for dim in EVERY_DIM if dim in self.tile}
        object.__setattr__(self, "tile", ordered)

    def __hash__(self) -> int:
        return hash((self.order, tuple(self.tile.items()), tuple(self.inner.items())))

    def __str__(self) -> str:
        tile = " ".join(f"{dim}{size}" for dim, size in self.tile.items())
        outer = f"{self.order or '-'}: {tile or 'whole layer'}"
        inside = (
            f"{level} {own.order}: {' '.join(f'{d}{size}' for d, size in own.tile.items())}"
            for level, own in self.inner.items()
            if own.tile
        )
        return "; ".join((outer, *inside))


def _known(dim: object, where: str) -> None:
    if not isinstance(dim, str) or len(dim) != 1 or dim not in EVERY_DIM:
        raise MappingError(f"{where} names dimension {dim!r}; allowed: {', '.join(EVERY_DIM)}")


@dataclass(frozen=True, slots=True)
class Loop:
    """One loop between tiles.

    trips: of a whole tile of the loop outside; the edge tile of that one may take fewer
    tile: what one trip covers of the dimension [elements]
    """

    dim: str
    trips: int
    tile: int


@dataclass(frozen=True, slots=True)
class Nest:
    """The loops of one or several boundaries, joined, over a layer.

    extents: of every dimension
    tile: size of the innermost tile per dimension; trips: innermost tiles per dimension
    loops: outer to inner; a dimension may stand in it once per boundary
    inner: the nests of the levels inside, outermost first, each with all loops outside it
    """

    layer: ConvLayer
    extents: dict[str, int]
    tile: dict[str, int]
    trips: dict[str, int]
    loops: tuple[Loop, ...]
    inner: tuple[Nest, ...] = ()

    @property
    def innermost(self) -> Nest:
        """The nest whose tiles the PE array takes."""
        return self.inner[-1] if self.inner else self

    @property
    def order(self) -> str:
        """The dimensions of the loops, outer to inner."""
        return "".join(loop.dim for loop in self.loops)

    @property
    def steps(self) -> int:
        """Tile steps in the whole nest."""
        return prod(self.trips.values())

    @property
    def turns(self) -> tuple[int, ...]:
        """Tile steps in a whole turn of each loop, inner to outer; edge tiles may take fewer."""
        return tuple(accumulate((loop.trips for loop in self.loops[:0:-1]), mul, initial=1))

    def cuts(self, dim: str) -> tuple[int, ...]:
        """Tile sizes of the loops over a dimension, outer to inner."""
        return tuple(loop.tile for loop in self.loops if loop.dim == dim)


def make_nest(layer: ConvLayer, mapping: Mapping, inner: Sequence[str] = ()) -> Nest:
    """Apply a mapping to a layer.

    inner: names of the levels between SRAM and array, outermost first

    Raises MappingError for a tile larger than its dimension, for a dimension with several tiles
    that `order` leaves out, for R or S outside `inner`, and for a level that there is not.
    """
    for dim in ("R", "S"):
        if dim in mapping.order or dim in mapping.tile:
            raise MappingError(
                f"{layer.name}: {mapping} names dimension {dim!r}; allowed: {', '.join(DIMS)}; "
                "R and S stay whole in a tile"
            )
    for name in mapping.inner:
        if name not in inner:
            raise MappingError(
                f"{layer.name}: inner names level {name!r}; allowed: {', '.join(inner) or 'none'}"
            )
    tile = layer.dims | {"R": layer.R, "S": layer.S}
    boundaries: list[tuple[str, dict[str, int]]] = []
    nests = []
    cuts = [(layer.name, mapping)]
    cuts += [(f"{layer.name}, {level}", mapping.inner.get(level, _WHOLE)) for level in inner]
    for where, own in cuts:
        for dim, size in own.tile.items():
            if size > tile[dim]:
                raise MappingError(f"{where}: tile {dim}={size}; allowed: 1..{tile[dim]}")
        several = [d for d in EVERY_DIM if own.tile.get(d, tile[d]) < tile[d]]
        for dim in several:
            if dim not in own.order:
                trips = -(-tile[dim] // own.tile[dim])
                raise MappingError(
                    f"{where}: order={own.order!r} lacks {dim}, which has {trips} tiles; "
                    f"allowed: an order that holds {''.join(several)}"
                )
        boundaries.append((own.order, own.tile))
        tile |= own.tile
        nests.append(join(layer, boundaries))
    return replace(nests[0], inner=tuple(nests[1:]))


_WHOLE = Mapping()
"""No loop."""


def join(layer: ConvLayer, boundaries: Iterable[tuple[str, dict[str, int]]]) -> Nest:
    """The nest of several boundaries over the same layer.

    boundaries: (order, tile sizes) of each, outermost first. A dimension that `tile` lacks is not
        cut there; one that `order` lacks, or whose tile is no smaller, has no loop there.
    """
    extents = layer.dims | {"R": layer.R, "S": layer.S}
    tile, loops = dict(extents), []
    for order, sizes in boundaries:
        for dim in order:
            size = sizes.get(dim, tile[dim])
            if size < tile[dim]:
                loops.append(Loop(dim, -(-tile[dim] // size), size))
                tile[dim] = size
    cuts = {d: [loop.tile for loop in loops if loop.dim == d] for d in extents}
    trips = {d: _pieces(extents[d], cuts[d]) for d in extents}
    return Nest(layer, extents, tile, trips, tuple(loops))


def _pieces(extent: int, cuts: Sequence[int]) -> int:
    """How many innermost tiles the loops over a dimension make."""
    if not cuts:
        return 1
    whole, edge = divmod(extent, cuts[0])
    return whole * _pieces(cuts[0], cuts[1:]) + (_pieces(edge, cuts[1:]) if edge else 0)
