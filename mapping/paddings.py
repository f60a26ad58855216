"""Burst padding of whole nests, a tensor's part remembered by the tiles that decide it."""

from __future__ import annotations

from collections.abc import Callable

from bfpsim.arch import Arch
from bfpsim.mapping.nest import RELEVANT, Nest, Tensor
from bfpsim.mapping.steps.bursts import input_padding, result_padding, sums_padding, weight_padding
from bfpsim.quant.formats import Format, LayerFormats


class Paddings:
    """What whole bursts move beyond the payload, of nests of one layer as stored."""

    def __init__(self, arch: Arch, formats: LayerFormats) -> None:
        self._arch, self._formats = arch, formats
        self._known: dict[object, int] = {}

    def inputs(self, nest: Nest) -> int:
        """Of all fetches of I [bit]."""
        fmt, dram, halo = self._formats.I, self._arch.dram, self._arch.dma.halo
        key = ("I", nest.loops, _tiles(nest, "I"))
        return self._once(key, lambda: input_padding(nest, fmt, dram.burst, halo))

    def weights(self, nest: Nest) -> int:
        """Of fetching every tile of W once [bit]."""
        fmt, burst = self._formats.W, self._arch.dram.burst
        return self._once(("W", _tiles(nest, "W")), lambda: weight_padding(nest, fmt, burst))

    def results(self, nest: Nest, fmt: Format | None = None) -> int:
        """Of moving every tile of O once as results, or in another format [bit]."""
        own, burst = fmt or self._formats.O, self._arch.dram.burst
        key = ("results", own, _tiles(nest, "O"))
        return self._once(key, lambda: result_padding(nest, own, burst))

    def sums(self, nest: Nest) -> int:
        """Of moving every tile of O once as partial sums [bit]."""
        width, burst = self._arch.pe_array.accumulator_bits, self._arch.dram.burst
        return self._once(("sums", _tiles(nest, "O")), lambda: sums_padding(nest, width, burst))

    def _once(self, key: object, count: Callable[[], int]) -> int:
        if key not in self._known:
            self._known[key] = count()
        return self._known[key]


def _tiles(nest: Nest, tensor: Tensor) -> tuple[int, ...]:
    return tuple(nest.tile[dim] for dim in RELEVANT[tensor])
