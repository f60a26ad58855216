"""What goes on inside the tile steps of SRAM: the levels between it and the array, and the array.

The array takes the innermost tiles one after the other. What an inner level takes in for a tile of
its own belongs to the first of them that uses it, what it gives away to the last. A tile lasts as
long as the array computes, or as the ports take for what moves meanwhile; what a level without a
second half takes in and gives away comes on top.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import gcd, lcm, prod
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import numpy as np

from bfpsim.mapping.counts import Direction, Flow, Kind
from bfpsim.mapping.nest import EVERY_DIM, REDUCTION, TENSORS, Nest, Tensor
from bfpsim.mapping.registers import on_lanes
from bfpsim.mapping.steps.array import Tile, array_traffic, tile_cycles
from bfpsim.mapping.steps.copies import copies, input_copies, weight_copies
from bfpsim.mapping.steps.tiles import (
    Ranges,
    Turns,
    Vector,
    distinct,
    input_tiles,
    output_tiles,
    unrolled,
    weight_tiles,
)
from bfpsim.mapping.steps.volumes import box_bits, weight_bits
from bfpsim.mapping.window import Window
from bfpsim.quant.formats import LayerFormats, PartialSums

if TYPE_CHECKING:
    from bfpsim.arch import Arch, Level, PEArray
    from bfpsim.workloads import ConvLayer

Port = tuple[str, Direction]
"""The reads, or the writes, of a memory by its name."""

STORED: tuple[Kind, Kind] = ("mantissa", "exponent")
"""What a tensor in its format is made of."""


@dataclass(frozen=True, eq=False)
class Inside:
    """Cycles and bits of every step of SRAM.

    steady: that lanes multiply; computing: filling and draining too; lasting: until all is done
    bits: by flow, those of flows that there are
    """

    steady: Vector
    computing: Vector
    lasting: Vector
    bits: dict[Flow, Vector]


def inside(
    nest: Nest, arch: Arch, formats: LayerFormats, by_dma: dict[Port, Vector] | None = None
) -> Inside:
    """All that goes on inside the steps of a nest.

    by_dma: where the DMA engines share SRAM's ports, what they move for every step [bit]
    """
    first = unrolled(nest.innermost, len(nest.loops)).begins
    ledger = _Ledger(arch, nest.innermost.steps)
    if arch.registers is None:
        steady, computing = _array(nest.innermost, arch, formats, ledger)
    else:
        steady, computing = _lanes(nest.innermost, arch, formats, ledger)
    outside: dict[Tensor, Level] = dict.fromkeys(TENSORS, arch.levels[1])
    for level, own in zip(arch.levels[2:], nest.inner, strict=True):
        starts = np.append(unrolled(nest.innermost, len(own.loops)).begins, nest.innermost.steps)
        for tensor in level.memories:
            boundary = _Boundary(tensor, outside[tensor], level, own, starts)
            count = _results_and_sums if tensor == "O" else _fetches
            count(boundary, arch, formats, ledger)
            outside[tensor] = level
    last = np.append(first[1:], nest.innermost.steps) - 1
    for port, bits in (by_dma or {}).items():  # written into SRAM for a step, or read behind it
        ledger.carry(port, first if port[1] == "write" else last, bits, waits=False)
    lasting = ledger.lasting(computing)
    if not nest.inner:
        return Inside(steady, computing, lasting, ledger.bits)
    by_step = {flow: np.add.reduceat(own, first) for flow, own in ledger.bits.items()}
    return Inside(
        np.add.reduceat(steady, first),
        np.add.reduceat(computing, first),
        np.add.reduceat(lasting, first),
        by_step,
    )


class _Ledger:
    """What every tile of the array moves: bits by flow, and by port that limits it.

    Through a port the array's own bits and those of double-buffered levels pass while it computes;
    what a level without a second half moves, the array waits for.
    """

    def __init__(self, arch: Arch, tiles: int) -> None:
        self._tiles = tiles
        self.bits: dict[Flow, Vector] = {}
        self._widths: dict[Port, int] = {}
        for level in arch.levels:
            for tensor, buffer in level.buffers.items():
                memory, ports = level.memories[tensor], buffer.ports
                if ports.read is not None:
                    self._widths[memory, "read"] = ports.read
                if ports.write is not None:
                    self._widths[memory, "write"] = ports.write
        self._along: dict[Port, Vector] = {}
        self._waited: dict[Port, Vector] = {}

    def move(
        self,
        level: Level,
        tensor: Tensor,
        direction: Direction,
        kind: Kind,
        at: Vector | slice,
        bits: Vector,
        waits: bool = False,
    ) -> None:
        """Count bits of the tiles at some places."""
        if bits.any():
            flow = Flow(level.name, tensor, direction, kind)
            if flow not in self.bits:
                self.bits[flow] = np.zeros(self._tiles, np.int64)
            self.bits[flow][at] += bits
            self.carry((level.memories[tensor], direction), at, bits, waits)

    def carry(self, port: Port, at: Vector | slice, bits: Vector, waits: bool) -> None:
        """Let bits pass a port, if it has a limit."""
        if port in self._widths:
            passing = self._waited if waits else self._along
            if port not in passing:
                passing[port] = np.zeros(self._tiles, np.int64)
            passing[port][at] += bits

    def lasting(self, computing: Vector) -> Vector:
        """Cycles of every tile, given those that the array computes."""
        lasting = computing
        for port, bits in self._along.items():
            lasting = np.maximum(lasting, -(-bits // self._widths[port]))
        waiting = np.zeros(1, np.int64)
        for port, bits in self._waited.items():
            waiting = np.maximum(waiting, -(-bits // self._widths[port]))
        return lasting + waiting


def _array(nest: Nest, arch: Arch, formats: LayerFormats, ledger: _Ledger) -> tuple[Vector, Vector]:
    """Count what the array exchanges with the levels that hold its operands; its cycles."""
    ranges = unrolled(nest, len(nest.loops))
    resumes, finishes = np.zeros(nest.steps, bool), np.ones(nest.steps, bool)
    for dim in REDUCTION:
        if dim in ranges.cut:
            resumes |= ranges[dim].low > 0
            finishes &= ranges[dim].high == nest.extents[dim]
    each = _each(nest, ranges, array_traffic, arch, formats)

    def move(tensor: Tensor, direction: Direction, kind: Kind, bits: Vector) -> None:
        ledger.move(arch.holder(tensor), tensor, direction, kind, slice(None), bits)

    move("I", "read", "mantissa", each["input_mantissa"])
    move("I", "read", "exponent", each["input_exponent"])
    move("W", "read", "mantissa", each["weight_mantissa"])
    move("W", "read", "exponent", each["weight_exponent"])
    sums = each["output_elements"] * arch.pe_array.accumulator_bits
    folds = each["reduction_folds"]
    move("O", "read", "psum", (folds - 1 + resumes) * sums)
    if arch.accumulators is not None:  # accumulators keep sums, the last fold's too
        move("O", "write", "psum", folds * sums)
        return each["steady"], each["cycles"]
    move("O", "write", "psum", (folds - finishes) * sums)
    outputs = output_tiles(nest)
    visit = np.searchsorted(outputs.visits.begins, np.arange(nest.steps), side="right") - 1
    for kind, bits in zip(STORED, box_bits(outputs.resident, formats.O), strict=True):
        move("O", "write", kind, bits[visit] * finishes)
    return each["steady"], each["cycles"]


def _lanes(nest: Nest, arch: Arch, formats: LayerFormats, ledger: _Ledger) -> tuple[Vector, Vector]:
    """Count what every multiply-accumulate reads and writes in its PE's registers; cycles."""
    ranges, level = unrolled(nest, len(nest.loops)), arch.levels[-1]
    length = {dim: ranges[dim].lengths for dim in EVERY_DIM}
    rows, cols = (
        Window.of(nest.layer, out).pairs(*ranges[out], *ranges[taps]) for out, taps in ("PR", "QS")
    )
    one = np.ones(nest.steps, np.int64)
    products = prod((length[dim] for dim in EVERY_DIM), start=one)
    inputs = prod((length[dim] for dim in "NGKC"), start=one) * rows * cols  # none of padding
    width, every = arch.pe_array.accumulator_bits, slice(None)
    ledger.move(level, "I", "read", "mantissa", every, inputs * formats.I.mantissa_bits)
    ledger.move(level, "W", "read", "mantissa", every, products * formats.W.mantissa_bits)
    ledger.move(level, "O", "write", "psum", every, products * width)
    # A PE's first sum of a visit finds another one only where it came back.
    outputs, reads = output_tiles(nest), products.copy()
    elements, _ = box_bits(outputs.resident, PartialSums(1))
    reads[outputs.visits.begins] -= elements * (
        copies(outputs.visits, nest, arch, "O") - outputs.resumed
    )
    ledger.move(level, "O", "read", "psum", every, reads * width)
    each = _each(nest, ranges, tile_cycles, arch, formats)
    return each["steady"], each["cycles"]


Of = TypeVar("Of", bound=NamedTuple)


def _each(
    nest: Nest,
    ranges: Turns,
    count: Callable[[ConvLayer, Tile, PEArray, LayerFormats], Of],
    arch: Arch,
    formats: LayerFormats,
) -> dict[str, Vector]:
    """What some count of the array's tiles gives, by field; alike tiles are counted once."""
    columns = []
    for dim in EVERY_DIM:
        if dim in ranges.cut:
            columns += _same_cost(dim, ranges[dim], nest.layer, formats)
    firsts, which = np.zeros(1, np.int64), np.zeros(len(ranges), np.int64)
    if columns:
        firsts, which = distinct(columns)
    edges = (zip(*(own[firsts].tolist() for own in ranges[dim]), strict=True) for dim in EVERY_DIM)
    tiles = [Tile(*tile) for tile in zip(*edges, strict=True)]
    counts = [count(nest.layer, tile, arch.pe_array, formats) for tile in tiles]
    return {
        name: np.array(own, np.int64)[which]
        for name, own in zip(counts[0]._fields, zip(*counts, strict=True), strict=True)
    }


def _same_cost(dim: str, ranges: Ranges, layer: ConvLayer, formats: LayerFormats) -> list[Vector]:
    """Of a dimension's range, what a tile's cost depends on: extent, padding met, blocks cut."""
    if dim in "PQ":
        return [_alike(ranges, Window.of(layer, dim).uses)]
    if dim in "RS":
        return [ranges.low, ranges.lengths]
    inputs, weights = (fmt.block_size if fmt.exponent_bits else 1 for fmt in (formats.I, formats.W))
    # After as many indices, cuts of blocks repeat. Blocks of W run along C, or along the filters.
    filters = weights if layer.C == 1 else 1
    turn = {
        "N": 1,
        "G": lcm(inputs // gcd(inputs, layer.C), filters // gcd(filters, layer.K)),
        "K": filters,
        "C": lcm(inputs, weights),
    }[dim]
    return [ranges.low % turn, ranges.lengths]


def _alike(ranges: Ranges, uses: Callable[[tuple[int, int]], tuple[int, ...]]) -> Vector:
    """A number per range; equal ones are as long and meet the same padding."""
    lows, which = np.unique(ranges.low, return_inverse=True)
    highs = np.zeros_like(lows)
    highs[which] = ranges.high
    known: dict[object, int] = {}
    kinds = [
        known.setdefault((high - low, uses((low, high))), len(known))
        for low, high in zip(lows.tolist(), highs.tolist(), strict=True)
    ]
    return np.array(kinds, np.int64)[which]


@dataclass(frozen=True, eq=False)
class _Boundary:
    """Where a tensor passes from the level that holds it outside to the next one.

    nest: of the level; starts: the array's tile at which each of its steps begins, and their end
    """

    tensor: Tensor
    outside: Level
    level: Level
    nest: Nest
    starts: Vector

    @property
    def waits(self) -> bool:
        """Whether the array waits for what passes."""
        return not self.level.buffers[self.tensor].double_buffered


def _fetches(boundary: _Boundary, arch: Arch, formats: LayerFormats, ledger: _Ledger) -> None:
    """Count what a level takes in of I or W."""
    tensor, nest, level = boundary.tensor, boundary.nest, boundary.level
    fmt, in_pes = formats.of(tensor), level is arch.registers
    if tensor == "I":
        inputs = input_tiles(nest, arch.dma.halo, on_lanes(arch.pe_array) if in_pes else ())
        visits, each = inputs.visits, box_bits(inputs.fetched, fmt)
        written = input_copies(inputs, nest, arch, fmt) if in_pes else each
    else:
        weights = weight_tiles(nest)
        visits, each = weights.visits, weight_bits(weights, fmt, nest.layer.C == 1)
        written = weight_copies(weights, nest, arch, fmt) if in_pes else each
    at = boundary.starts[visits.begins]
    for kind, bits, inside in zip(STORED, each, written, strict=True):
        ledger.move(boundary.outside, tensor, "read", kind, at, bits, boundary.waits)
        ledger.move(level, tensor, "write", kind, at, inside, boundary.waits)
    if in_pes:  # a code is read once, when it comes
        ledger.move(level, tensor, "read", "exponent", at, written[1])


def _results_and_sums(
    boundary: _Boundary, arch: Arch, formats: LayerFormats, ledger: _Ledger
) -> None:
    """Count the sums of O that a level takes in, and what it gives away."""
    outside, level, waits = boundary.outside, boundary.level, boundary.waits
    outputs = output_tiles(boundary.nest)
    begins = boundary.starts[outputs.visits.begins]
    last = boundary.starts[outputs.visits.ends] - 1
    elements, _ = box_bits(outputs.resident, PartialSums(1))
    sums = elements * arch.pe_array.accumulator_bits
    results = box_bits(outputs.resident, formats.O)
    ledger.move(outside, "O", "read", "psum", begins, sums * outputs.resumed, waits)
    ledger.move(level, "O", "write", "psum", begins, sums * outputs.resumed, waits)
    ledger.move(outside, "O", "write", "psum", last, sums * ~outputs.finished, waits)
    for kind, bits in zip(STORED, results, strict=True):
        ledger.move(outside, "O", "write", kind, last, bits * outputs.finished, waits)
    if level is arch.accumulators:  # accumulators hold sums, finished or not
        if level is arch.registers:  # every PE that added to a sum has its own
            sums = sums * copies(outputs.visits, boundary.nest, arch, "O")
        ledger.move(level, "O", "read", "psum", last, sums, waits)
        return
    ledger.move(level, "O", "read", "psum", last, sums * ~outputs.finished, waits)
    for kind, bits in zip(STORED, results, strict=True):
        ledger.move(level, "O", "read", kind, last, bits * outputs.finished, waits)
