"""One layer on the machine: what the world outside it has, gives and takes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from amaranth.hdl import Value
from numpy.typing import NDArray

from bfpsim.arch import Arch
from bfpsim.mapping.fit import check
from bfpsim.mapping.models import stored
from bfpsim.mapping.nest import EVERY_DIM, REDUCTION, Mapping, MappingError
from bfpsim.mapping.steps.array import Tile
from bfpsim.mapping.steps.tiles import unrolled
from bfpsim.quant.formats import FormatError
from bfpsim.quant.formats.blocks import activation_block, spread
from bfpsim.quant.formats.exact import ExactArray
from bfpsim.quant.formats.quantize import Quantized
from bfpsim.sim.rtl.design import Design
from bfpsim.sim.rtl.engine import Engine
from bfpsim.sim.rtl.grid import ports
from bfpsim.sim.rtl.operands import NOTHING, Feed, Words, feed, room, words
from bfpsim.sim.rtl.signals import operand_bits
from bfpsim.workloads import ConvLayer


class TileRun(NamedTuple):
    """One tile on the array.

    tile: its ranges; cycles: that the machine was busy; beats: in which the first PE multiplied
    """

    tile: Tile
    cycles: int
    beats: int


class Session:
    """Brings a layer's operands to a machine, tile by tile, and takes its sums and results.

    inputs, weights: (N, H, W, channels) and (filters, C, R, S), in the formats of I and W
    top: E_top of the output
    stalls: whether memory has nothing to give, cycle by cycle

    Raises MappingError for a mapping that is not legal, for tiles larger than the accumulators, and
    for innermost tiles of O that cut blocks; FormatError for other operands.
    """

    def __init__(
        self,
        design: Design,
        arch: Arch,
        layer: ConvLayer,
        mapping: Mapping,
        inputs: Quantized,
        weights: Quantized,
        top: int,
        stalls: Iterator[bool],
    ) -> None:
        for name, given, shape, fmt in (
            ("input", inputs, layer.input_shape, design.formats.I),
            ("weight", weights, layer.weight_shape, design.formats.W),
        ):
            if (given.fmt, given.shape) != (fmt, shape):
                raise FormatError(
                    f"{layer.name} {name} is {given.fmt} of shape {given.shape}; allowed: {fmt} of "
                    f"shape {shape}"
                )
        self._design = design
        self._layer, self._top, self._stalls = layer, top, stalls
        self._inputs, self._weights = words(inputs), words(weights)
        self._base = _last_code(inputs) + _last_code(weights)
        self._unit = self._design.unit(inputs.top + weights.top, self._base)
        fmt = self._design.formats.O
        nest = check(stored(layer, arch), arch, mapping, self._design.formats).innermost
        ranges = unrolled(nest, len(nest.loops))
        self._extents = nest.extents
        self._tiles = [
            Tile(*(ranges[dim].at(step) for dim in EVERY_DIM)) for step in range(nest.steps)
        ]
        for tile in self._tiles:
            entries = room(self._design, tile)
            if entries > self._design.entries:
                raise MappingError(
                    f"{layer.name}: a tile has {entries} sums per bank of accumulators; allowed "
                    f"in RTL: {self._design.entries}"
                )
            if self._finishes(tile) and not _on_blocks(layer, tile, fmt.block_size):
                raise MappingError(
                    f"{layer.name}: innermost tiles of O cut blocks of {fmt}; allowed in RTL: "
                    "tiles that end on blocks"
                )
        shape = layer.output_shape
        block = activation_block(fmt, shape)
        blocks = [-(-extent // size) for extent, size in zip(shape, block, strict=True)]
        self._sums = np.zeros(shape, object)
        self._fields, self._codes = np.zeros(shape, np.int64), np.zeros(blocks, np.int64)
        self.runs: list[TileRun] = []
        """The tiles so far."""
        self.overflow = False
        """Whether a sum did not fit."""

    @property
    def sums(self) -> ExactArray:
        """The whole output's sums."""
        return ExactArray(self._sums, self._unit)

    @property
    def quantized(self) -> Quantized:
        """The output as the requantiser made it."""
        fmt = self._design.formats.O
        codes = self._codes if fmt.exponent_bits else np.empty(0, np.int64)
        block = activation_block(fmt, self._layer.output_shape)
        return Quantized(self._fields, codes, self._top, fmt, block)

    async def run(self, ctx: Any, engine: Engine) -> None:
        """Take all tiles; sums stay in the accumulators until a tile needs other ones.

        ctx: the simulator's
        """
        ctx.set(engine.base, self._base)
        ctx.set(engine.unit, self._unit)
        ctx.set(engine.top, self._top)
        resident: tuple[Tile, Feed] | None = None
        for tile in self._tiles:
            own = feed(self._design, self._layer, tile, self._inputs, self._weights)
            if resident is not None and _output(resident[0]) != _output(tile):
                await self._take_out(ctx, engine, *resident)
                resident = None
            resumes = any(getattr(tile, dim)[0] for dim in REDUCTION)
            if resumes and resident is None:
                await self._put_back(ctx, engine, tile, own)
            self.runs.append(TileRun(tile, *await self._compute(ctx, engine, own, resumes)))
            self.overflow |= bool(ctx.get(engine.overflow))
            resident = tile, own
            if self._finishes(tile):
                await self._requantise(ctx, engine, tile, own)
                resident = None

    async def _compute(self, ctx: Any, engine: Engine, own: Feed, resume: bool) -> tuple[int, int]:
        """Run a tile: give each port what it wants when it does; the cycles, and the beats."""
        kept, streams = self._supply(engine, own)
        length = {"length": own.length, "beats": own.length * self._design.passes}
        counts = {"groups": own.groups, "loads": own.loads}
        ctx.set(engine.tile, {**counts, **length, "resume": resume})
        ctx.set(engine.start, 1)
        await ctx.tick()
        ctx.set(engine.start, 0)
        cycles = beats = 0
        while ctx.get(engine.busy):
            if next(self._stalls):
                ctx.set(engine.enable, 0)
                await ctx.tick()
                ctx.set(engine.enable, 1)
                continue
            for port, vectors in kept:
                row = ctx.get(engine.preload)
                if row.valid:
                    ctx.set(port, vectors[row.load][row.index])
            element = ctx.get(engine.stream)
            beats += element.valid
            for port, vectors in streams:
                if element.valid:
                    ctx.set(port, vectors[element.load][element.index])
            await ctx.tick()
            cycles += 1
        return cycles, beats

    def _supply(self, engine: Engine, own: Feed) -> tuple[list[_Supply], list[_Supply]]:
        """What the port of what stays, and the streaming ports, are given."""
        kept: list[_Supply] = []
        streams: list[_Supply] = []
        for name, fmt, _ in ports(self._design):
            supply = _Supply(
                Value.cast(getattr(engine, name)),
                _packed(getattr(own, name), operand_bits(fmt)),
            )
            (kept if name == "kept" else streams).append(supply)
        return kept, streams

    async def _take_out(self, ctx: Any, engine: Engine, tile: Tile, own: Feed) -> None:
        """Read a tile's sums."""
        flat = np.zeros(_box(tile), object).reshape(-1)
        for (bank, address), place in np.ndenumerate(own.outputs):
            if place != NOTHING:
                ctx.set(engine.access, {"bank": bank, "address": address})
                await ctx.tick()
                flat[place] = ctx.get(engine.read)
        self._sums[self._place(tile)] = flat.reshape(_box(tile))

    async def _put_back(self, ctx: Any, engine: Engine, tile: Tile, own: Feed) -> None:
        """Write sums that were taken out before."""
        flat = self._sums[self._place(tile)].reshape(-1)
        for (bank, address), place in np.ndenumerate(own.outputs):
            if place != NOTHING:
                sum_ = {"bank": bank, "address": address, "sum": int(flat[place])}
                ctx.set(engine.access, {"write": 1, **sum_})
                await ctx.tick()
        ctx.set(engine.access, {"write": 0})

    async def _requantise(self, ctx: Any, engine: Engine, tile: Tile, own: Feed) -> None:
        """Send a tile's sums through the requantiser, a block at a time; see them on the way."""
        size = self._design.formats.O.block_size
        where = {int(place): at for at, place in np.ndenumerate(own.outputs)}
        every = zip(*(own.ravel() for own in np.broadcast_arrays(*self._place(tile))), strict=True)
        blocks: dict[tuple[int, ...], list[tuple[int, int]]] = {}
        for place, (n, p, q, channel) in enumerate(every):
            block = int(n), int(p), int(q), int(channel) // size
            blocks.setdefault(block, []).append((place, int(channel)))
        for (n, p, q, number), members in blocks.items():
            for place, channel in members:
                bank, address = where[place]
                ctx.set(engine.access, {"bank": bank, "address": address})
                ctx.set(engine.send, 1)
                ctx.set(engine.last, (place, channel) == members[-1])
                await ctx.tick()
                self._sums[n, p, q, channel] = ctx.get(engine.read)
            ctx.set(engine.send, 0)
            await ctx.tick()
            for _, channel in members:
                if not ctx.get(engine.result_valid):
                    raise RuntimeError(f"{self._layer.name}: no result of channel {channel}")
                self._fields[n, p, q, channel] = ctx.get(engine.mantissa)
                self._codes[n, p, q, number] = ctx.get(engine.code)
                await ctx.tick()

    def _place(self, tile: Tile) -> tuple[NDArray[np.int64], ...]:
        """Where a tile lies in the whole output."""
        n, p, q = (np.arange(*own) for own in (tile.N, tile.P, tile.Q))
        return np.ix_(n, p, q, _channels(self._layer, tile))

    def _finishes(self, tile: Tile) -> bool:
        """Whether the reduction of a tile's outputs ends with it."""
        return all(getattr(tile, dim)[1] == self._extents[dim] for dim in REDUCTION)


class _Supply(NamedTuple):
    """A port, and what it takes: (load, row or element)."""

    port: Any
    vectors: list[list[int]]


def _packed(vectors: Words | None, bits: int) -> list[list[int]]:
    """(load, vector) of lanes, each as the number that its port takes."""
    assert vectors is not None
    shifts = np.array([bits * lane for lane in range(vectors.shape[-1])], object)
    packed: list[list[int]] = (vectors.astype(object) << shifts).sum(axis=-1).tolist()
    return packed


def _last_code(q: Quantized) -> int:
    """The largest code of a block with any mantissa but 0."""
    if not q.fmt.exponent_bits:
        return 0
    codes = spread(q.codes, q.block, q.shape)
    return int(np.where(q.fields != 0, codes, 0).max(initial=0))


def _output(tile: Tile) -> tuple[object, ...]:
    """What names a tile of O."""
    return tile.N, tile.G, tile.K, tile.P, tile.Q


def _box(tile: Tile) -> tuple[int, int, int, int]:
    """Extents of a tile of O: n, p, q, channels."""
    sizes = tile.sizes
    return sizes["N"], sizes["P"], sizes["Q"], sizes["G"] * sizes["K"]


def _channels(layer: ConvLayer, tile: Tile) -> NDArray[np.int64]:
    """The output's channels that a tile makes."""
    return (np.arange(*tile.G)[:, None] * layer.K + np.arange(*tile.K)).ravel()


def _on_blocks(layer: ConvLayer, tile: Tile, size: int) -> bool:
    """Whether a tile of O holds all channels of every block that it holds some of."""
    channels = _channels(layer, tile)
    every = np.arange(layer.G * layer.K)
    return len(channels) == np.isin(every // size, channels // size).sum()
