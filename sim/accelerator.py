"""One layer on the accelerator: DMA engines, buffers and PE array as SimPy processes.

Time passes once per tile transfer and once per tile computed, never per word.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Generator
from dataclasses import dataclass, field
from typing import Any

import simpy

from arch import Arch
from mapping.boxes import ActivationBox, Volume, channel_intervals
from mapping.capacity import check, partial_sums_in_buffer
from mapping.counts import Counts, Direction, Kind
from mapping.dram_model import stored
from mapping.movement import OutputVisit, input_fetches, output_visits, weight_fetches
from mapping.nest import DIMS, Mapping, Nest, Tensor
from mapping.pe_array import ArrayTraffic, Tile, array_traffic, col_taps, row_taps
from quant.formats import LayerFormats, PartialSums
from quant.layout import ActivationLayout, WeightLayout
from sim.buffer import Memory, TileBuffer
from sim.channel import Channel
from sim.payload import Payload, Sizes
from sim.timeline import Activity, Timeline, Unit
from workloads import ConvLayer

Process = Generator[simpy.Event, None, None]

_ENGINES: dict[Tensor, Unit] = {"I": "dma I", "W": "dma W", "O": "dma O"}
_WAITS: dict[Tensor, Activity] = {"I": "wait I", "W": "wait W", "O": "wait O"}


@dataclass
class Tally:
    """What a run counted.

    cycles: from start to the last bit written; compute_cycles and stalls add up to it
    stalls: cycles the array waited, by the tensor whose tile came last; the final drain is O's
    dram_busy: cycles the channel moved bits
    peaks: most bits held at once, per SRAM
    steps, transfers: tiles computed, and tiles moved over the channel
    """

    counts: Counts = field(default_factory=Counts)
    cycles: int = 0
    compute_cycles: int = 0
    stalls: dict[Tensor, int] = field(default_factory=lambda: {"I": 0, "W": 0, "O": 0})
    dram_busy: int = 0
    peaks: dict[str, int] = field(default_factory=dict)
    steps: int = 0
    transfers: int = 0
    timeline: Timeline = field(default_factory=Timeline)


class Accelerator:
    """The machine running one layer under one legal mapping.

    payload: what the transfers carry; sizes by default

    Raises MappingError if the mapping is not legal.
    """

    def __init__(
        self,
        layer: ConvLayer,
        arch: Arch,
        mapping: Mapping,
        formats: LayerFormats,
        payload: Payload | None = None,
    ) -> None:
        self._layer = stored(layer, arch)
        self._arch = arch
        self._formats = formats
        self._nest = check(self._layer, arch, mapping, formats)
        self._payload = payload or Sizes(formats, arch.pe_array.accumulator_bits)
        self._tally = Tally()
        self._env = env = simpy.Environment()
        self._channel = Channel(env, arch.dram_bits_per_cycle)
        names: dict[Tensor, str] = {"I": "SRAM I", "W": "SRAM W", "O": "SRAM O"}
        if arch.shared:
            names = dict.fromkeys(names, "SRAM")
        self._memories = {
            name: Memory(name, arch.buffer(tensor).capacity) for tensor, name in names.items()
        }
        self._buffers = {
            tensor: TileBuffer(env, self._memories[name], self._slots(tensor))
            for tensor, name in names.items()
        }
        self._sums_in_buffer = partial_sums_in_buffer(self._nest, arch)
        self._visits_computed = 0
        self._visit_computed: simpy.Event | None = None
        self._moved: Counter[tuple[Tensor, Direction, Kind]] = Counter()
        self._tiles: Counter[tuple[ArrayTraffic, bool, bool, Volume]] = Counter()

    def run(self) -> Tally:
        """Run the layer to the last bit written."""
        env, tally = self._env, self._tally
        env.process(self._input_dma())
        env.process(self._weight_dma())
        env.process(self._array())
        env.run(until=env.process(self._output_dma()))
        self._count_transfers()
        self._count_array()
        tally.cycles = int(env.now)
        draining = tally.cycles - tally.compute_cycles - sum(tally.stalls.values())
        self._stall("O", tally.cycles - draining, tally.cycles, self._nest.steps - 1)
        tally.dram_busy = self._channel.busy
        tally.peaks = {name: memory.peak for name, memory in self._memories.items()}
        tally.steps = self._nest.steps
        return tally

    # --- DMA engines: one process per tensor -----------------------------------------------------

    def _input_dma(self) -> Process:
        layout = ActivationLayout(self._layer.input_shape, self._formats.I)
        padding = _Padding(layout, self._arch.dram.burst)
        buffer = self._buffers["I"]
        for tile, fetch in enumerate(input_fetches(self._nest, self._arch.dma.halo)):
            while buffer.full:
                yield buffer.vacancy()
            buffer.reserve(fetch.box.volume(self._formats.I).bits)
            moved = self._payload.fetch_input(fetch)
            if moved.bits:
                yield self._move("I", "read", _by_kind(moved), padding.of(fetch.new), tile)
            buffer.deliver()

    def _weight_dma(self) -> Process:
        layout = WeightLayout(self._layer.weight_shape, self._formats.W)
        padding = _Padding(layout, self._arch.dram.burst)
        buffer = self._buffers["W"]
        for tile, fetch in enumerate(weight_fetches(self._nest)):
            while buffer.full:
                yield buffer.vacancy()
            buffer.reserve(fetch.box.volume(self._formats.W).bits)
            moved = self._payload.fetch_weight(fetch)
            yield self._move("W", "read", _by_kind(moved), padding.of(fetch.box[:2]), tile)
            buffer.deliver()

    def _output_dma(self) -> Process:
        """Before tile number i takes a slot, the tile that had the slot is drained."""
        buffer = self._buffers["O"]
        shape, burst = self._layer.output_shape, self._arch.dram.burst
        accumulated = PartialSums(self._arch.pe_array.accumulator_bits)
        sums = _Padding(ActivationLayout(shape, accumulated), burst)
        results = _Padding(ActivationLayout(shape, self._formats.O), burst)
        resident: deque[tuple[int, OutputVisit]] = deque()
        for tile, visit in enumerate(output_visits(self._nest)):
            if buffer.full:
                yield from self._drain(*resident.popleft(), sums, results)
            resident.append((tile, visit))
            buffer.reserve(self._output_bits(visit))
            restored = self._payload.restore(visit)
            if restored:
                yield self._move("O", "read", {"psum": restored}, sums.of(visit.box), tile)
            buffer.deliver()
        while resident:
            yield from self._drain(*resident.popleft(), sums, results)

    def _drain(self, tile: int, visit: OutputVisit, sums: _Padding, results: _Padding) -> Process:
        while self._visits_computed <= tile:
            self._visit_computed = self._env.event()
            yield self._visit_computed
        if visit.finished:
            padding, moved = results, _by_kind(self._payload.store(visit))
        else:
            padding, moved = sums, {"psum": self._payload.spill(visit)}
        yield self._move("O", "write", moved, padding.of(visit.box), tile)
        self._buffers["O"].release()

    def _move(
        self, tensor: Tensor, direction: Direction, moved: dict[Kind, int], padding: int, tile: int
    ) -> simpy.Event:
        """Remember a transfer's bits, put it on the channel; the event of its completion."""
        for kind, part in moved.items():
            self._moved[tensor, direction, kind] += part
        self._moved[tensor, direction, "burst"] += padding
        bits = sum(moved.values()) + padding
        start, end = self._channel.request(bits)
        now = int(self._env.now)
        # The latency trails the channel: it delays what is read, and holds up nothing behind it.
        done = end + self._arch.dram_latency_cycles if direction == "read" else end
        timeline = self._tally.timeline
        timeline.add("dram", direction, start, end, bits, tile)
        timeline.add(_ENGINES[tensor], direction, now, done, bits, tile)
        self._tally.transfers += 1
        return self._env.timeout(done - now)

    def _count_transfers(self) -> None:
        """Count what every transfer moved, at both ends; burst padding stays at the DRAM."""
        counts = self._tally.counts
        for (tensor, direction, kind), bits in self._moved.items():
            counts.add("DRAM", tensor, direction, kind, bits)
            if kind != "burst":
                counts.add("SRAM", tensor, "write" if direction == "read" else "read", kind, bits)

    # --- PE array --------------------------------------------------------------------------------

    def _array(self) -> Process:
        env, nest, tally = self._env, self._nest, self._tally
        periods = {tensor: nest.period(tensor) for tensor in self._buffers}
        cost = _TileCosts(nest, self._arch, self._formats)
        for step, at in enumerate(nest.walk()):
            idle_since = int(env.now)
            latest, culprit = -1, None
            for tensor, buffer in self._buffers.items():
                if step % periods[tensor] == 0:
                    while not buffer.ready:
                        yield buffer.arrival()
                    arrived = buffer.begin_use()
                    if arrived > latest:
                        latest, culprit = arrived, tensor
            if culprit is not None:
                self._stall(culprit, idle_since, int(env.now), step)
            tile, one = cost.of(at)
            self._payload.compute(step, tile)
            self._count_tile(at, tile, one)
            tally.compute_cycles += one.cycles
            begin = int(env.now)
            tally.timeline.add("array", "compute", begin, begin + one.cycles, 0, step)
            yield env.timeout(one.cycles)
            for tensor in ("I", "W"):
                if (step + 1) % periods[tensor] == 0:
                    self._buffers[tensor].release()
            if (step + 1) % periods["O"] == 0:
                self._visits_computed += 1
                if self._visit_computed is not None:
                    event, self._visit_computed = self._visit_computed, None
                    event.succeed()

    def _count_tile(self, at: dict[str, int], tile: Tile, one: ArrayTraffic) -> None:
        """Remember a computed tile; `_count_array` adds equal ones up in one go."""
        finishes = at["C"] == self._nest.trips["C"] - 1
        result = Volume(0, 0)
        if finishes:
            channels = channel_intervals(tile.G, tile.K, self._layer.K)
            box = ActivationBox(tile.N, tile.P, tile.Q, channels)
            result = box.volume(self._formats.O)
        self._tiles[one, at["C"] > 0, finishes, result] += 1

    def _count_array(self) -> None:
        """Count the SRAM traffic of every computed tile."""
        counts = self._tally.counts
        for (one, resumes, finishes, result), tiles in self._tiles.items():
            counts.add("SRAM", "I", "read", "mantissa", one.input_mantissa * tiles)
            counts.add("SRAM", "I", "read", "exponent", one.input_exponent * tiles)
            counts.add("SRAM", "W", "read", "mantissa", one.weight_mantissa * tiles)
            counts.add("SRAM", "W", "read", "exponent", one.weight_exponent * tiles)
            sums = one.output_elements * self._arch.pe_array.accumulator_bits * tiles
            counts.add("SRAM", "O", "read", "psum", (one.reduction_folds - 1 + resumes) * sums)
            counts.add("SRAM", "O", "write", "psum", (one.reduction_folds - finishes) * sums)
            counts.add("SRAM", "O", "write", "mantissa", result.mantissa * tiles)
            counts.add("SRAM", "O", "write", "exponent", result.exponent * tiles)

    def _stall(self, tensor: Tensor, begin: int, end: int, step: int) -> None:
        """The array had nothing to do because the last tile it needed was `tensor`'s."""
        if end > begin:
            self._tally.stalls[tensor] += end - begin
            self._tally.timeline.add("array", _WAITS[tensor], begin, end, 0, step)

    # --- sizes -----------------------------------------------------------------------------------

    def _slots(self, tensor: Tensor) -> int:
        return 2 if self._arch.buffer(tensor).double_buffered else 1

    def _output_bits(self, visit: OutputVisit) -> int:
        """The most that the tile takes: its results, and its partial sums if they lie here too."""
        results = visit.box.volume(self._formats.O).bits
        if not self._sums_in_buffer:
            return results
        channels = sum(high - low for low, high in visit.box.channels)
        return max(results, visit.box.pixels * channels * self._arch.pe_array.accumulator_bits)


def _by_kind(moved: Volume) -> dict[Kind, int]:
    return {"mantissa": moved.mantissa, "exponent": moved.exponent}


class _Padding:
    """Burst padding of transfers of one packed tensor; those that lie alike are priced once."""

    def __init__(self, layout: ActivationLayout | WeightLayout, burst: int) -> None:
        self._layout, self._burst = layout, burst
        self._known: dict[tuple[object, ...], int] = {}

    def of(self, box: tuple[Any, ...]) -> int:
        if self._burst == 1:
            return 0
        place = self._layout.burst_place(self._burst, *box)
        if place not in self._known:
            self._known[place] = self._layout.runs(*box).burst_padding(self._burst)
        return self._known[place]


class _TileCosts:
    """Cost of each tile, computed once per kind: sizes, taps on stored rows, cuts of channels."""

    def __init__(self, nest: Nest, arch: Arch, formats: LayerFormats) -> None:
        self._nest, self._array, self._formats = nest, arch.pe_array, formats
        self._spans = {dim: nest.spans(dim) for dim in DIMS}
        layer = nest.layer
        self._rows = [row_taps(layer, p) for p in self._spans["P"]]
        self._cols = [col_taps(layer, q) for q in self._spans["Q"]]
        self._known: dict[object, ArrayTraffic] = {}

    def of(self, at: dict[str, int]) -> tuple[Tile, ArrayTraffic]:
        tile = Tile(*[self._spans[dim][at[dim]] for dim in DIMS])
        n, p, q = tile.N, tile.P, tile.Q
        key = (
            n[1] - n[0],
            tile[1:4],
            (p[1] - p[0], self._rows[at["P"]]),
            (q[1] - q[0], self._cols[at["Q"]]),
        )
        if key not in self._known:
            self._known[key] = array_traffic(self._nest.layer, tile, self._array, self._formats)
        return tile, self._known[key]
