"""How long a program takes, from the rules alone: explicit states, looked at cycle by cycle.

No events and no processes: at each cycle every rule is tried, again and again, until none applies;
then the channel picks, and time goes on to the next cycle at which something ends. Slow, and meant
to be read beside DESIGN's rules of time. What the rules leave open is who comes first of those that
ask for the channel or the vector unit in the same cycle: `ties` decides.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from math import inf
from operator import itemgetter
from typing import NamedTuple

from bfpsim.arch import Arch
from bfpsim.mapping.channel import Timing
from bfpsim.mapping.counts import Direction
from bfpsim.mapping.steps.dram import Service
from bfpsim.mapping.steps.volumes import Moved
from bfpsim.sim.stage import Feed, Kept, Slot, Stage


class Request(NamedTuple):
    """The `number`th wish of an operation for the channel, or the vector unit, of its kind.

    kind: tensor and direction of a transfer; "steps" or "drain" of the vector unit
    """

    place: int
    kind: str
    number: int


Ties = Callable[[Request], int]


@dataclass
class Transfer:
    """Bits on their way; cycles at which it was asked for, had the channel, left it, was there.

    waited_for: since when, at the latest since it began, it is no prefetch
    """

    request: Request
    tensor: str
    direction: Direction
    moved: Moved
    clocks: int
    asked: int
    waited_for: float = inf
    began: int = -1
    left: int = -1
    there: int = -1


@dataclass
class Account:
    """What became of an operation.

    turn: when its unit came to it, or the host had done it
    stalls: cycles that the unit waited then, by the tensor that came last, the first in a tie
    units: cycles at which each piece of work of array or vector unit began and ended
    """

    turn: int = -1
    end: int = -1
    stalls: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    units: list[tuple[str, int, int]] = field(default_factory=list)
    transfers: list[Transfer] = field(default_factory=list)


class _Tiles:
    """Tiles of one feed: when each came, and how many have been begun and released."""

    def __init__(self, feed: Feed) -> None:
        self.feed = feed
        self.came: list[int] = []
        self.begun = self.released = 0


class _Output:
    """Visits of an output: when each had its place, how many have been begun, ended and drained.

    jobs: what happens to visits, one after the other: before a tile takes a slot, the tile that
    had it drains.
    """

    def __init__(self, stage: Stage) -> None:
        assert stage.output is not None
        self.output = output = stage.output
        visits, slots = len(output.stays), output.slot.tiles
        self.jobs: list[tuple[str, int]] = []
        for visit in range(visits):
            if visit >= slots:
                self.jobs.append(("drain", visit - slots))
            self.jobs.append(("place", visit))
        self.jobs += [("drain", visit) for visit in range(max(0, visits - slots), visits)]
        if output.mean is not None:
            self.jobs.append(("mean", 0))
        self.at = 0
        self.phase = "begin"
        self.came: list[int] = []
        self.begun = self.ended = 0
        self.results = 0
        """Finished visits whose vector work is over."""


class Oracle:
    """A program under way."""

    def __init__(self, stages: list[Stage], arch: Arch, ties: Ties = lambda request: 0) -> None:
        self.stages, self.timing, self.ties = stages, Timing.of(arch), ties
        self.now = 0
        self.accounts = [Account() for _ in stages]
        self.tiles = [{n: _Tiles(f) for n, f in stage.feeds.items()} for stage in stages]
        self.outputs = [None if s.output is None else _Output(s) for s in stages]
        self.finished = [0] * len(stages)
        self.ended = [False] * len(stages)
        self.turns_done = [0] * len(stages)
        # memory
        names = arch.levels[1].memories
        self.room = {name: arch.buffer(tensor).capacity for tensor, name in names.items()}
        self.changes: list[tuple[int, str, str, int]] = []
        """Cycle, operation and stream or what stays and nothing, bits taken."""
        self.wishes: list[tuple[int, str, Slot | Kept]] = []
        for stage in stages:
            for name in ("W", "I", *(name for name in stage.feeds if name[0] == "V")):
                if name in stage.feeds and (slot := stage.feeds[name].slot) is not None:
                    self.wishes.append((stage.place, name, slot))
            if stage.output is not None:
                self.wishes.append((stage.place, "O", stage.output.slot))
            if stage.keeps is not None:
                self.wishes.append((stage.place, "keeps", stage.keeps))
        self.granted: set[tuple[int, str]] = set()
        self.readers: dict[str, set[int]] = defaultdict(set)
        self.kept: dict[str, Kept] = {}
        for stage in stages:
            for name in stage.frees:
                self.readers[name].add(stage.place)
        # engines: tiles in order of first use
        self.engines: dict[str, list[tuple[int, str, int]]] = {"I": [], "W": [], "V": []}
        for stage in stages:
            jobs: list[tuple[int, str, int]] = []
            for name, feed in stage.feeds.items():
                if feed.slot is not None:
                    jobs += [(int(first), name, i) for i, first in enumerate(feed.begins)]
            for _, name, i in sorted(jobs):
                self.engines[stage.feeds[name].tensor].append((stage.place, name, i))
        self.engine_at = dict.fromkeys(self.engines, 0)
        self.engine_busy = dict.fromkeys(self.engines, False)
        # units: operations in order; until when busy
        self.order = {
            unit: [s.place for s in stages if s.unit == unit] for unit in ("array", "vector")
        }
        self.unit_at = {"array": 0, "vector": 0}
        self.unit_state = {"array": "free", "vector": "free"}
        self.unit_since = {"array": 0, "vector": 0}
        # servers
        self.queue: list[Transfer] = []
        self.channel_until, self.last = 0, None
        self.vector_queue: list[tuple[int, int, Request, int, Callable[[], None]]] = []
        self.vector_until = 0
        self.numbers: dict[tuple[int, str], int] = defaultdict(int)
        self.timers: list[tuple[int, Callable[[], None]]] = []
        self.on_arrival: dict[Request, Callable[[], None]] = {}

    # --- time ------------------------------------------------------------------------------------

    def run(self) -> list[Account]:
        """Accounts of the operations."""
        while True:
            due = [then for at, then in self.timers if at <= self.now]
            self.timers = [timer for timer in self.timers if timer[0] > self.now]
            for then in due:
                then()
            while self._any_rule():
                pass
            if not any(at <= self.now for at, _ in self.timers):
                self._serve()
            if not self.timers:
                break
            self.now = min(at for at, _ in self.timers)
        stuck = [s.name for s in self.stages if not self.ended[s.place]]
        if stuck:
            raise RuntimeError(f"deadlock at {self.now}: {stuck}")
        return self.accounts

    def _after(self, cycles: int, then: Callable[[], None]) -> None:
        self.timers.append((self.now + cycles, then))

    def _number(self, place: int, kind: str) -> Request:
        number = self.numbers[place, kind]
        self.numbers[place, kind] += 1
        return Request(place, kind, number)

    # --- servers ---------------------------------------------------------------------------------

    @property
    def under_way(self) -> float:
        """The earliest operation that still computes."""
        return min(
            (s.place for s in self.stages
             if s.unit != "host" and self.turns_done[s.place] < len(s.turns)),
            default=inf,
        )  # fmt: skip

    def _serve(self) -> None:
        """The channel and the vector unit, where they are free, take the next.

        What is waited for goes first, in the order in which it came to be waited for.
        """
        for transfer in self.queue:
            if transfer.request.place <= self.under_way:
                transfer.waited_for = min(transfer.waited_for, self.now)
        if self.queue and self.channel_until <= self.now:
            own = min(self.queue, key=self._turn_of)
            self.queue.remove(own)
            moved, timing = own.moved, self.timing
            cycles = timing.cycles(moved.payload, moved.burst, own.clocks)
            own.began = max(self.now, self.channel_until + timing.rest(self.last, own.direction))
            own.left = own.began + cycles
            own.there = own.left
            if own.direction == "read":
                own.there += timing.latency
            self.channel_until, self.last = own.left, own.direction
            self._after(own.left - self.now, lambda: None)
            self._after(own.there - self.now, self.on_arrival.pop(own.request))
        if self.vector_queue and self.vector_until <= self.now:
            self.vector_queue.sort(key=lambda wish: (wish[0], self.ties(wish[2]), wish[1]))
            _, _, request, cycles, then = self.vector_queue.pop(0)
            work = "vector", self.now, self.now + cycles
            self.accounts[request.place].units.append(work)
            self.vector_until = self.now + cycles
            self._after(cycles, then)

    def _turn_of(self, transfer: Transfer) -> tuple[float, int, int]:
        """What is waited for by since when it is, prefetches behind it by when they were asked."""
        prefetch = transfer.waited_for == inf
        asked = transfer.asked if prefetch else 0
        return transfer.waited_for, asked, self.ties(transfer.request)

    def _move(
        self, place: int, stream: str, tensor: str, direction: Direction, moved: Moved,
        service: Service, then: Callable[[], None],
    ) -> None:  # fmt: skip
        """Ask for the channel, if there is anything to move."""
        if not any(moved):
            then()
            return
        request = self._number(place, f"{stream} {direction}")
        transfer = Transfer(request, tensor, direction, moved, service.clocks, self.now)
        self.accounts[place].transfers.append(transfer)
        self.queue.append(transfer)
        self.on_arrival[request] = then

    def _work(self, place: int, kind: str, cycles: int, then: Callable[[], None]) -> None:
        """Ask for the vector unit."""
        request = self._number(place, kind)
        self.vector_queue.append((self.now, len(self.vector_queue), request, cycles, then))

    # --- rules -----------------------------------------------------------------------------------

    def _any_rule(self) -> bool:
        """Try every rule once; whether one applied."""
        return any(
            [
                self._grant(),
                *(self._bring(tensor) for tensor in self.engines),
                *(self._lie(stage) for stage in self.stages),
                *(self._put(stage) for stage in self.stages if stage.output is not None),
                *(self._step(unit) for unit in ("array", "vector")),
                *(self._end(stage) for stage in self.stages),
            ]
        )

    def _grant(self) -> bool:
        """Slots strictly in order, never overtaking."""
        if not self.wishes:
            return False
        place, name, wish = self.wishes[0]
        bits = wish.bits * (wish.tiles if isinstance(wish, Slot) else 1)
        if isinstance(wish, Kept) and wish.in_place is not None:
            before = self.kept[wish.in_place]
            assert (before.memory, before.bits) == (wish.memory, bits)
            self.readers[wish.in_place].clear()  # whose end gives nothing back
            self._take(wish.memory, (wish.in_place, ""), -bits)
        if bits > self.room[wish.memory]:
            return False
        if isinstance(wish, Kept):
            self.kept[wish.name] = wish
        owner = (wish.name, "") if isinstance(wish, Kept) else (self.stages[place].name, name)
        self._take(wish.memory, owner, bits)
        self.granted.add((place, name))
        self.wishes.pop(0)
        return True

    def _take(self, memory: str, owner: tuple[str, str], bits: int) -> None:
        """Take room, or give it back."""
        self.room[memory] -= bits
        if bits:
            self.changes.append((self.now, *owner, bits))

    def _give(self, place: int, name: str, slot: Slot) -> None:
        self._take(slot.memory, (self.stages[place].name, name), -slot.bits * slot.tiles)

    def _written(self, feed: Feed, tile: int) -> bool:
        return all(self.finished[wait.place] >= wait.tiles[tile] for wait in feed.waits)

    def _bring(self, tensor: str) -> bool:
        """An engine that is idle asks for the next tile, once there is a slot and it is written."""
        jobs, at = self.engines[tensor], self.engine_at[tensor]
        if self.engine_busy[tensor] or at == len(jobs):
            return False
        place, name, i = jobs[at]
        tiles = self.tiles[place][name]
        slot = tiles.feed.slot
        assert slot is not None
        assert len(tiles.came) == i
        if (place, name) not in self.granted or i - tiles.released >= slot.tiles:
            return False
        if not self._written(tiles.feed, i):
            return False
        self.engine_busy[tensor] = True

        def there() -> None:
            tiles.came.append(self.now)
            self.engine_busy[tensor] = False
            self.engine_at[tensor] += 1

        stay = tiles.feed.stays[i]
        self._move(place, tensor, tensor, "read", stay.arrives, stay.arriving, there)
        return True

    def _lie(self, stage: Stage) -> bool:
        """Tiles of what lies in SRAM are there as soon as they are written."""
        changed = False
        for tiles in self.tiles[stage.place].values():
            if tiles.feed.slot is None:
                while len(tiles.came) < len(tiles.feed.stays) and self._written(
                    tiles.feed, len(tiles.came)
                ):
                    tiles.came.append(self.now)
                    changed = True
        return changed

    def _put(self, stage: Stage) -> bool:
        """The next thing that happens to a visit of the output."""
        place, own = stage.place, self.outputs[stage.place]
        assert own is not None
        if own.at == len(own.jobs):
            return False
        job, visit = own.jobs[own.at]
        output, phase = own.output, own.phase

        def over() -> None:
            own.at += 1
            own.phase = "begin"

        def placed() -> None:
            own.came.append(self.now)
            over()

        if phase in ("moving", "working"):
            return False
        if job == "place":
            if (place, "O") not in self.granted:
                return False
            if any(o is not None and len(o.came) < len(o.output.stays)
                   for o in self.outputs[:place]):  # fmt: skip
                return False
            if stage.keeps is not None and (place, "keeps") not in self.granted:
                return False
            own.phase = "moving"
            stay = output.stays[visit]
            self._move(place, "O", output.tensor, "read", stay.arrives, stay.arriving, placed)
            return True
        if job == "mean":
            assert output.mean is not None

            def mean() -> None:
                self.finished[place] += 1
                over()

            own.phase = "moving"
            stay = output.mean
            self._move(place, "O", "V", "write", stay.leaves, stay.leaving, mean)
            return True
        finished = bool(output.finished[visit])
        if phase == "begin":  # to drain
            if own.ended <= visit:
                return False
            addends = [self.tiles[place][name] for name in output.addends] if finished else []
            if any(len(tiles.came) <= own.results for tiles in addends):
                return False

            def worked() -> None:
                own.phase = "worked"
                own.results += finished
                for name in output.addends if finished else ():
                    self._release(place, name)

            if output.work[visit]:
                own.phase = "working"
                self._work(place, "drain", int(output.work[visit]), worked)
            else:
                worked()
            return True

        def drained() -> None:
            if finished and output.sink != "mean":
                self.finished[place] += 1
            if visit == len(output.stays) - 1:
                self._give(place, "O", output.slot)
            over()

        own.phase = "moving"
        stay = output.stays[visit]
        leaves = stay.leaves if not finished or output.sink == "off chip" else Moved()
        self._move(place, "O", output.tensor, "write", leaves, stay.leaving, drained)
        return True

    def _release(self, place: int, name: str) -> None:
        tiles = self.tiles[place][name]
        tiles.released += 1
        if tiles.released == len(tiles.feed.stays) and tiles.feed.slot is not None:
            self._give(place, name, tiles.feed.slot)

    def _step(self, unit: str) -> bool:
        """A unit takes its next step when it is free and the tiles are there."""
        if self.unit_state[unit] != "free" or self.unit_at[unit] == len(self.order[unit]):
            return False
        place = self.order[unit][self.unit_at[unit]]
        stage, account, output = self.stages[place], self.accounts[place], self.outputs[place]
        assert output is not None
        number = self.turns_done[place]
        if account.turn < 0:
            account.turn = self.now
        turn = stage.turns[number]
        came: list[tuple[int, str]] = []
        for name in turn.begins:
            if name == "O":
                if len(output.came) <= output.begun:
                    return False
                came.append((output.came[output.begun], "O"))
            else:
                tiles = self.tiles[place][name]
                if len(tiles.came) <= tiles.begun:
                    return False
                came.append((tiles.came[tiles.begun], name[0]))
        for name in turn.begins:
            if name == "O":
                output.begun += 1
            else:
                self.tiles[place][name].begun += 1
        if self.now > self.unit_since[unit]:
            last = max(came, key=itemgetter(0))  # the first of those that came together
            account.stalls[last[1]] += self.now - self.unit_since[unit]
        self.unit_state[unit] = "busy"

        def over() -> None:
            for name in turn.ends:
                if name == "O":
                    output.ended += 1
                else:
                    self._release(place, name)
            self.unit_state[unit], self.unit_since[unit] = "free", self.now
            self.turns_done[place] += 1
            if self.turns_done[place] == len(stage.turns):
                self.unit_at[unit] += 1

        if unit == "array":
            account.units.append(("array", self.now, self.now + turn.lasting))
        if unit == "array" or not turn.lasting:
            self._after(turn.lasting, over)
        else:
            self._work(place, "steps", turn.lasting, over)
        return True

    def _end(self, stage: Stage) -> bool:
        """An operation ends when its last bit is written, and what it read last is given back."""
        place, own = stage.place, self.outputs[stage.place]
        if self.ended[place]:
            return False
        if stage.unit == "host":
            if not all(self.finished[wait.place] >= wait.tiles[0] for wait in stage.waits):
                return False
            self.finished[place] = 1
            self.accounts[place].turn = self.now
        else:
            assert own is not None
            if self.turns_done[place] < len(stage.turns) or own.at < len(own.jobs):
                return False
        self.ended[place] = True
        self.accounts[place].end = self.now
        for name in stage.frees:
            if place in self.readers[name]:
                self.readers[name].remove(place)
                if not self.readers[name]:
                    self._take(self.kept[name].memory, (name, ""), -self.kept[name].bits)
        return True
