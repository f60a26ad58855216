"""Tiled loop nests: a tile size per dimension and the order of the loops between tiles."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Literal

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


@dataclass(frozen=True)
class Mapping:
    """How a layer is cut into tiles, and in which order they run.

    order: loop dimensions from outer to inner, of N G K C P Q. A dimension with a single tile has
        no loop: it may be left out, or stand anywhere.
    tile: tile size per dimension [elements]; a dimension left out is whole.

    Raises MappingError for unknown or repeated dimensions and for sizes below 1.
    """

    order: str = ""
    tile: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for dim in self.order:
            _known(dim, f"order={self.order!r}")
        if len(set(self.order)) != len(self.order):
            raise MappingError(f"order={self.order!r} repeats a dimension; allowed: each once")
        for dim, size in self.tile.items():
            _known(dim, f"tile={self.tile!r}")
            if isinstance(size, bool) or not isinstance(size, int) or size < 1:
                raise MappingError(f"tile {dim}={size!r}; allowed: a whole number from 1")
        ordered = {dim: self.tile[dim] for dim in DIMS if dim in self.tile}
        object.__setattr__(self, "tile", ordered)

    def __hash__(self) -> int:
        return hash((self.order, tuple(self.tile.items())))

    def __str__(self) -> str:
        tile = " ".join(f"{dim}{size}" for dim, size in self.tile.items())
        return f"{self.order or '-'}: {tile or 'whole layer'}"


def _known(dim: object, where: str) -> None:
    if not isinstance(dim, str) or len(dim) != 1 or dim not in DIMS:
        why = "; R and S stay whole in a tile" if dim in ("R", "S") else ""
        raise MappingError(f"{where} names dimension {dim!r}; allowed: {', '.join(DIMS)}{why}")


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
    """

    layer: ConvLayer
    extents: dict[str, int]
    tile: dict[str, int]
    trips: dict[str, int]
    loops: tuple[Loop, ...]

    @property
    def order(self) -> str:
        """The dimensions of the loops, outer to inner."""
        return "".join(loop.dim for loop in self.loops)

    @property
    def steps(self) -> int:
        """Tile steps in the whole nest."""
        return prod(self.trips.values())

    def cuts(self, dim: str) -> tuple[int, ...]:
        """Tile sizes of the loops over a dimension, outer to inner."""
        return tuple(loop.tile for loop in self.loops if loop.dim == dim)


def make_nest(layer: ConvLayer, mapping: Mapping) -> Nest:
    """Apply a mapping to a layer.

    Raises MappingError for a tile larger than its dimension, or a dimension with several tiles
    that `order` leaves out.
    """
    extents = layer.dims
    for dim, size in mapping.tile.items():
        if size > extents[dim]:
            raise MappingError(f"{layer.name}: tile {dim}={size}; allowed: 1..{extents[dim]}")
    several = [d for d in DIMS if mapping.tile.get(d, extents[d]) < extents[d]]
    for dim in several:
        if dim not in mapping.order:
            trips = -(-extents[dim] // mapping.tile[dim])
            raise MappingError(
                f"{layer.name}: order={mapping.order!r} lacks {dim}, which has {trips} tiles; "
                f"allowed: an order that holds {''.join(several)}"
            )
    return join(layer, [(mapping.order, mapping.tile)])


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
