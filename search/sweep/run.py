"""Run a sweep: evaluate what the store lacks, with whatever workers there are."""

from __future__ import annotations

import math
import os
import random
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, CancelledError, Future, wait
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from bfpsim.search.crew import STOPS, ClusterCrew, Crew, CrewError, LocalCrew
from bfpsim.search.store import Store
from bfpsim.search.sweep.evaluate import Outcome, ProgramError, attempt
from bfpsim.search.sweep.plan import plan
from bfpsim.search.sweep.point import POINTS, Point, program
from bfpsim.search.sweep.results import Results
from bfpsim.search.sweep.spec import Spec, SweepError, load_spec

_TICK = 0.5  # seconds between reports when nothing finishes
_STARTS = 3  # times that workers may die before they do anything


@dataclass(frozen=True, slots=True)
class Progress:
    """A moment of a sweep: what is done.

    total, done, failed: distinct points, those of earlier runs included; failed ones are done
    stopping: whether only what the workers have begun is still waited for
    best: the least costly point of this run on the network of its latest one, and that cost: DRAM
        bits, pJ or cycles, by its objective
    """

    total: int
    done: int
    failed: int
    stopping: bool
    best: tuple[Point, float] | None


def sweep(
    spec: Spec | str | Path | Mapping[str, Any],
    store: str | Path,
    *,
    workers: int | None = None,
    cluster: str | None = None,
    retry: bool = False,
    trust: bool = False,
    progress: Callable[[Progress], None] | None = None,
) -> Results:
    """Evaluate every point of a sweep that the store does not hold yet; keep each when it is done.

    spec: a sweep, its YAML file, or a mapping of the same keys
    store: the file of results; several sweeps, and several processes, may share one
    workers: processes on this machine, by default one per core
    cluster: in their place, the address of a Dask scheduler: "tcp://127.0.0.1:8786"
    retry: evaluate again what failed
    trust: whether networks of a file may be functions, as in `load_spec`
    progress: called after every few points, at least once a second

    A point that fails is kept with its error, and does not stop the others. Ctrl-C waits for what
    the workers have begun and keeps it, a second one does not; either ends in KeyboardInterrupt.
    SIGTERM and SIGHUP do as Ctrl-C does.

    Raises SweepError for a sweep or workers that are wrong, StoreError for the store. Whatever
    happens, what was kept stays.
    """
    if workers is not None and workers < 1:
        raise SweepError(f"workers={workers}; allowed: a whole number from 1")
    if workers is not None and cluster is not None:
        raise SweepError("workers and cluster exclude each other; allowed: one of them")
    points = plan(spec if isinstance(spec, Spec) else load_spec(spec, trust=trust))
    with Store(store) as opened, _first_interrupt() as stop:
        ledger = Ledger(points, opened, retry, progress)
        try:
            if ledger.missing:
                _employ(_crew(workers, cluster), ledger, stop)
        except KeyboardInterrupt:
            stop.set()
        ledger.report(stop.is_set())
        if ledger.missing and stop.is_set():
            raise KeyboardInterrupt(f"{ledger.done} of {ledger.total} points are in {store}")
    return Results(points, Path(store))


def _crew(workers: int | None, cluster: str | None) -> Crew:
    if cluster is None:
        return LocalCrew(workers or os.cpu_count() or 1)
    try:
        return ClusterCrew(cluster)
    except CrewError as error:
        raise SweepError(str(error)) from None


def _employ(crew: Crew, ledger: Ledger, stop: threading.Event) -> None:
    try:
        _Shift(crew, ledger).work(stop)
    except BaseException:
        crew.close(at_once=True)
        raise
    crew.close(at_once=False)


class Ledger:
    """The distinct points of a sweep, those that are missing, and the store of their outcomes.

    missing: points to evaluate, by key
    retry: whether those that failed are missing
    """

    def __init__(
        self,
        points: Sequence[Point],
        store: Store,
        retry: bool,
        progress: Callable[[Progress], None] | None,
    ) -> None:
        self._store, self._retry, self._progress = store, retry, progress
        self.missing = {point.key: point for point in points}
        self.total = len(self.missing)
        self._failed: set[str] = set()
        self._best: dict[str, tuple[Point, float]] = {}
        self._network = ""
        for key, succeeded in store.keys(POINTS).items():
            if key in self.missing and (succeeded or not retry):
                self._tick_off(key, succeeded)

    @property
    def done(self) -> int:
        """Points that are not missing."""
        return self.total - len(self.missing)

    def wants(self, point: Point) -> bool:
        """Whether a point is still missing; another process may have come first."""
        entry = self._store.get(POINTS, point.key)
        if entry is not None and (entry.error is None or not self._retry):
            self._tick_off(point.key, entry.error is None)
        return point.key in self.missing

    def keep(self, point: Point, outcome: Outcome) -> None:
        """Put an outcome into the store."""
        if outcome.record is None:
            self._store.put_error(POINTS, point.key, outcome.error or "")
        else:
            self._store.put(POINTS, point.key, outcome.record)
        self._tick_off(point.key, outcome.record is not None)
        self._network = point.network.name
        known = self._best.get(self._network)
        if outcome.record is not None and (known is None or outcome.cost < known[1]):
            self._best[self._network] = point, outcome.cost

    def report(self, stopping: bool) -> None:
        """Report how far the sweep is."""
        if self._progress is not None:
            best = self._best.get(self._network)
            self._progress(Progress(self.total, self.done, len(self._failed), stopping, best))

    def _tick_off(self, key: str, succeeded: bool) -> None:
        del self.missing[key]
        if not succeeded:
            self._failed.add(key)


@contextmanager
def _first_interrupt() -> Iterator[threading.Event]:
    """An event that the first Ctrl-C, SIGTERM or SIGHUP sets; the next one does as ever."""
    interrupt = threading.Event()
    main = threading.current_thread() is threading.main_thread()  # others cannot handle signals
    before = {one: signal.getsignal(one) for one in STOPS} if main else {}
    before = {one: how for one, how in before.items() if how not in (None, signal.SIG_IGN)}

    def restore() -> None:
        for one, how in before.items():
            signal.signal(one, how)

    def note(number: int, frame: FrameType | None) -> None:
        interrupt.set()
        restore()

    for one in before:
        signal.signal(one, note)
    try:
        yield interrupt
    finally:
        restore()


class _Shift:
    """Points on their way through a crew.

    A worker's death takes points along that are not to blame. So each that was lost is evaluated
    again, alone; the one that kills its worker then too is recorded as failed, and no other.
    """

    def __init__(self, crew: Crew, ledger: Ledger) -> None:
        self._crew, self._ledger = crew, ledger
        # In an order of its own: two processes that share a store then seldom do the same point.
        missing = list(ledger.missing.values())
        self._waiting = deque(random.sample(missing, len(missing)))
        self._suspects: deque[Point] = deque()
        self._running: dict[Future[Outcome], Point] = {}
        self._on_trial = False
        self._stopping = False

    def work(self, stop: threading.Event) -> None:
        """Until nothing is missing, or what had begun when `stop` was set is done."""
        self._check()
        while self._waiting or self._suspects or self._running:
            self._stopping = stop.is_set()
            self._ledger.report(self._stopping)
            if self._stopping:
                self._waiting.clear()
                self._suspects.clear()
                self._crew.recall(self._running)
            else:
                self._hand_out()
            done, _ = wait(self._running, timeout=_TICK, return_when=FIRST_COMPLETED)
            self._take_in(done)

    def _hand_out(self) -> None:
        if self._suspects and not self._running:
            self._on_trial = True
            self._submit(self._suspects)
        elif not self._suspects and not self._on_trial:
            window = self._crew.window
            while self._waiting and len(self._running) < window and self._submit(self._waiting):
                pass

    def _submit(self, queue: deque[Point]) -> bool:
        """Hand out the first of a queue, unless it is done by now; whether the crew is well."""
        point = queue.popleft()
        if not self._ledger.wants(point):
            return True
        try:
            future = self._crew.submit(attempt, point, program())
        except self._crew.died:  # with what runs, or idle
            queue.appendleft(point)
            if not self._running:
                self._renew()
            return False
        except Exception as error:
            raise _unusable(error) from None
        self._running[future] = point
        return True

    def _take_in(self, done: Iterable[Future[Outcome]]) -> None:
        """Keep what is finished; find out who is behind a worker's death."""
        lost = [point for future in done if (point := self._settle(future)) is not None]
        if lost and self._crew.shared:
            ended, _ = wait(self._running)
            lost += [point for future in ended if (point := self._settle(future)) is not None]
            self._renew()
        for point in lost:
            if self._on_trial:
                died = "its worker died, also when it had no other point: killed, or out of memory"
                self._ledger.keep(point, Outcome(None, math.inf, died))
            else:
                self._suspects.append(point)
        self._on_trial = self._on_trial and bool(self._running)

    def _settle(self, future: Future[Outcome]) -> Point | None:
        """Keep what came of a point; return it if its worker died."""
        point = self._running.pop(future)
        try:
            outcome = future.result()
        except self._crew.died:
            return point
        except CancelledError as error:
            if not self._stopping:
                raise _unusable(error) from None
        except Exception as error:
            raise _unusable(error) from None
        else:
            self._ledger.keep(point, outcome)
        return None

    def _renew(self) -> None:
        self._crew.renew()
        self._check()

    def _check(self) -> None:
        """Raise SweepError unless a worker starts, and runs this code."""
        for _ in range(_STARTS):
            try:
                theirs = self._crew.submit(program).result()
            except self._crew.died:
                self._crew.renew()
            except Exception as error:
                raise _unusable(error) from None
            else:
                if theirs != program():
                    raise _unusable(ProgramError())
                return
        raise SweepError(
            "the workers die as they start: killed, or out of memory; allowed: fewer workers, or "
            "more memory for them"
        )


def _unusable(error: Exception) -> SweepError:
    """The error of workers that cannot even say what is wrong with a point."""
    if isinstance(error, ProgramError):
        return SweepError("the workers run another version of bfpsim's code; allowed: the same")
    if isinstance(error, CancelledError):
        return SweepError("the cluster is gone; what was finished is kept, go on when it is back")
    reason = " ".join(str(error).split())
    return SweepError(f"the workers cannot be used: {type(error).__name__}: {reason}")
