"""One layer on the accelerator: DMA engines, buffers and PE array as SimPy processes.

Time passes once per tile transfer and once per tile computed, never per word. Without data, what
a run would do once more is not run again (`sim.recurrence`); it counts all the same.
"""

from __future__ import annotations

from collections.abc import Generator, Hashable
from dataclasses import dataclass, field
from functools import partial
from itertools import compress
from typing import TYPE_CHECKING

import numpy as np
import simpy

from bfpsim.arch import Arch, DeviceDram
from bfpsim.mapping.channel import Timing
from bfpsim.mapping.counts import KINDS, Counts, Direction
from bfpsim.mapping.fit import check
from bfpsim.mapping.models import stored
from bfpsim.mapping.nest import TENSORS, Mapping, Tensor
from bfpsim.mapping.steps.dram import Addresses, Service
from bfpsim.mapping.steps.price import in_use, streams_of
from bfpsim.mapping.steps.volumes import Moved
from bfpsim.quant.formats import LayerFormats
from bfpsim.sim.buffer import Memory, TileBuffer
from bfpsim.sim.channel import BankedChannel, Channel
from bfpsim.sim.clock import Clock
from bfpsim.sim.counters import Counters
from bfpsim.sim.recurrence import SHORTEST, Moment, Recurrence
from bfpsim.sim.timeline import Activity, Stream, Timeline, Unit
from bfpsim.workloads import ConvLayer

if TYPE_CHECKING:
    from bfpsim.sim.functional import Data

Process = Generator[simpy.Event, None, None]

_ENGINES: dict[Tensor, Unit] = {"I": "dma I", "W": "dma W", "O": "dma O"}
_WAITS: dict[Tensor, Activity] = {"I": "wait I", "W": "wait W", "O": "wait O"}
_TRANSFERS: tuple[tuple[Tensor, Direction], ...] = (
    ("I", "read"),
    ("W", "read"),
    ("O", "read"),
    ("O", "write"),
)


@dataclass
class Tally:
    """What a run counted.

    cycles: from start to the last bit written: those that lanes multiply (steady), that the array
        fills and drains, that it waits for ports inside SRAM, and stalls
    stalls: cycles the array waited, by the tensor whose tile came last; the final drain is O's
    dram_busy: cycles the channel moved bits
    activates: rows that a DRAM device opened
    peaks: most bits held at once, per SRAM
    steps, transfers: tiles computed, and tiles moved over the channel
    """

    counts: Counts = field(default_factory=Counts)
    cycles: int = 0
    steady_cycles: int = 0
    fill_cycles: int = 0
    port_cycles: int = 0
    stalls: dict[Tensor, int] = field(default_factory=lambda: {"I": 0, "W": 0, "O": 0})
    dram_busy: int = 0
    activates: int = 0
    peaks: dict[str, int] = field(default_factory=dict)
    steps: int = 0
    transfers: int = 0
    timeline: Timeline = field(default_factory=Timeline)


class Accelerator:
    """The machine running one layer under one legal mapping.

    data: what the transfers carry; without it, sizes only
    every_step: run every step, also those whose outcome is known

    Raises MappingError if the mapping is not legal.
    """

    def __init__(
        self,
        layer: ConvLayer,
        arch: Arch,
        mapping: Mapping,
        formats: LayerFormats,
        data: Data | None = None,
        every_step: bool = False,
    ) -> None:
        self._layer = layer = stored(layer, arch)
        self._arch = arch
        self._nest = nest = check(layer, arch, mapping, formats)
        self._data = data
        self._tally = Tally()
        banked = isinstance(arch.dram, DeviceDram) and arch.dram.timing == "banked"
        # Where rows are open is no state that recurs.
        repeats = data is None and not every_step and not banked and nest.steps >= SHORTEST
        self._clock = Clock() if repeats else None
        self._env = env = self._clock or simpy.Environment()
        self._counters = Counters(
            ["transfers", "channel busy", "activates"]
            + [("stalled", tensor) for tensor in TENSORS]
            + [(*transfer, kind) for transfer in _TRANSFERS for kind in KINDS]
        )
        self._timing = Timing.of(arch)
        self._channel = BankedChannel(env, arch) if banked else Channel(env, self._timing)
        self._addresses = Addresses(nest, arch, formats) if banked else None
        names = arch.levels[1].memories
        self._memories = {
            name: Memory(name, arch.buffer(tensor).capacity) for tensor, name in names.items()
        }
        self._buffers = {
            tensor: TileBuffer(env, self._memories[name], self._slots(tensor))
            for tensor, name in names.items()
        }
        streams = streams_of(nest, arch, formats)
        self._stays, self._steps, self._flows = streams.stays, streams.steps, streams.flows
        tiles = (stays.kinds for stays in self._stays.values())
        self._recurrence = None
        if repeats:
            kinds = in_use(self._steps, self._stays)
            self._recurrence = Recurrence((self._steps.kinds, *tiles), kinds, nest.turns)
        self._step = 0
        self._computed = np.zeros(len(self._steps.prices), np.int64)
        self._visits_computed = 0
        self._visit_computed: simpy.Event | None = None
        self._drains = 0
        self._skipped = 0
        self._names: dict[object, str] = {}

    def run(self) -> Tally:
        """Run the layer to the last bit written."""
        env, tally = self._env, self._tally
        processes = {
            "I": self._fetch_dma("I"),
            "W": self._fetch_dma("W"),
            "array": self._array(),
            "O": self._output_dma(),
        }
        started = {name: env.process(process) for name, process in processes.items()}
        self._names = {process: name for name, process in started.items()}
        env.run(until=started["O"])
        self._count_transfers()
        self._count_array()
        counters, cycles = self._counters, self._now
        stalled = sum(counters["stalled", tensor] for tensor in TENSORS)
        computing = tally.steady_cycles + tally.fill_cycles + tally.port_cycles
        draining = cycles - computing - stalled
        self._stall("O", cycles - draining, cycles, self._nest.steps - 1)
        tally.cycles = cycles
        tally.stalls = {tensor: counters["stalled", tensor] for tensor in TENSORS}
        tally.transfers = counters["transfers"]
        tally.dram_busy = counters["channel busy"]
        tally.activates = counters["activates"]
        if isinstance(self._channel, BankedChannel):
            tally.activates = self._channel.activates
        tally.peaks = {name: memory.peak for name, memory in self._memories.items()}
        tally.steps = self._nest.steps
        return tally

    @property
    def _now(self) -> int:
        """The cycle, those that were skipped included."""
        return int(self._env.now) + self._skipped

    # --- DMA engines: one process per tensor -----------------------------------------------------

    def _fetch_dma(self, tensor: Tensor) -> Process:
        """Bring the tiles of I or of W."""
        buffer, stays = self._buffers[tensor], self._stays[tensor]
        fetch = None
        if self._data is not None:
            fetch = self._data.fetch_input if tensor == "I" else self._data.fetch_weight
        while buffer.reserved < len(stays):
            while buffer.full:
                yield buffer.vacancy()
            tile = buffer.reserved
            stay = stays[tile]
            buffer.reserve(stay.held)
            moved = stay.arrives
            if fetch is not None:  # what was copied, in place of what was computed
                moved = fetch(tile)._replace(burst=moved.burst)
            if moved.payload:
                yield self._move(tensor, "read", moved, stay.arriving, tile)
            buffer.deliver()

    def _output_dma(self) -> Process:
        """Before a tile takes a slot, the tile that had the slot is drained."""
        buffer, stays = self._buffers["O"], self._stays["O"]
        while buffer.reserved < len(stays):
            if buffer.full:
                yield from self._drain()
            tile = buffer.reserved
            stay = stays[tile]
            buffer.reserve(stay.held)
            moved = stay.arrives
            if self._data is not None:
                moved = self._data.restore(tile)._replace(burst=moved.burst)
            if moved.payload:
                yield self._move("O", "read", moved, stay.arriving, tile)
            buffer.deliver()
        while buffer.released < len(stays):
            yield from self._drain()

    def _drain(self) -> Process:
        buffer = self._buffers["O"]
        while self._visits_computed <= buffer.released:
            self._visit_computed = self._env.event()
            yield self._visit_computed
        tile = buffer.released
        stay = self._stays["O"][tile]
        moved = stay.leaves
        if self._data is not None:
            moved = self._data.drain(tile)._replace(burst=moved.burst)
        self._drains += 1
        yield self._move("O", "write", moved, stay.leaving, tile)
        buffer.release()

    def _move(
        self, tensor: Tensor, direction: Direction, moved: Moved, service: Service, tile: int
    ) -> simpy.Event:
        """Remember a transfer's bits, put it on the channel; the event of its completion.

        service: what it takes of a DRAM device
        """
        counters = self._counters
        counters.add_all((tensor, direction, KINDS[0]), moved)
        bits = moved.payload + moved.burst
        place = None
        if self._addresses is not None:
            place = partial(self._addresses.runs, tensor, direction, tile)
        start, end = self._channel.request(
            moved.payload, moved.burst, service.clocks, direction, place
        )
        now = int(self._env.now)
        # The latency trails the channel: it delays what is read, and holds up nothing behind it.
        done = end + self._timing.latency if direction == "read" else end
        timeline, skipped = self._tally.timeline, self._skipped
        timeline.add("dram", direction, start + skipped, end + skipped, bits, tile, tensor)
        timeline.add(_ENGINES[tensor], direction, now + skipped, done + skipped, bits, tile, tensor)
        counters.add("transfers", 1)
        counters.add("channel busy", end - start)
        counters.add("activates", service.activates)
        return self._env.timeout(done - now)

    def _count_transfers(self) -> None:
        """Count what every transfer moved, at both ends; burst padding stays at the outer one."""
        counts = self._tally.counts
        outer, inner = (level.name for level in self._arch.levels[:2])
        for tensor, direction in _TRANSFERS:
            other: Direction = "write" if direction == "read" else "read"
            for kind in KINDS:
                bits = self._counters[tensor, direction, kind]
                counts.add(outer, tensor, direction, kind, bits)
                if kind != "burst":
                    counts.add(inner, tensor, other, kind, bits)

    # --- PE array --------------------------------------------------------------------------------

    def _array(self) -> Process:
        tally, clock, seen = self._tally, self._clock, self._recurrence
        while self._step < self._nest.steps:
            idle_since = self._now
            latest, culprit = -1, None
            for tensor in self._steps[self._step].begins:
                buffer = self._buffers[tensor]
                while not buffer.ready:
                    yield buffer.arrival()
                arrived = buffer.begin_use()
                if arrived > latest:
                    latest, culprit = arrived, tensor
            if culprit is not None:
                self._stall(culprit, idle_since, self._now, self._step)
            if seen is not None and clock is not None and seen.worth_a_look(self._step):
                self._skip_repeats(clock, seen)
            step = self._steps[self._step]
            if self._data is not None:
                self._data.compute(self._step)
            self._computed[self._steps.kinds[self._step]] += 1
            begin, end = self._now, self._now + step.lasting
            tally.timeline.add("array", "compute", begin, end, 0, self._step, "steps")
            yield self._env.timeout(step.lasting)
            self._step += 1
            for tensor in step.ends:
                if tensor == "O":
                    self._visits_computed += 1
                    if self._visit_computed is not None:
                        event, self._visit_computed = self._visit_computed, None
                        event.succeed()
                else:
                    self._buffers[tensor].release()

    def _count_array(self) -> None:
        """Count every computed tile's cycles, and what it moved between SRAM and the array.

        With data, what was copied counts; what the array reads of I and W counts as priced.
        """
        tally, data = self._tally, self._data
        priced = [data is None or not data.copies(flow) for flow in self._flows]
        for step, times in zip(self._steps.prices, self._computed.tolist(), strict=True):
            tally.steady_cycles += step.steady * times
            tally.fill_cycles += (step.computing - step.steady) * times
            tally.port_cycles += (step.lasting - step.computing) * times
            for flow, bits in compress(zip(self._flows, step.bits, strict=True), priced):
                tally.counts.add(*flow, bits * times)
        if data is not None:
            tally.counts.merge(data.inside)

    def _stall(self, tensor: Tensor, begin: int, end: int, step: int) -> None:
        """The array had nothing to do because the last tile it needed was `tensor`'s."""
        if end > begin:
            self._counters.add(("stalled", tensor), end - begin)
            self._tally.timeline.add("array", _WAITS[tensor], begin, end, 0, step, "steps")

    # --- recurrence ------------------------------------------------------------------------------

    def _skip_repeats(self, clock: Clock, seen: Recurrence) -> None:
        """If the machine is where it was before, and like tiles follow, count them and go on.

        Called when a step's tiles are there and the step has not begun.
        """
        state = self._state(clock)
        for before, until, times in seen.again(state, self._moment()):
            self._skip(before, until, times)
        seen.remember(state, self._moment())

    def _state(self, clock: Clock) -> Hashable:
        """All that decides what happens next, relative to now, but for the tiles to come."""
        pending = tuple((wait, self._names[process]) for wait, process in clock.pending())
        tiles = tuple(
            (
                buffer.reserved - buffer.begun,
                buffer.delivered - buffer.begun,
                buffer.released - buffer.begun,
            )
            for buffer in self._buffers.values()
        )
        drained = self._buffers["O"].released
        outputs = (self._drains - drained, self._visits_computed - drained)
        return pending, self._channel.state, tiles, outputs

    def _moment(self) -> Moment:
        buffers, timeline = self._buffers.values(), self._tally.timeline
        return Moment(
            (self._step, *(buffer.released for buffer in buffers)),
            (self._step + 1, *(buffer.reserved + 1 for buffer in buffers)),
            tuple(buffer.sizes for buffer in buffers),
            self._now,
            timeline.rows,
            len(timeline),
            self._counters.moment(),
        )

    def _skip(self, before: Moment, until: Moment, times: int) -> None:
        """Count what was done between two moments `times` times more, and go on behind it."""
        here = self._moment()
        step, *tiles = (new - old for new, old in zip(until.done, before.done, strict=True))
        done = self._steps.kinds[before.done[0] : until.done[0]]
        self._computed += times * np.bincount(done, minlength=len(self._computed))
        self._counters.repeat(before.totals, until.totals, times)
        later = (new - old for new, old in zip(here.done, before.done, strict=True))
        streams: tuple[Stream, ...] = ("steps", *self._buffers)
        self._tally.timeline.repeat(
            *(before.row, before.length, times, here.cycle - before.cycle),
            dict(zip(streams, later, strict=True)),
            (until.row, until.length),
        )
        self._skipped += times * (until.cycle - before.cycle)
        self._step += times * step
        for buffer, count, sizes in zip(self._buffers.values(), tiles, until.sizes, strict=True):
            buffer.skip(times * count, sizes)
        self._drains += times * tiles[-1]
        self._visits_computed += times * tiles[-1]

    # --- sizes -----------------------------------------------------------------------------------

    def _slots(self, tensor: Tensor) -> int:
        return 2 if self._arch.buffer(tensor).double_buffered else 1
