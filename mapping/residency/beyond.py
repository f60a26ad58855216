"""What mappings of a layer cost beyond payload: bursts, and whether the levels inside SRAM fit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property

from bfpsim.arch import Arch
from bfpsim.mapping.closed.grid import Grid
from bfpsim.mapping.inner import InnerMapper
from bfpsim.mapping.nest import RELEVANT, Mapping, make_nest
from bfpsim.mapping.paddings import Paddings
from bfpsim.quant.formats import Format, LayerFormats
from bfpsim.workloads import ConvLayer


class Beyond:
    """What mappings of a layer as stored cost beyond payload, each part worked out once.

    The same whatever is fused into the layer, and whatever stays on chip.
    """

    def __init__(self, layer: ConvLayer, arch: Arch, formats: LayerFormats) -> None:
        self._layer, self._arch, self._formats = layer, arch, formats
        self._paddings = Paddings(arch, formats)
        self._known: dict[object, int] = {}
        self._fits: dict[object, bool] = {}
        self._whole: dict[Mapping, Mapping] = {}

    def inputs(self, mapping: Mapping) -> int:
        """Burst padding of all fetches of I [bit]."""
        return self._paddings.inputs(make_nest(self._layer, mapping))

    def weights(self, mapping: Mapping) -> int:
        """Burst padding of fetching every tile of W once [bit]."""
        key = "W", self._tile(mapping, "GKC")
        if key not in self._known:
            self._known[key] = self._paddings.weights(make_nest(self._layer, mapping))
        return self._known[key]

    def results(self, mapping: Mapping, formats: Sequence[Format]) -> int:
        """Burst padding of moving every tile of O once in each of some formats [bit]."""
        key = *formats, self._tile(mapping, RELEVANT["O"])
        if key not in self._known:
            nest = make_nest(self._layer, mapping)
            self._known[key] = sum(self._paddings.results(nest, fmt) for fmt in formats)
        return self._known[key]

    def sums(self, mapping: Mapping) -> int:
        """Burst padding of moving every tile of O once as partial sums [bit]."""
        return self._paddings.sums(make_nest(self._layer, mapping))

    def fits(self, mapping: Mapping) -> bool:
        """Whether anything fits the levels inside SRAM under a mapping.

        Nothing does that lets sums into SRAM for which no room was counted.
        """
        # That hangs on the tiles, and on whether they are left with sums unfinished.
        key = tuple(mapping.tile.items()), mapping.order.endswith("C")
        if key not in self._fits:
            nest = make_nest(self._layer, mapping)
            self._fits[key] = self._mapper(mapping).fits(nest)
        return self._fits[key]

    def with_insides(self, mapping: Mapping) -> Mapping:
        """A mapping that fits, with the best of what does inside SRAM."""
        if mapping not in self._whole:
            inner = self._mapper(mapping).best(make_nest(self._layer, mapping))
            assert inner is not None
            self._whole[mapping] = replace(mapping, inner=inner.mappings)
        return self._whole[mapping]

    def _mapper(self, mapping: Mapping) -> InnerMapper:
        """That of the room for sums that the mapping was counted with."""
        nest = make_nest(self._layer, mapping)
        grid = Grid.of_nest(nest, self._arch, self._formats)
        return self._mappers[bool(grid.sums_lie(nest.order))]

    @cached_property
    def _mappers(self) -> dict[bool, InnerMapper]:
        """By whether there is room for unfinished sums in SRAM."""
        return {
            False: InnerMapper(self._arch, self._formats, sram="results"),
            True: InnerMapper(self._arch, self._formats, sram="all"),
        }

    @staticmethod
    def _tile(mapping: Mapping, dims: str) -> tuple[int | None, ...]:
        return tuple(mapping.tile.get(dim) for dim in dims)
