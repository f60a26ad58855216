"""A whole program on the accelerator: every operation's tiles on one clock.

As in `sim.accelerator`, time passes once per tile moved and once per tile computed, and what
repeats is counted, not run. Slots are granted strictly in program order, so that what is under way
never waits for what comes later.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Hashable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Literal

import numpy as np
import simpy

from bfpsim.arch import Arch, Traffic
from bfpsim.mapping.channel import Timing
from bfpsim.mapping.counts import KINDS, Counts, Direction
from bfpsim.mapping.steps.dram import Service
from bfpsim.mapping.steps.price import in_use
from bfpsim.mapping.steps.volumes import Moved
from bfpsim.sim.arbiter import Arbiter
from bfpsim.sim.buffer import Memory, TileBuffer
from bfpsim.sim.clock import Clock
from bfpsim.sim.counters import Counters
from bfpsim.sim.recurrence import SHORTEST, Moment, Recurrence
from bfpsim.sim.room import Room
from bfpsim.sim.stage import Feed, Output, Stage, Wait
from bfpsim.sim.timeline import Activity, Stream, Timeline
from bfpsim.sim.timeline import Unit as Row

if TYPE_CHECKING:
    from bfpsim.sim.contents import Contents, Moving

Process = Generator[simpy.Event, object, None]
Unit = Literal["array", "vector"]

_ENGINES: dict[Traffic, Row] = {"I": "dma I", "W": "dma W", "O": "dma O", "V": "dma V"}
_WAITS: dict[Traffic, Activity] = {"I": "wait I", "W": "wait W", "O": "wait O", "V": "wait V"}
_TRANSFERS: tuple[tuple[Traffic, Direction], ...] = (
    ("I", "read"),
    ("W", "read"),
    ("O", "read"),
    ("O", "write"),
    ("V", "read"),
    ("V", "write"),
)
# What moves in SRAM without the channel: what the vector unit reads and makes, and results of O on
# their way from their slots to where they stay, or into a mean.
_INSIDE = ("operands", "made", "kept", "summed")


@dataclass(frozen=True, eq=False)
class StageTally:
    """What one operation of a program counted, as `sim.accelerator.Tally` has it of a layer.

    start, end: when its first tile step could begin, and when its last bit was written
    vector_cycles: that the vector unit worked for it
    stalls: cycles its unit waited once it was its turn, by tensor
    """

    counts: Counts
    start: int
    end: int
    steady_cycles: int
    fill_cycles: int
    port_cycles: int
    vector_cycles: int
    stalls: dict[Traffic, int]
    dram_busy: int
    activates: int
    steps: int
    transfers: int
    timeline: Timeline


class _Run:
    """A stage that runs: how far it has come."""

    def __init__(self, env: simpy.Environment, stage: Stage, data: Moving | None) -> None:
        self.stage, self.data = stage, data
        self.counters = Counters(
            ["transfers", "channel busy", "activates", "vector busy", "finished"]
            + [("stalled", tensor) for tensor in _ENGINES]
            + [(*transfer, kind) for transfer in _TRANSFERS for kind in KINDS]
            + [(what, kind) for what in _INSIDE for kind in KINDS]
        )
        self.timeline = Timeline()
        self.buffers: dict[str, TileBuffer] = {}
        self.stays = {name: feed.stays for name, feed in stage.feeds.items()}
        slots = {name: feed.slot for name, feed in stage.feeds.items()}
        if stage.output is not None:
            slots["O"], self.stays["O"] = stage.output.slot, stage.output.stays
        for name, slot in slots.items():
            if slot is not None:
                memory = Memory(f"{stage.name} {name}", slot.bits * slot.tiles)
                self.buffers[name] = TileBuffer(env, memory, slot.tiles)
        self.slots = slots
        self.granted: set[str] = set()
        self.grants: dict[str, simpy.Event] = {}
        self.begun = dict.fromkeys(stage.feeds, 0)
        """Tiles begun to be used, of every feed."""
        self.asked: dict[str, int] = {}
        """When the transfers under way were asked for, less what was skipped of this stage."""
        self.skipped = 0
        self.step = 0
        self.computed = np.zeros(len(stage.turns.prices), np.int64)
        self.visits_computed = 0
        self.visit_computed: simpy.Event | None = None
        self.drains = 0
        self.complete = False
        self.start = self.end = 0

    @cached_property
    def recurrence(self) -> Recurrence | None:
        """What it was like so far; None of too few steps to look."""
        turns, tiles = self.stage.turns, (own.kinds for own in self.stays.values())
        if len(turns) < SHORTEST:
            return None
        return Recurrence((turns.kinds, *tiles), in_use(turns, self.stays), self.stage.loops)

    @property
    def streams(self) -> tuple[str, ...]:
        """The names of what comes tile by tile."""
        return tuple(self.stays)

    def stream(self, name: str) -> Traffic:
        """What the timeline calls it: O for the output, else its tensor."""
        return "O" if name == "O" else self.stage.feeds[name].tensor

    @property
    def finished(self) -> int:
        """Output tiles that others can read."""
        return self.counters["finished"]

    def place_in(self, name: str) -> tuple[int, int, int, int]:
        """How many tiles of a stream were reserved, delivered, begun and released."""
        buffer = self.buffers.get(name)
        if buffer is None:
            return (self.begun[name],) * 4
        return buffer.reserved, buffer.delivered, buffer.begun, buffer.released


class Machine:
    """The accelerator running a program.

    stages: in program order
    contents: what the transfers carry; without them, sizes only
    progress: called with the name of each operation as it ends
    every_step: run every step, also those whose outcome is known
    """

    def __init__(
        self,
        stages: Sequence[Stage],
        arch: Arch,
        contents: Contents | None = None,
        progress: Callable[[str], None] | None = None,
        every_step: bool = False,
    ) -> None:
        self._arch, self._tell = arch, progress
        self._clock = None if every_step or contents is not None else Clock()
        self._env = env = self._clock or simpy.Environment()
        self._timing = Timing.of(arch)
        self._arbiter = Arbiter(env, self._timing)
        self._skipped = 0
        self._runs = [
            _Run(env, stage, None if contents is None else contents.of(stage.place))
            for stage in stages
        ]
        capacities = {
            name: arch.buffer(tensor).capacity
            for tensor, name in arch.levels[1].memories.items()
            if tensor in ("I", "W", "O")
        }
        self.room = Room(env, capacities, lambda: self._now)
        self._readers: dict[str, int] = {}
        for stage in stages:
            for name in stage.frees:
                self._readers[name] = self._readers.get(name, 0) + 1
        self._at: dict[Unit, int] = {"array": 0, "vector": 0}
        self._vector_free_at = 0
        self._progress: dict[int, simpy.Event] = {}
        self._needs: dict[tuple[int, int], int] = {}
        self._left = len(stages)
        self._end = env.event()
        self._names: dict[object, Hashable] = {self._arbiter: "channel"}

    def run(self) -> list[StageTally]:
        """Run the program to the last bit written."""
        self._start(self._grant(), "grants")
        self._start(self._bring("I"), "dma I")
        self._start(self._bring("W"), "dma W")
        self._start(self._bring("V"), "dma V")
        self._start(self._execute("array"), "array")
        self._start(self._execute("vector"), "vector")
        self._start(self._host(), "host")
        self._start_output(0)
        self._env.run(until=self._end)
        return [self._tally(run) for run in self._runs]

    @property
    def _now(self) -> int:
        """The cycle, those that were skipped included."""
        return int(self._env.now) + self._skipped

    def _start(self, process: Process, name: Hashable) -> None:
        self._names[self._env.process(process)] = name

    # --- room ------------------------------------------------------------------------------------

    def _grant(self) -> Process:
        """Grant slots and room to stay, W, I and O of each operation in turn, never overtaking."""
        for run in self._runs:
            stage = run.stage
            order = sorted(run.slots, key=lambda name: "WIVO".index(name[0]))
            for name in order:
                slot = run.slots[name]
                if slot is not None:
                    yield from self._room_for(slot.memory, slot.bits * slot.tiles)
                    self.room.take(slot.memory, (stage.name, name), slot.bits * slot.tiles)
                run.granted.add(name)
                if name in run.grants:
                    run.grants.pop(name).succeed()
            kept = stage.keeps
            if kept is not None and kept.in_place is not None:
                self.room.hand_over((kept.in_place, ""), (kept.name, ""))
            elif kept is not None:
                yield from self._room_for(kept.memory, kept.bits)
                self.room.take(kept.memory, (kept.name, ""), kept.bits)
            run.granted.add("")
            if "" in run.grants:
                run.grants.pop("").succeed()

    def _room_for(self, memory: str, bits: int) -> Process:
        while not self.room.has(memory, bits):
            yield self.room.freed()

    def _granted(self, run: _Run, name: str) -> Process:
        """Wait until a slot is granted; the name of what stays is empty."""
        if name not in run.granted:
            run.grants[name] = run.grants.get(name) or self._env.event()
            yield run.grants[name]

    # --- dependence ------------------------------------------------------------------------------

    def _wait(self, waits: tuple[Wait, ...], tile: int) -> Process:
        """Wait until what a tile covers is finished."""
        for wait in waits:
            need, writer = int(wait.tiles[tile]), self._runs[wait.place]
            while writer.finished < need:
                key = wait.place, need
                self._needs[key] = self._needs.get(key, 0) + 1
                if wait.place not in self._progress:
                    self._progress[wait.place] = self._env.event()
                yield self._progress[wait.place]
                self._needs[key] -= 1
                if not self._needs[key]:
                    del self._needs[key]

    def _finish(self, run: _Run) -> None:
        """One more output tile can be read."""
        run.counters.add("finished", 1)
        event = self._progress.pop(run.stage.place, None)
        if event is not None:
            event.succeed()

    def _complete(self, run: _Run) -> None:
        """The operation is over: what it was the last to read is free."""
        run.complete, run.end = True, self._now
        for name in run.stage.frees:
            self._readers[name] -= 1
            if not self._readers[name] and self.room.holds((name, "")):  # or handed over
                self.room.give((name, ""))
        if self._tell is not None:
            self._tell(run.stage.name)
        self._left -= 1
        if not self._left:
            self._end.succeed()

    # --- DMA engines -----------------------------------------------------------------------------

    def _bring(self, tensor: Traffic) -> Process:
        """Bring the tiles of a tensor that lie off chip, operation by operation."""
        for run in self._runs:
            feeds = {
                name: feed
                for name, feed in run.stage.feeds.items()
                if feed.tensor == tensor and feed.slot is not None
            }
            while feeds:
                name = min(feeds, key=lambda own: _next_use(run, own))
                if run.buffers[name].reserved == len(run.stays[name]):
                    del feeds[name]
                    continue
                yield from self._fetch(run, name, feeds[name])

    def _fetch(self, run: _Run, name: str, feed: Feed) -> Process:
        buffer = run.buffers[name]
        yield from self._granted(run, name)
        while buffer.full:
            yield buffer.vacancy()
        tile = buffer.reserved
        stay = feed.stays[tile]
        buffer.reserve(stay.held)
        yield from self._wait(feed.waits, tile)
        moved = stay.arrives
        if run.data is not None:  # what was copied, in place of what was computed
            moved = run.data.fetch(name, tile)._replace(burst=moved.burst)
        if moved.payload:
            yield from self._move(run, feed.tensor, "read", moved, stay.arriving, name)
        buffer.deliver()

    def _start_output(self, place: int) -> None:
        """Start the next operation that has an output, from a place on."""
        for run in self._runs[place:]:
            if run.stage.output is not None:
                self._start(self._send(run, run.stage.output), ("dma O", run.stage.place))
                return

    def _send(self, run: _Run, output: Output) -> Process:
        """Before a tile takes a slot, the tile that had the slot is drained."""
        buffer, stays = run.buffers["O"], output.stays
        yield from self._granted(run, "O")
        yield from self._granted(run, "")
        while buffer.reserved < len(stays):
            if buffer.full:
                yield from self._drain(run, output)
            tile = buffer.reserved
            stay = stays[tile]
            buffer.reserve(stay.held)
            moved = stay.arrives
            if run.data is not None:
                moved = run.data.restore(tile)._replace(burst=moved.burst)
            if moved.payload:
                yield from self._move(run, output.tensor, "read", moved, stay.arriving, "O")
            buffer.deliver()
        self._start_output(run.stage.place + 1)
        while buffer.released < len(stays):
            yield from self._drain(run, output)
        if output.mean is not None:
            if run.data is not None:
                run.data.close()
            if output.mean.leaves.payload:
                yield from self._move(
                    run, "V", "write", output.mean.leaves, output.mean.leaving, "O"
                )
            run.counters.add_all(("made", KINDS[0]), output.mean.arrives)
            self._finish(run)
        self._complete(run)

    def _drain(self, run: _Run, output: Output) -> Process:
        buffer = run.buffers["O"]
        while run.visits_computed <= buffer.released:
            run.visit_computed = self._env.event()
            yield run.visit_computed
        tile = buffer.released
        stay, finished = output.stays[tile], bool(output.finished[tile])
        moved = stay.leaves
        run.drains += 1
        if finished:
            for name in output.addends:
                yield from self._use(run, name)
            work = int(output.work[tile])
            if work:
                yield self._vector(run, work, buffer.released, "O")
            for name in output.addends:
                self._release(run, name)
        if run.data is not None:
            moved = run.data.drain(tile)._replace(burst=moved.burst)
        if not finished or output.sink == "off chip":
            yield from self._move(run, output.tensor, "write", moved, stay.leaving, "O")
        elif output.sink == "beside":
            run.counters.add_all(("kept", KINDS[0]), moved)
        elif output.sink == "mean":
            run.counters.add_all(("summed", KINDS[0]), moved)
        self._release(run, "O")
        if finished and output.mean is None:
            self._finish(run)

    def _move(
        self,
        run: _Run,
        tensor: Traffic,
        direction: Direction,
        moved: Moved,
        service: Service,
        name: str,
    ) -> Process:
        """Take the channel for a transfer, and wait for its end.

        service: what it takes of a DRAM device
        """
        counters, timing = run.counters, self._timing
        counters.add_all((tensor, direction, KINDS[0]), moved)
        cycles = timing.cycles(moved.payload, moved.burst, service.clocks)
        counters.add("transfers", 1)
        counters.add("channel busy", cycles)
        counters.add("activates", service.activates)
        # The latency trails the channel: it delays what is read, and holds up nothing behind it.
        latency = timing.latency if direction == "read" else 0
        run.asked[name] = self._now - run.skipped
        transfer = self._arbiter.request(run.stage.place, direction, cycles)
        if transfer.granted is not None:
            yield transfer.granted
        yield self._env.timeout(transfer.end + latency - int(self._env.now))
        # Tiles that were skipped meanwhile were like this one.
        start, end = transfer.start + self._skipped, transfer.end + self._skipped
        asked = run.asked.pop(name) + run.skipped
        bits, stream, tile = moved.payload + moved.burst, run.stream(name), 0
        if direction == "write":
            tile = run.buffers[name].released
        else:  # of all operands of a stream together, in the order they come
            tile = sum(own.delivered for k, own in run.buffers.items() if run.stream(k) == stream)
        run.timeline.add("dram", direction, start, end, bits, tile, stream)
        run.timeline.add(_ENGINES[tensor], direction, asked, end + latency, bits, tile, stream)

    # --- units -----------------------------------------------------------------------------------

    def _execute(self, unit: Unit) -> Process:
        """Take a unit's tile steps, operation by operation."""
        runs = [run for run in self._runs if run.stage.unit == unit]
        for run in runs:
            self._turn_to(unit, run.stage.place)
            run.start = self._now
            while run.step < len(run.stage.turns):
                idle_since = self._now
                latest, culprit = -1, None
                for name in run.stage.turns[run.step].begins:
                    arrived = yield from self._use(run, name)
                    assert isinstance(arrived, int)
                    if arrived > latest:
                        latest, culprit = arrived, name
                if culprit is not None:
                    self._stall(run, culprit, idle_since)
                if self._clock is not None and self._settled(run):
                    seen = run.recurrence
                    if seen is not None and seen.worth_a_look(run.step):
                        self._skip_repeats(run, self._clock, seen)
                turn = run.stage.turns[run.step]
                run.computed[run.stage.turns.kinds[run.step]] += 1
                if run.data is not None:
                    run.data.compute(run.step)
                if unit == "array":
                    begin, end = self._now, self._now + turn.lasting
                    run.timeline.add("array", "compute", begin, end, 0, run.step, "steps")
                    yield self._env.timeout(turn.lasting)
                elif turn.lasting:
                    yield self._vector(run, turn.lasting, run.step, "steps")
                run.step += 1
                for name in turn.ends:
                    self._end_use(run, name)
        self._turn_to(unit, len(self._runs))

    def _turn_to(self, unit: Unit, place: int) -> None:
        self._at[unit] = place
        self._arbiter.move_front(min(self._at.values()))

    def _use(self, run: _Run, name: str) -> Generator[simpy.Event, object, int]:
        """Wait for the next tile of a stream and begin to use it; when it arrived."""
        buffer = run.buffers.get(name)
        if buffer is not None:
            while not buffer.ready:
                yield buffer.arrival()
            arrived = buffer.begin_use()
        else:
            before = int(self._env.now)
            yield from self._wait(run.stage.feeds[name].waits, run.begun[name])
            arrived = int(self._env.now) if self._env.now > before else -1
            if run.data is not None and run.stage.feeds[name].tensor != "V":
                run.data.fetch(name, run.begun[name])  # which stays where it lies
        if name != "O":
            if run.stage.feeds[name].tensor == "V":
                moved = run.stays[name][run.begun[name]].arrives
                run.counters.add_all(("operands", KINDS[0]), moved._replace(burst=0))
            run.begun[name] += 1
        return arrived

    def _end_use(self, run: _Run, name: str) -> None:
        """The last step that uses a tile is over."""
        if name != "O":
            self._release(run, name)
            return
        output = run.stage.output
        assert output is not None
        if output.tensor == "V":
            moved = output.stays[run.visits_computed].leaves
            run.counters.add_all(("made", KINDS[0]), moved._replace(burst=0))
        run.visits_computed += 1
        if run.visit_computed is not None:
            event, run.visit_computed = run.visit_computed, None
            event.succeed()

    def _release(self, run: _Run, name: str) -> None:
        """A tile is no longer needed, and its slot is free; with the last one the slots go back."""
        buffer, slot = run.buffers.get(name), run.slots[name]
        if buffer is not None and slot is not None:
            buffer.release()
            if buffer.released == len(run.stays[name]):
                self.room.give((run.stage.name, name))

    def _vector(self, run: _Run, cycles: int, tile: int, stream: Stream) -> simpy.Event:
        """Put work on the vector unit, which takes it in turn; the event of its end."""
        now = int(self._env.now)
        start = max(now, self._vector_free_at)
        self._vector_free_at = end = start + cycles
        run.counters.add("vector busy", cycles)
        begin, over = start + self._skipped, end + self._skipped
        run.timeline.add("vector", "compute", begin, over, 0, tile, stream)
        return self._env.timeout(end - now)

    def _stall(self, run: _Run, name: str, begin: int) -> None:
        """A unit had nothing to do because the last tile it needed was of this stream."""
        end = self._now
        if end > begin:
            tensor = run.stream(name)
            run.counters.add(("stalled", tensor), end - begin)
            row: Row = "array" if run.stage.unit == "array" else "vector"
            run.timeline.add(row, _WAITS[tensor], begin, end, 0, run.step, "steps")

    def _host(self) -> Process:
        """The host takes no time, once all that it reads is written."""
        for run in self._runs:
            if run.stage.unit == "host":
                yield from self._wait(run.stage.waits, 0)
                run.start = self._now
                if run.data is not None:
                    run.data.compute(0)
                self._finish(run)
                self._complete(run)

    # --- recurrence ------------------------------------------------------------------------------

    def _settled(self, run: _Run) -> bool:
        """Whether nothing that an operation reads is still being written."""
        waits = (wait for feed in run.stage.feeds.values() for wait in feed.waits)
        return all(self._runs[wait.place].complete for wait in waits)

    def _skip_repeats(self, run: _Run, clock: Clock, seen: Recurrence) -> None:
        """If the machine is where it was before, and like tiles follow, count them and go on.

        Called when a step's tiles are there and the step has not begun.
        """
        state = self._state(run, clock)
        for before, until, times in seen.again(state, self._moment(run)):
            most = min(times, self._most_repeats(run, before, until))
            if most > 0:
                self._skip(run, before, until, most)
        seen.remember(state, self._moment(run))

    def _most_repeats(self, run: _Run, before: Moment, until: Moment) -> int:
        """How often a stretch can be repeated before a later operation gets what it waits for."""
        first, last = (run.counters.at(at.totals, "finished") for at in (before, until))
        finished = last - first
        ends = [need for place, need in self._needs if place == run.stage.place]
        if not finished or not ends:
            return run.step + len(run.stage.turns)
        return (min(ends) - 1 - run.finished) // finished

    def _state(self, run: _Run, clock: Clock) -> Hashable:
        """All that decides what happens next, relative to now and to this operation's place."""
        pending = tuple((wait, self._names[process]) for wait, process in clock.pending())
        own: list[Hashable] = []
        for name in run.streams:
            reserved, delivered, begun, released = run.place_in(name)
            asked = run.asked.get(name)
            waiting = -1 if asked is None else self._now - run.skipped - asked
            coming = _kind(run, name, delivered) if reserved > delivered else -1
            own.append((reserved - begun, delivered - begun, released - begun, waiting, coming))
        if run.stage.output is not None:
            drained = run.buffers["O"].released
            leaving = _kind(run, "O", drained) if run.drains > drained else -1
            own.append((run.drains - drained, run.visits_computed - drained, leaving))
        others = tuple(
            (
                other.stage.place,
                other.step,
                other.drains,
                other.visits_computed,
                other.finished,
                len(other.granted),
                *(other.place_in(name) for name in other.streams),
            )
            for other in self._runs
            if other is not run and not other.complete and other.granted
        )
        vector = max(0, self._vector_free_at - int(self._env.now))
        return pending, self._arbiter.state, vector, tuple(own), others

    def _moment(self, run: _Run) -> Moment:
        places = [run.place_in(name) for name in run.streams]
        return Moment(
            (run.step, *(released for *_, released in places)),
            (run.step + 1, *(reserved + 1 for reserved, *_ in places)),
            tuple(run.buffers[name].sizes if name in run.buffers else () for name in run.streams),
            self._now,
            run.timeline.rows,
            len(run.timeline),
            run.counters.moment(),
        )

    def _skip(self, run: _Run, before: Moment, until: Moment, times: int) -> None:
        """Count what was done between two moments `times` times more, and go on behind it."""
        here = self._moment(run)
        step, *tiles = (new - old for new, old in zip(until.done, before.done, strict=True))
        done = run.stage.turns.kinds[before.done[0] : until.done[0]]
        run.computed += times * np.bincount(done, minlength=len(run.computed))
        run.counters.repeat(before.totals, until.totals, times)
        cycles = until.cycle - before.cycle
        steps_on, *tiles_on = (new - old for new, old in zip(here.done, before.done, strict=True))
        later: dict[Stream, int] = {"I": 0, "W": 0, "O": 0, "V": 0, "steps": steps_on}
        for name, count in zip(run.streams, tiles_on, strict=True):
            later[run.stream(name)] += count if name in run.buffers else 0
        run.timeline.repeat(
            *(before.row, before.length, times, here.cycle - before.cycle),
            later,
            (until.row, until.length),
        )
        self._skipped += times * cycles
        run.skipped += times * cycles
        run.step += times * step
        for name, count, sizes in zip(run.streams, tiles, until.sizes, strict=True):
            if name in run.buffers:
                run.buffers[name].skip(times * count, sizes)
            if name == "O":
                run.drains += times * count
                run.visits_computed += times * count
            else:
                run.begun[name] += times * count

    # --- results ---------------------------------------------------------------------------------

    def _tally(self, run: _Run) -> StageTally:
        counts, counters = Counts(), run.counters
        outer, inner = (level.name for level in self._arch.levels[:2])
        for tensor, direction in _TRANSFERS:
            other: Direction = "write" if direction == "read" else "read"
            for kind in KINDS:
                bits = counters[tensor, direction, kind]
                counts.add(outer, tensor, direction, kind, bits)
                if kind != "burst":
                    counts.add(inner, tensor, other, kind, bits)
        for kind in KINDS[:-1]:
            counts.add(inner, "V", "read", kind, counters["operands", kind])
            counts.add(inner, "V", "write", kind, counters["made", kind])
            counts.add(inner, "O", "read", kind, counters["kept", kind])
            counts.add(inner, "O", "write", kind, counters["kept", kind])
            counts.add(inner, "O", "read", kind, counters["summed", kind])
        data = run.data
        if data is not None:
            counts.merge(data.inside)
        steady = fill = ports = 0
        for step, times in zip(run.stage.steps, run.computed.tolist(), strict=False):
            steady += step.steady * times
            fill += (step.computing - step.steady) * times
            ports += (step.lasting - step.computing) * times
            for flow, bits in zip(run.stage.flows, step.bits, strict=True):
                if data is None or not data.copies(flow):
                    counts.add(*flow, bits * times)
        return StageTally(
            counts,
            run.start,
            run.end,
            steady,
            fill,
            ports,
            counters["vector busy"],
            {tensor: counters["stalled", tensor] for tensor in _ENGINES},
            counters["channel busy"],
            counters["activates"],
            len(run.stage.turns),
            counters["transfers"],
            run.timeline,
        )


def _kind(run: _Run, name: str, tile: int) -> int:
    """The kind of a tile on its way: what its engine does next depends on it."""
    return int(run.stays[name].kinds[tile])


def _next_use(run: _Run, name: str) -> int:
    """The step for which the next tile of a feed is brought; -1 behind the last."""
    begins, tile = run.stage.feeds[name].begins, run.buffers[name].reserved
    return int(begins[tile]) if tile < len(begins) else -1
