"""Who evaluates points: processes on this machine, or a Dask cluster, behind an Executor each."""

from __future__ import annotations

import logging
import multiprocessing
import time
from collections.abc import Callable, Iterable
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from typing import Any, Protocol, TypeVar

from bfpsim.search.worker import begin

T = TypeVar("T")

_AHEAD = 2  # calls per worker that are handed out, so that none waits for the next


class CrewError(ValueError):
    """Workers that cannot be had."""


class Crew(Protocol):
    """Workers that calls are handed to.

    died: what a call raises whose worker is no more
    shared: whether one worker's death takes all running calls along
    """

    died: type[Exception]
    shared: bool

    @property
    def window(self) -> int:
        """How many calls to hand out at a time."""

    def submit(self, call: Callable[..., T], *arguments: object) -> Future[T]:
        """Hand out a call."""

    def renew(self) -> None:
        """Make up for workers that died."""

    def recall(self, futures: Iterable[Future[Any]]) -> None:
        """Take back what has not begun."""

    def close(self, at_once: bool) -> None:
        """Part with the workers; `at_once` drops what they are doing."""


class LocalCrew:
    """Processes on this machine."""

    died: type[Exception] = BrokenProcessPool
    shared = True

    def __init__(self, workers: int) -> None:
        self._workers = workers
        self._start()

    @property
    def window(self) -> int:
        """See `Crew`."""
        return _AHEAD * self._workers

    def submit(self, call: Callable[..., T], *arguments: object) -> Future[T]:
        """See `Crew`."""
        return self._pool.submit(call, *arguments)

    def renew(self) -> None:
        """See `Crew`."""
        self.close(at_once=True)
        self._start()

    def recall(self, futures: Iterable[Future[Any]]) -> None:
        """See `Crew`."""
        for future in futures:
            future.cancel()

    def close(self, at_once: bool) -> None:
        """See `Crew`."""
        if at_once:
            self._lifeline.close()
        self._pool.shutdown(wait=True, cancel_futures=True)
        self._lifeline.close()

    def _start(self) -> None:
        # spawn: fork would copy this process's threads' locks, and numeric libraries as they are.
        context = multiprocessing.get_context("spawn")
        workers_end, self._lifeline = context.Pipe(duplex=False)
        self._pool = ProcessPoolExecutor(self._workers, context, begin, (workers_end,))


class ClusterCrew:
    """A Dask cluster, which runs a call again elsewhere when a worker dies, a few times."""

    shared = False
    _REFRESH = 2.0  # seconds between looks at how many workers there are

    def __init__(self, address: str) -> None:
        try:
            from distributed import Client, KilledWorker
        except ImportError:
            raise CrewError(
                f"cluster {address}: needs dask.distributed; pip install 'bfpsim[cluster]'"
            ) from None
        # Its account of a lost connection is a traceback; ours is one line.
        logging.getLogger("distributed.client").setLevel(logging.CRITICAL)
        self.died: type[Exception] = KilledWorker
        connect: Any = Client  # distributed has no types
        try:
            self._client = connect(address, timeout="10s", set_as_default=False)
        except (OSError, ValueError) as error:
            raise CrewError(
                f"cluster {address}: no scheduler answers ({error or type(error).__name__}); "
                "allowed: the address of a running one, such as tcp://127.0.0.1:8786"
            ) from None
        self._executor: Executor = self._client.get_executor(pure=False)
        self._looked, self._threads = float("-inf"), 0

    @property
    def window(self) -> int:
        """See `Crew`."""
        if time.monotonic() - self._looked > self._REFRESH:
            with suppress(Exception):  # of a lost cluster the futures tell
                self._threads = sum(self._client.nthreads().values())
            self._looked = time.monotonic()
        return _AHEAD * max(1, self._threads)

    def submit(self, call: Callable[..., T], *arguments: object) -> Future[T]:
        """See `Crew`."""
        return self._executor.submit(call, *arguments)

    def renew(self) -> None:
        """See `Crew`: whoever runs the cluster starts its workers."""

    def recall(self, futures: Iterable[Future[Any]]) -> None:
        """See `Crew`: what has begun cannot be told from what has not."""

    def close(self, at_once: bool) -> None:
        """See `Crew`."""
        self._executor.shutdown(wait=not at_once)
        self._client.close()
