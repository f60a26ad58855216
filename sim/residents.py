"""The tiles that lie at a level, one after the other: of I, of W, and of O."""

from __future__ import annotations

from typing import ClassVar, Generic, TypeVar

import numpy as np

from bfpsim.mapping.nest import Tensor
from bfpsim.mapping.steps.tiles import (
    ActivationBox,
    InputTiles,
    OutputTiles,
    Vector,
    Visits,
    WeightTiles,
)
from bfpsim.mapping.steps.volumes import Moved
from bfpsim.sim.copies import FilterBox, InputCopy, Source, WeightCopy
from bfpsim.sim.outputs import Forms, Part, Sink, Tile

T = TypeVar("T")


class _Residents(Generic[T]):
    """The tiles of a tensor at one level, by their number in the order they come.

    level: its name
    visits: of the level's nest; starts: the array's tile at which each of its steps begins, and
        their end
    """

    def __init__(self, level: str, visits: Visits, starts: Vector) -> None:
        self.level = level
        self._tiles: dict[int, T] = {}
        self._begins = starts[np.append(visits.begins, visits.ends[-1])]
        self.used = -1
        """The number of the tile in use."""

    def use(self, array_tile: int) -> bool:
        """Turn to what the array's next tile uses; whether it is the first that does."""
        first = bool(self._begins[self.used + 1] == array_tile)
        self.used += first
        return first

    def last_use(self, array_tile: int) -> bool:
        """Whether no later tile of the array uses the tile in use."""
        return bool(self._begins[self.used + 1] == array_tile + 1)

    @property
    def tile(self) -> T:
        """The one in use."""
        return self._tiles[self.used]

    def _keep(self, number: int, tile: T) -> None:
        """Besides the tile in use, there is one on its way."""
        self._tiles[number] = tile
        if len(self._tiles) > 2:
            del self._tiles[min(self._tiles)]


class Inputs(_Residents[InputCopy]):
    """Tiles of I, copied from outside."""

    tensor: ClassVar[Tensor] = "I"

    def __init__(
        self,
        level: str,
        tiles: InputTiles,
        starts: Vector,
        outside: Source[ActivationBox, InputCopy],
    ) -> None:
        super().__init__(level, tiles.visits, starts)
        self.outside, self._boxes = outside, tiles

    def part(self, box: ActivationBox) -> InputCopy:
        """A copy of a box of the tile in use."""
        return self.tile.part(box)

    def fetch(self, number: int) -> Moved:
        """Copy the new part of a tile; the rest is copied from the tile before."""
        new, box = self._boxes.fetched.at(number), self._boxes.resident.at(number)
        fresh = self.outside.part(new)
        tile = fresh if new == box else self._tiles[number - 1].extended(fresh, box)
        self._keep(number, tile)
        return fresh.moved


class Weights(_Residents[WeightCopy]):
    """Tiles of W, copied whole from outside."""

    tensor: ClassVar[Tensor] = "W"

    def __init__(
        self, level: str, tiles: WeightTiles, starts: Vector, outside: Source[FilterBox, WeightCopy]
    ) -> None:
        super().__init__(level, tiles.visits, starts)
        self.outside, self._boxes = outside, tiles

    def part(self, box: FilterBox) -> WeightCopy:
        """A copy of a box of the tile in use."""
        return self.tile.part(box)

    def fetch(self, number: int) -> Moved:
        """Copy a tile."""
        tile = self.outside.part(filter_box(self._boxes, number))
        self._keep(number, tile)
        return tile.moved


def filter_box(tiles: WeightTiles, number: int) -> FilterBox:
    """The box of a tile of W."""
    box, ranges = tiles.at(number), tiles.visits.ranges
    return FilterBox(box.filters, box.c, ranges["R"].at(number), ranges["S"].at(number))


class Outputs(_Residents[Tile]):
    """Tiles of O, made of what comes from inside.

    accumulates: whether it holds sums alone, and makes the results as they leave
    """

    tensor: ClassVar[Tensor] = "O"

    def __init__(
        self,
        level: str,
        tiles: OutputTiles,
        starts: Vector,
        outside: Sink,
        forms: Forms,
        accumulates: bool,
    ) -> None:
        super().__init__(level, tiles.visits, starts)
        self.outside, self._boxes = outside, tiles
        self._forms, self._accumulates = forms, accumulates

    def give(self, box: ActivationBox) -> Part:
        """Hand the sums of a box of the tile in use back."""
        return self.tile.pop(box)

    def take(self, box: ActivationBox, part: Part) -> None:
        """Take what comes from inside into the tile in use."""
        self.tile[box] = part

    def fetch(self, number: int) -> Moved:
        """Bring a tile's sums back, or start it from nothing."""
        self._tiles[number] = {}
        if not self._boxes.resumed[number]:
            return Moved()
        box = self._boxes.resident.at(number)
        part = self.outside.give(box)
        if not isinstance(part, dict):
            raise RuntimeError(f"{self.outside.level} gives O tile {box} back as no tile")
        self._tiles[number] = part
        return self._forms.moved(box, part)

    def evict(self, number: int) -> tuple[Moved, Moved]:
        """Send a tile out: what was read of it here, and what was written of it outside."""
        box, tile = self._boxes.resident.at(number), self._tiles.pop(number)
        if not tile:
            raise RuntimeError(f"O tile {box} left {self.level} before it was computed")
        part: Part = tile
        if self._accumulates and self._boxes.finished[number]:
            part = self._forms.result(box, tile)
        self.outside.take(box, part)
        return self._forms.moved(box, tile), self._forms.moved(box, part)
