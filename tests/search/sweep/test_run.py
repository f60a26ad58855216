import multiprocessing
import os
import random
import signal
import time
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import pytest

from bfpsim.search.store import Store
from bfpsim.search.sweep.evaluate import Outcome, attempt
from bfpsim.search.sweep.plan import plan
from bfpsim.search.sweep.point import program
from bfpsim.search.sweep.results import Results
from bfpsim.search.sweep.run import sweep
from bfpsim.search.sweep.spec import SweepError, load_spec
from tests.search.sweep import deadly
from tests.search.sweep.conftest import files
from tests.search.sweep.driver import finish, kill, rows, start, until


def test_two_workers_find_what_one_finds(spec, undisturbed, tmp_path):
    seen = []
    results = sweep(spec, tmp_path / "store", workers=2, progress=seen.append)
    results.export(tmp_path / "out")
    assert files(tmp_path / "out") == undisturbed

    assert (seen[-1].total, seen[-1].done, seen[-1].failed) == (32, 32, 8)
    assert [one.done for one in seen] == sorted(one.done for one in seen)
    best, cost = seen[-1].best
    assert cost == results.points_table()["dram_bits"].min()
    assert cost == attempt(best, program()).cost


def test_what_is_there_is_not_done_again(spec, finished, monkeypatch):
    monkeypatch.setattr("bfpsim.search.sweep.run.LocalCrew", None)  # nobody is there to do anything
    seen = []
    sweep(spec, finished, progress=seen.append)
    assert [(one.done, one.failed) for one in seen] == [(32, 8)]


def test_a_failed_point_is_tried_again_on_request_only(spec, finished, undisturbed, tmp_path):
    store = tmp_path / "store"
    with Store(store) as kept:
        for one in Results(plan(load_spec(spec)), finished):
            if one.record is None or one.place % 3 == 0:
                kept.put_error("point", one.point.key, "the machine was on fire")
            else:
                kept.put("point", one.point.key, one.record.to_json())
    errors = [one.error for one in sweep(spec, store, workers=1)]
    assert errors.count("the machine was on fire") == 8 + 8
    sweep(spec, store, workers=1, retry=True).export(tmp_path / "out")
    assert files(tmp_path / "out") == undisturbed


def test_killed_and_resumed(spec, undisturbed, tmp_path):
    survive(spec, tmp_path, kills=1, options=("--workers", 2))
    assert files(tmp_path / "out") == undisturbed


@pytest.mark.long
@pytest.mark.parametrize("workers", [1, 2])
def test_killed_fifty_times_and_resumed(long_spec, long_undisturbed, tmp_path, workers):
    survive(long_spec, tmp_path, kills=50, options=("--workers", workers))
    assert files(tmp_path / "out") == long_undisturbed


def test_two_processes_share_a_store_and_the_work(spec, undisturbed, tmp_path):
    both = [start(spec, tmp_path / "store", "--workers", 1, "--out", tmp_path / str(n))
            for n in range(2)]  # fmt: skip
    for number, process in enumerate(both):
        finish(process)
        assert files(tmp_path / str(number)) == undisturbed


def test_a_worker_that_is_killed_loses_nothing(spec, undisturbed, tmp_path):
    shot = []

    def shoot(progress):
        if progress.done >= 9 and not shot:
            shot.append(multiprocessing.active_children()[0].pid)
            os.kill(shot[0], signal.SIGKILL)

    sweep(spec, tmp_path / "store", workers=2, progress=shoot).export(tmp_path / "out")
    assert shot
    assert files(tmp_path / "out") == undisturbed


class FrailCrew:
    """Evaluates at once; the sixth point finds the pool broken, and the fifth was lost with it."""

    died, shared, window = BrokenProcessPool, True, 4

    def __init__(self, workers):
        self.taken, self.renewals = 0, []

    def submit(self, call, *arguments):
        future = Future()
        if call is program:
            future.set_result(program())
            return future
        self.taken += 1
        if self.taken == 6:
            raise BrokenProcessPool
        if self.taken == 5:
            future.set_exception(BrokenProcessPool())
        else:
            future.set_result(Outcome(None, 0.0, "evaluated"))
        return future

    def renew(self):
        self.renewals.append(self.taken)

    def recall(self, futures): ...

    def close(self, at_once): ...


def test_only_what_ran_is_suspected_when_workers_die(spec, tmp_path, monkeypatch):
    done = []
    crew = FrailCrew(1)
    monkeypatch.setattr("bfpsim.search.sweep.run.LocalCrew", lambda _: crew)
    results = sweep(spec, tmp_path / "store", progress=lambda now: done.append(now.done))
    errors = [one.error for one in results]
    assert errors == ["evaluated"] * 32
    assert crew.renewals == [6]
    # Four at a time, but for the one that was lost: it is evaluated again, alone.
    assert done == [0, 4, 4, 5, 9, 13, 17, 21, 25, 29, 32]


def test_a_point_that_kills_its_workers_is_recorded_and_no_other(spec, tmp_path, monkeypatch):
    text = spec.read_text().replace("bfp8, bfp16", "bfp8").replace("1 GB/s, ", "")
    path = tmp_path / "sweep.yaml"
    path.write_text(text.replace("[false, true]", "[false]"))
    monkeypatch.setattr("bfpsim.search.sweep.run.attempt", deadly.attempt)
    results = sweep(path, tmp_path / "store", workers=2)
    errors = {one.point.axes[0][1]: one.error for one in results}
    died = "its worker died, also when it had no other point: killed, or out of memory"
    assert errors["2 KiB"] == died
    assert errors["16 B"].startswith("conv1: no mapping fits")
    assert [errors[size] for size in ("1 KiB", "16 KiB")] == [None] * 2

    monkeypatch.undo()
    assert next(iter(sweep(path, tmp_path / "store", workers=1, retry=True))).error
    assert [one.error for one in results][1:] == [None] * 3


def test_workers_with_other_code_are_refused(spec, tmp_path, monkeypatch):
    monkeypatch.setattr("bfpsim.search.sweep.run.attempt", deadly.other_code)
    with pytest.raises(SweepError, match="workers run another version of bfpsim's code; allowed"):
        sweep(spec, tmp_path / "store", workers=1)
    assert rows(tmp_path / "store") == 0


@pytest.fixture
def heard():
    """Ctrl-C is heard, also where whoever started the tests has it ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_the_first_interrupt_keeps_what_has_begun(spec, tmp_path, heard):
    store = tmp_path / "store"

    def interrupt(progress):
        if progress.done == 5:
            signal.raise_signal(signal.SIGINT)

    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt, match=r"^\d+ of 32 points are in .*store$") as caught:
        sweep(spec, store, workers=1, progress=interrupt)
    assert signal.getsignal(signal.SIGINT) is before
    kept = rows(store)
    assert str(caught.value).startswith(f"{kept} of 32")
    assert 5 <= kept <= 5 + 2  # a worker has one point, and one more at hand


def test_the_second_interrupt_waits_for_nothing(spec, tmp_path, heard):
    asked = 0

    def interrupt(progress):
        nonlocal asked
        if progress.done >= 5 and asked < 2:
            asked += 1
            signal.raise_signal(signal.SIGINT)

    # As above: what the worker had at hand may be in as well.
    with pytest.raises(KeyboardInterrupt, match=r"^[567] of 32 points are in"):
        sweep(spec, tmp_path / "store", workers=1, progress=interrupt)
    assert multiprocessing.active_children() == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_batch_system_and_a_closed_terminal_end_a_sweep_as_an_interrupt(number, spec, tmp_path):
    process = start(spec, tmp_path / "store", "--workers", 1)
    until(lambda: rows(tmp_path / "store") > 3)
    if number == signal.SIGHUP:
        os.killpg(process.pid, number)  # workers too, and Python's own helper, which complains
    else:
        process.send_signal(number)
    _, error = finish(process, 130)
    kept = rows(tmp_path / "store")
    assert 3 < kept < 32
    assert (
        f"bfpsim: interrupted: {kept} of 32 points are in {tmp_path / 'store'}; "
        "the same command goes on from there\n"
    ) in error


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"workers": 0}, "workers=0; allowed: a whole number from 1"),
        ({"workers": 1, "cluster": "tcp://127.0.0.1:1"}, "workers and cluster exclude each other"),
        ({"cluster": "127.0.0.1"}, r"cluster 127\.0\.0\.1: no scheduler answers \(it has no port"),
        ({"cluster": "tcp://127.0.0.1:1"}, r":1: no scheduler answers \(Connection refused\); all"),
    ],
)
def test_workers_that_cannot_be(spec, tmp_path, options, message):
    with pytest.raises(SweepError, match=message):
        sweep(spec, tmp_path / "store", **options)


def survive(spec: Path, folder: Path, kills: int, options: tuple[object, ...]) -> None:
    """Kill a sweep again and again, at random moments, and let it end.

    Most are killed soon after a new point, some at any moment from the start on.
    """
    store, rng, amid = folder / "store", random.Random(kills), 0
    for number in range(kills):
        before = rows(store)
        process = start(spec, store, *options)
        if number % 5 == 4:
            time.sleep(rng.uniform(0, 4))
        else:
            until(lambda seen=before: rows(store) > seen)
            time.sleep(rng.uniform(0, 0.05))
        amid += process.poll() is None
        kill(process)
    assert amid == kills, "it ended before it was killed"
    finish(start(spec, store, *options, "--out", folder / "out"))
