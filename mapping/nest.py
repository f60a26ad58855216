"""Tiled loop nests: a tile size per dimension and the order of the loops between tiles."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from math import prod
from typing import Literal

from bfpsim.workloads import ConvLayer

DIMS = "NGKCPQ"
"""The dimensions that are tiled at the DRAM level; R and S stay whole in a tile."""

Tensor = Literal["I", "W", "O"]

RELEVANT: dict[Tensor, str] = {"I": "NGCPQ", "W": "GKC", "O": "NGKPQ"}
"""The tiled dimensions that each tensor's box depends on. C is the reduction of O."""


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
    """One loop between tiles."""

    dim: str
    trips: int


@dataclass(frozen=True, slots=True)
class Nest:
    """A mapping applied to a layer: extents, tile sizes, trips, and the loops, outer to inner."""

    layer: ConvLayer
    extents: dict[str, int]
    tile: dict[str, int]
    trips: dict[str, int]
    loops: tuple[Loop, ...]

    @property
    def steps(self) -> int:
        """Tile steps in the whole nest."""
        return prod(loop.trips for loop in self.loops)

    def span(self, dim: str, index: int) -> tuple[int, int]:
        """The half-open range of `dim` that its tile number `index` covers."""
        low = index * self.tile[dim]
        return low, min(low + self.tile[dim], self.extents[dim])

    def spans(self, dim: str) -> list[tuple[int, int]]:
        """Every tile's range of `dim`, in order."""
        return [self.span(dim, i) for i in range(self.trips[dim])]

    def period(self, tensor: Tensor) -> int:
        """Steps between changes of the tensor's loop indices (`steps` if they never change)."""
        inside = 1
        for loop in reversed(self.loops):
            if loop.dim in RELEVANT[tensor]:
                return inside
            inside *= loop.trips
        return inside

    def indices(self, step: int) -> dict[str, int]:
        """Tile number of every dimension at a step."""
        at = dict.fromkeys(DIMS, 0)
        for loop in reversed(self.loops):
            step, at[loop.dim] = divmod(step, loop.trips)
        return at

    def walk(self) -> Iterator[dict[str, int]]:
        """Tile numbers of every step, in order."""
        return map(self.indices, range(self.steps))


def make_nest(layer: ConvLayer, mapping: Mapping) -> Nest:
    """Apply a mapping to a layer.

    Raises MappingError for a tile larger than its dimension, or a dimension with several tiles
    that `order` leaves out.
    """
    extents = layer.dims
    tile = {dim: mapping.tile.get(dim, extents[dim]) for dim in DIMS}
    for dim, size in tile.items():
        if size > extents[dim]:
            raise MappingError(f"{layer.name}: tile {dim}={size}; allowed: 1..{extents[dim]}")
    trips = {dim: -(-extents[dim] // tile[dim]) for dim in DIMS}
    for dim in DIMS:
        if trips[dim] > 1 and dim not in mapping.order:
            raise MappingError(
                f"{layer.name}: order={mapping.order!r} lacks {dim}, which has {trips[dim]} tiles; "
                f"allowed: an order that holds {''.join(d for d in DIMS if trips[d] > 1)}"
            )
    loops = tuple(Loop(dim, trips[dim]) for dim in mapping.order if trips[dim] > 1)
    return Nest(layer, extents, tile, trips, loops)
