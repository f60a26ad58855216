"""Sweeps on a real Dask cluster: scheduler and workers are processes of their own."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from subprocess import Popen

import pytest

from tests.search.sweep.conftest import files
from tests.search.sweep.driver import finish, kill, rows, spawn, start, until
from tests.search.sweep.test_run import survive


@dataclass
class Cluster:
    """A scheduler and its workers."""

    scheduler: Popen[str]
    address: str
    workers: list[Popen[str]] = field(default_factory=list)

    def hire(self, count: int) -> None:
        for _ in range(count):
            options = ("--nthreads", 1, "--no-nanny", "--no-dashboard")
            self.workers.append(spawn("distributed.cli.dask_worker", self.address, *options))


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    options = ("--host", "127.0.0.1", "--port", 0, "--no-dashboard", "--no-show")
    scheduler = spawn("distributed.cli.dask_scheduler", *options)
    lines = iter(scheduler.stderr.readline, "")
    address = next(found[0] for line in lines if (found := re.search(r"tcp://[\d.]+:\d+", line)))
    made = Cluster(scheduler, address)
    made.hire(2)
    yield made
    for process in (*made.workers, scheduler):
        kill(process)


def test_a_cluster_that_loses_a_worker_and_then_its_client(spec, undisturbed, tmp_path, cluster):
    store, options = tmp_path / "store", ("--cluster", cluster.address)
    client = start(spec, store, *options)
    until(lambda: rows(store) > 3)
    kill(cluster.workers.pop())
    before = rows(store)
    until(lambda: rows(store) > before)
    kill(client)
    finish(start(spec, store, *options, "--out", tmp_path / "out"))
    assert files(tmp_path / "out") == undisturbed


@pytest.mark.long
def test_killed_fifty_times_and_resumed(long_spec, long_undisturbed, tmp_path, cluster):
    survive(long_spec, tmp_path, kills=50, options=("--cluster", cluster.address))
    assert files(tmp_path / "out") == long_undisturbed
