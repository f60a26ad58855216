"""Sweeps on a real Dask cluster: scheduler and workers are processes of their own."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from subprocess import Popen

import pytest

from bfpsim.search.sweep.run import sweep
from bfpsim.search.sweep.spec import SweepError
from tests.search.sweep import deadly
from tests.search.sweep.conftest import files
from tests.search.sweep.driver import finish, kill, rows, spawn, start, until
from tests.search.sweep.test_run import survive


@dataclass
class Cluster:
    """A scheduler and its workers, of one thread each."""

    scheduler: Popen[str]
    address: str
    workers: list[Popen[str]] = field(default_factory=list)

    def hire(self, count: int, *options: str) -> None:
        options = (self.address, "--nthreads", "1", "--no-dashboard", *options)
        self.workers += [spawn("distributed.cli.dask_worker", *options) for _ in range(count)]


@contextmanager
def scheduler(**environment: str) -> Iterator[Cluster]:
    """A cluster without workers yet; in the end nothing of it is left."""
    options = ("--host", "127.0.0.1", "--port", 0, "--no-dashboard", "--no-show")
    process = spawn("distributed.cli.dask_scheduler", *options, **environment)
    lines = iter(process.stderr.readline, "")
    address = next(found[0] for line in lines if (found := re.search(r"tcp://[\d.]+:\d+", line)))
    cluster = Cluster(process, address)
    try:
        yield cluster
    finally:
        for one in (*cluster.workers, process):
            kill(one)


def test_a_cluster_finds_what_one_worker_finds(spec, undisturbed, tmp_path):
    with scheduler() as cluster:
        cluster.hire(1, "--no-nanny")
        options = ("--cluster", cluster.address, "--out", tmp_path / "out")
        finish(start(spec, tmp_path / "store", *options))
    assert files(tmp_path / "out") == undisturbed


def test_a_cluster_without_workers_is_one_line(spec, tmp_path, monkeypatch):
    monkeypatch.setattr("bfpsim.search.crew.ClusterCrew._PATIENCE", 0.2)
    with scheduler() as cluster, pytest.raises(SweepError) as caught:
        sweep(spec, tmp_path / "store", cluster=cluster.address)
    assert str(caught.value) == (
        f"cluster {cluster.address}: no worker has come in 0.2 s; start some first: "
        f"dask worker {cluster.address}"
    )


@pytest.mark.long
def test_a_cluster_that_loses_a_worker_and_then_its_client(spec, undisturbed, tmp_path):
    store = tmp_path / "store"
    with scheduler() as cluster:
        cluster.hire(2, "--no-nanny")
        options = ("--cluster", cluster.address)
        client = start(spec, store, *options)
        until(lambda: rows(store) > 3)
        kill(cluster.workers.pop())
        before = rows(store)
        until(lambda: rows(store) > before)
        kill(client)
        finish(start(spec, store, *options, "--out", tmp_path / "out"))
    assert files(tmp_path / "out") == undisturbed


@pytest.mark.long
def test_killed_fifty_times_and_resumed(long_spec, long_undisturbed, tmp_path):
    with scheduler() as cluster:
        cluster.hire(2, "--no-nanny")
        survive(long_spec, tmp_path, kills=50, options=("--cluster", cluster.address))
    assert files(tmp_path / "out") == long_undisturbed


@pytest.mark.long
def test_a_scheduler_that_dies_is_one_line(long_spec, tmp_path):
    store = tmp_path / "store"
    with scheduler() as cluster:
        cluster.hire(1, "--no-nanny")
        client = start(long_spec, store, "--cluster", cluster.address)
        until(lambda: rows(store) > 3)
        kill(cluster.scheduler)
        out, error = finish(client, 2)
    assert out == ""
    assert error.endswith(
        "bfpsim: the cluster is gone; what was finished is kept, go on when it is back\n"
    )


@pytest.mark.long
def test_a_point_that_kills_workers_is_recorded_and_no_other(spec, tmp_path, monkeypatch):
    text = spec.read_text().replace("bfp8, bfp16", "bfp8").replace("[false, true]", "[false]")
    (tmp_path / "sweep.yaml").write_text(text.replace("1 GB/s, ", ""))
    monkeypatch.setattr("bfpsim.search.sweep.run.attempt", deadly.attempt)
    with scheduler(DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES="0") as cluster:
        cluster.hire(1, "--nanny")  # which starts another in place of a dead one
        results = sweep(tmp_path / "sweep.yaml", tmp_path / "store", cluster=cluster.address)
    errors = {one.point.axes[0][1]: one.error for one in results}
    assert errors["2 KiB"].startswith("its worker died, also when it had no other point")
    assert [errors[size] for size in ("1 KiB", "16 KiB")] == [None] * 2
