"""What a mapping must keep to: an order, tile sizes, and upper bounds of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from bfpsim.mapping.closed.grid import Grid
from bfpsim.mapping.closed.leaves import Vector
from bfpsim.mapping.nest import DIMS, MappingError
from bfpsim.objects import immutable
from bfpsim.quant.formats import LayerFormats
from bfpsim.workloads import ConvLayer


@immutable
@dataclass(frozen=True)
class Constraints:
    """What the mapper may choose from; without any, from everything.

    order: the loops from outer to inner, of N G K C P Q; a dimension that it lacks is whole
    tile: fixed tile sizes [elements]; a dimension larger than the layer's is an error
    max_tile: largest tile sizes [elements]

    Raises MappingError for unknown or repeated dimensions, for sizes below 1, and for a fixed size
    above its largest.
    """

    order: str | None = None
    tile: dict[str, int] = field(default_factory=dict)
    max_tile: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.order is not None and not isinstance(self.order, str):
            raise MappingError(f"order={self.order!r}; allowed: a str such as 'KPQC', or None")
        for name, sizes in (("tile", self.tile), ("max_tile", self.max_tile)):
            if not isinstance(sizes, dict):
                raise MappingError(f"{name}={sizes!r}; allowed: a dict of sizes by dimension")
        for dim in self.order or "":
            _check_dim(dim, f"order={self.order!r}")
        if len(set(self.order or "")) != len(self.order or ""):
            raise MappingError(f"order={self.order!r} repeats a dimension; allowed: each once")
        for name, sizes in (("tile", self.tile), ("max_tile", self.max_tile)):
            for dim, size in sizes.items():
                _check_dim(dim, f"{name}={sizes!r}")
                if isinstance(size, bool) or not isinstance(size, int) or size < 1:
                    raise MappingError(f"{name} {dim}={size!r}; allowed: a whole number from 1")
        for dim, size in self.tile.items():
            most = self.max_tile.get(dim, size)
            if size > most:
                raise MappingError(f"tile {dim}={size}; allowed by max_tile: 1..{most}")

    def __hash__(self) -> int:
        return hash((self.order, *map(frozenset, (self.tile.items(), self.max_tile.items()))))

    def __str__(self) -> str:
        parts = [] if self.order is None else [f"order {self.order or '-'}"]
        parts += [
            f"{name} {' '.join(f'{dim}={size}' for dim, size in sizes.items())}"
            for name, sizes in (("tile", self.tile), ("max_tile", self.max_tile))
            if sizes
        ]
        return ", ".join(parts) or "none"

    def sizes(self, layer: ConvLayer) -> dict[str, Vector]:
        """The tile sizes that are allowed, by dimension of `DIMS`, ascending.

        Raises MappingError for a fixed size that the layer is too small for, or that cuts a
        dimension which `order` lacks.
        """
        return {dim: self._sizes(layer, dim, layer.dims[dim]) for dim in DIMS}

    def _sizes(self, layer: ConvLayer, dim: str, extent: int) -> Vector:
        uncut = self.order is not None and dim not in self.order
        if dim in self.tile:
            low = high = self.tile[dim]
            if high > extent:
                raise MappingError(f"{layer.name}: tile {dim}={high}; allowed: 1..{extent}")
        else:
            low, high = 1, min(extent, self.max_tile.get(dim, extent))
        if uncut and high < extent:
            raise MappingError(
                f"{layer.name}: order={self.order!r} lacks {dim}, which has {-(-extent // high)} "
                f"tiles of at most {high}; allowed: an order that holds {dim}"
            )
        return np.arange(extent if uncut else low, high + 1)

    def orders(self, free: Sequence[str]) -> Sequence[str]:
        """The fixed order, with the dimensions that have no loop; without one, those of `free`."""
        if self.order is None:
            return free
        return (self.order + "".join(dim for dim in DIMS if dim not in self.order),)

    def shortage(self, grid: Grid, layer: ConvLayer, formats: LayerFormats) -> str:
        """Why nothing that is allowed is legal; `grid` has the sizes that are allowed."""
        if self == FREE:
            return grid.shortage()
        if not grid.whole_blocks.any():
            return (
                f"{layer.name}: every O tile cuts a block of {formats.O.block_size} channels "
                f"({formats.O}) under {self}; allowed: tiles that end on multiples of it"
            )
        return f"{grid.shortage()} (under {self})"


FREE = Constraints()
"""No constraints."""


def _check_dim(dim: object, where: str) -> None:
    if not isinstance(dim, str) or len(dim) != 1 or dim not in DIMS:
        raise MappingError(f"{where} names dimension {dim!r}; allowed: {', '.join(DIMS)}")
