"""Runs layers on the machine in Amaranth's simulator, tile by tile as they are mapped."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from amaranth.hdl import Value
from amaranth.sim import Simulator
from numpy.typing import NDArray

from bfpsim.arch import Arch
from bfpsim.mapping.fit import check
from bfpsim.mapping.models import stored
from bfpsim.mapping.nest import EVERY_DIM, REDUCTION, Mapping, MappingError
from bfpsim.mapping.steps.array import Tile
from bfpsim.mapping.steps.tiles import unrolled
from bfpsim.quant.formats import LayerFormats
from bfpsim.quant.formats.blocks import activation_block
from bfpsim.quant.formats.exact import ExactArray
from bfpsim.quant.formats.quantize import Quantized
from bfpsim.sim.rtl.design import Design, design_of
from bfpsim.sim.rtl.engine import Engine
from bfpsim.sim.rtl.grid import ports
from bfpsim.sim.rtl.operands import Feed, Words, feed, words
from bfpsim.sim.rtl.signals import operand_bits
from bfpsim.workloads import ConvLayer

Sums = NDArray[Any]
"""Whole numbers of the machine's unit, of a tile of O (n, p, q, channels)."""


@dataclass(frozen=True)
class TileRun:
    """One tile on the array.

    tile: its ranges; cycles: that the machine was busy; beats: in which the first PE multiplied
    """

    tile: Tile
    cycles: int
    beats: int


@dataclass(frozen=True, eq=False)
class LayerRun:
    """A layer on the machine.

    tiles: in the order they ran; sums: of the whole output, (N, P, Q, channels)
    quantized: the output as the requantiser made it
    overflow: whether a sum did not fit into the accumulators; then sums are wrong
    """

    tiles: tuple[TileRun, ...]
    sums: ExactArray
    quantized: Quantized
    overflow: bool

    @property
    def cycles(self) -> int:
        """Of all tiles."""
        return sum(run.cycles for run in self.tiles)

    @property
    def beats(self) -> int:
        """Cycles, of all tiles, in which the first PE multiplied."""
        return sum(run.beats for run in self.tiles)


class Twin:
    """A machine in Amaranth's simulator, compiled once, that runs one layer after another."""

    def __init__(
        self,
        arch: Arch,
        formats: LayerFormats,
        *,
        stages: int = 0,
        entries: int | None = None,
    ) -> None:
        """Build the machine; parameters and errors are those of `design_of`."""
        self.arch, self.formats = arch, formats
        self.design = design_of(arch, formats, stages=stages, entries=entries)
        self.engine = Engine(self.design)
        self._simulator: Simulator | None = None
        self._session: _Session | None = None

    def run(
        self,
        layer: ConvLayer,
        mapping: Mapping,
        inputs: Quantized,
        weights: Quantized,
        top: int,
        stalls: Iterator[bool] | None = None,
    ) -> LayerRun:
        """Run a layer as it is mapped.

        inputs, weights: (N, H, W, channels) and (filters, C, R, S), in the formats of I and W
        top: E_top of the output
        stalls: whether memory has nothing to give, in each further cycle; the machine waits then

        Raises MappingError for a mapping that is not legal, for tiles larger than the
        accumulators, and for innermost tiles of O that cut a block.
        """
        session = _Session(self, layer, mapping, inputs, weights, top, stalls)
        self._session = session
        if self._simulator is None:
            self._simulator = Simulator(self.engine)
            self._simulator.add_clock(1 / float(self.arch.clock))
            self._simulator.add_testbench(self._bench)
        else:
            self._simulator.reset()
        self._simulator.run()
        return session.result()

    async def _bench(self, ctx: Any) -> None:
        assert self._session is not None
        await self._session.run(ctx)


class _Session:
    """One layer on a twin: what the world outside the machine has and does."""

    def __init__(
        self,
        twin: Twin,
        layer: ConvLayer,
        mapping: Mapping,
        inputs: Quantized,
        weights: Quantized,
        top: int,
        stalls: Iterator[bool] | None,
    ) -> None:
        self._engine, self._design = twin.engine, twin.design
        self._layer, self._top = layer, top
        self._inputs, self._weights = words(inputs), words(weights)
        self._stalls = stalls
        self._unit = self._design.unit(inputs.top, weights.top)
        kept = stored(layer, twin.arch)
        nest = check(kept, twin.arch, mapping, twin.formats).innermost
        ranges = unrolled(nest, len(nest.loops))
        self._tiles = [
            Tile(*(ranges[dim].at(step) for dim in EVERY_DIM)) for step in range(nest.steps)
        ]
        self._extents = nest.extents
        fmt = twin.formats.O
        for tile in self._tiles:
            if _finishes(tile, nest.extents) and not _on_blocks(layer, tile, fmt.block_size):
                raise MappingError(
                    f"{layer.name}: innermost tiles of O cut blocks of {fmt}; allowed in RTL: "
                    "tiles that end on blocks"
                )
        shape = layer.output_shape
        blocks = tuple(-(-n // b) for n, b in zip(shape, activation_block(fmt, shape), strict=True))
        self._sums = np.zeros(shape, object)
        self._fields, self._codes = np.zeros(shape, np.int64), np.zeros(blocks, np.int64)
        self._runs: list[TileRun] = []
        self._overflow = False

    def result(self) -> LayerRun:
        """What came out."""
        fmt = self._design.formats.O
        codes = self._codes if fmt.exponent_bits else np.empty(0, np.int64)
        block = activation_block(fmt, self._layer.output_shape)
        quantized = Quantized(self._fields, codes, self._top, fmt, block)
        sums = ExactArray(self._sums, self._unit)
        return LayerRun(tuple(self._runs), sums, quantized, self._overflow)

    async def run(self, ctx: Any) -> None:
        """Take all tiles; sums stay in the accumulators until a tile needs other ones."""
        engine = self._engine
        ctx.set(engine.unit, self._unit)
        ctx.set(engine.top, self._top)
        inside: tuple[Tile, Feed] | None = None
        for tile in self._tiles:
            own = feed(self._design, self._layer, tile, self._inputs, self._weights)
            entries = own.outputs.shape[1]
            if entries > self._design.entries:
                raise MappingError(
                    f"{self._layer.name}: a tile has {entries} sums per bank of accumulators; "
                    f"allowed: {self._design.entries}"
                )
            begins = all(getattr(tile, dim)[0] == 0 for dim in REDUCTION)
            if inside is not None and _output(inside[0]) != _output(tile):
                await self._take_out(ctx, *inside)
                inside = None
            if inside is None and not begins:
                await self._put_back(ctx, tile, own)
            await self._compute(ctx, tile, own, resume=not begins)
            inside = tile, own
            if _finishes(tile, self._extents):
                await self._take_out(ctx, tile, own)
                await self._requantise(ctx, tile, own)
                inside = None

    async def _compute(self, ctx: Any, tile: Tile, own: Feed, *, resume: bool) -> None:
        """Run a tile: give each port what it wants, in the cycle in which it does."""
        engine, design = self._engine, self._design
        streams, kept = {}, []
        for name, fmt, _ in ports(design):
            vectors = _packed(getattr(own, name), operand_bits(fmt))
            port = Value.cast(getattr(engine, name))
            if name == "kept":
                kept = [(port, vectors)]
            else:
                streams[name] = (port, vectors)
        ctx.set(
            engine.tile,
            {
                "groups": own.groups,
                "loads": own.loads,
                "length": own.length,
                "beats": own.length * design.passes,
                "resume": resume,
            },
        )
        ctx.set(engine.start, 1)
        await ctx.tick()
        ctx.set(engine.start, 0)
        cycles = beats = 0
        while ctx.get(engine.busy):
            if self._stalls is not None and next(self._stalls):
                ctx.set(engine.enable, 0)
                await ctx.tick()
                ctx.set(engine.enable, 1)
                continue
            for port, vectors in kept:
                if ctx.get(engine.preload.valid):
                    load, row = ctx.get(engine.preload.load), ctx.get(engine.preload.index)
                    ctx.set(port, vectors[load][row])
            if ctx.get(engine.stream.valid):
                beats += 1
                load, element = ctx.get(engine.stream.load), ctx.get(engine.stream.index)
                for port, vectors in streams.values():
                    ctx.set(port, vectors[load][element])
            await ctx.tick()
            cycles += 1
        self._overflow |= bool(ctx.get(engine.overflow))
        self._runs.append(TileRun(tile, cycles, beats))

    async def _take_out(self, ctx: Any, tile: Tile, own: Feed) -> None:
        """Read a tile's sums."""
        flat = np.zeros(_box(tile), object).reshape(-1)
        for (bank, address), place in np.ndenumerate(own.outputs):
            if place >= 0:
                ctx.set(self._engine.access, {"bank": bank, "address": address})
                await ctx.tick()
                flat[place] = ctx.get(self._engine.read)
        self._sums[self._place(tile)] = flat.reshape(_box(tile))

    async def _put_back(self, ctx: Any, tile: Tile, own: Feed) -> None:
        """Write sums that were taken out before."""
        flat = self._sums[self._place(tile)].reshape(-1)
        for (bank, address), place in np.ndenumerate(own.outputs):
            if place >= 0:
                value = int(flat[place])
                where = {"write": 1, "bank": bank, "address": address, "sum": value}
                ctx.set(self._engine.access, where)
                await ctx.tick()
        ctx.set(self._engine.access, {"write": 0})

    async def _requantise(self, ctx: Any, tile: Tile, own: Feed) -> None:
        """Send a tile's sums through the requantiser, block by block."""
        engine, fmt = self._engine, self._design.formats.O
        where = {
            int(place): at for at, place in np.ndenumerate(own.outputs) if place >= 0
        }  # element of the tile -> (bank, address)
        box = _box(tile)
        channels = _channels(self._layer, tile)
        for pixel in np.ndindex(box[:3]):
            n, p, q = (low[0] + at for low, at in zip((tile.N, tile.P, tile.Q), pixel, strict=True))
            first = np.ravel_multi_index((*pixel, 0), box)
            for block in np.unique(channels // fmt.block_size):
                members = np.flatnonzero(channels // fmt.block_size == block)
                for at in members:
                    bank, address = where[int(first + at)]
                    ctx.set(engine.access, {"bank": bank, "address": address})
                    ctx.set(engine.send, 1)
                    ctx.set(engine.last, int(at == members[-1]))
                    await ctx.tick()
                ctx.set(engine.send, 0)
                await ctx.tick()
                for at in members:
                    assert ctx.get(engine.result_valid)
                    self._fields[n, p, q, channels[at]] = ctx.get(engine.mantissa)
                    self._codes[n, p, q, block] = ctx.get(engine.code)
                    await ctx.tick()

    def _place(self, tile: Tile) -> tuple[NDArray[np.int64], ...]:
        """Where a tile lies in the whole output."""
        n, p, q = (np.arange(*own) for own in (tile.N, tile.P, tile.Q))
        return np.ix_(n, p, q, _channels(self._layer, tile))


def _packed(vectors: Words, bits: int) -> list[list[int]]:
    """(load, vector) of lanes, each as the number that its port takes."""
    shifts = np.array([bits * lane for lane in range(vectors.shape[-1])], object)
    packed: list[list[int]] = (vectors.astype(object) << shifts).sum(axis=-1).tolist()
    return packed


def _output(tile: Tile) -> tuple[object, ...]:
    """What names a tile of O."""
    return tile.N, tile.G, tile.K, tile.P, tile.Q


def _finishes(tile: Tile, extents: dict[str, int]) -> bool:
    return all(getattr(tile, dim)[1] == extents[dim] for dim in REDUCTION)


def _on_blocks(layer: ConvLayer, tile: Tile, block: int) -> bool:
    """Whether a tile of O holds all channels of every block that it holds some of."""
    channels = _channels(layer, tile)
    every = np.arange(layer.G * layer.K)
    touched = every[np.isin(every // block, channels // block)]
    return len(touched) == len(channels)


def _channels(layer: ConvLayer, tile: Tile) -> NDArray[np.int64]:
    """The output's channels that a tile makes."""
    return (np.arange(*tile.G)[:, None] * layer.K + np.arange(*tile.K)).ravel()


def _box(tile: Tile) -> tuple[int, int, int, int]:
    """Extents of a tile of O: n, p, q, channels."""
    sizes = tile.sizes
    return sizes["N"], sizes["P"], sizes["Q"], sizes["G"] * sizes["K"]
