"""Workers: processes on this machine, or a Dask cluster, behind an Executor each."""

from __future__ import annotations

import logging
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnContext, SpawnProcess
from typing import Any, ClassVar, Protocol, TypeVar

T = TypeVar("T")

STOPS = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)
)
"""What asks a process to end: Ctrl-C, a batch system or `kill`, a terminal that closes."""

_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")
_KNOCK = 5.0  # seconds that a scheduler may take to accept a connection
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
        """The number of calls to hand out at a time."""

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
        context = _Context()
        workers_end, self._lifeline = context.Pipe(duplex=False)
        self._pool = ProcessPoolExecutor(self._workers, context, begin, (workers_end,))


class _Process(SpawnProcess):
    """A process that begins without the program that started it.

    What workers call stands in bfpsim. So a script needs no `if __name__ == "__main__":`, and one
    that came by standard input, of which there is no file, has workers too.
    """

    @staticmethod
    def _Popen(process_obj: Any) -> Any:
        main = sys.modules["__main__"]
        whose = {name: vars(main).pop(name, None) for name in ("__file__", "__spec__")}
        main.__spec__ = None
        try:
            return SpawnProcess._Popen(process_obj)
        finally:
            vars(main).update({name: own for name, own in whose.items() if own is not None})


class _Context(SpawnContext):
    """spawn: fork would copy this process's threads' locks, and numeric libraries as they are."""

    Process: ClassVar[Any] = _Process


class ClusterCrew:
    """A Dask cluster, which runs a call again elsewhere when a worker dies, a few times."""

    shared = False
    _REFRESH = 2.0  # seconds between looks at how many workers there are
    _PATIENCE = 60.0  # seconds that the first worker may take to come

    def __init__(self, address: str) -> None:
        try:
            from distributed import Client, KilledWorker
        except ImportError:
            raise CrewError(
                f"cluster {address}: needs dask.distributed; pip install 'bfpsim[cluster]'"
            ) from None
        _knock(address)
        # Its accounts of a lost connection are tracebacks; ours is one line.
        for part in ("client", "batched"):
            logging.getLogger(f"distributed.{part}").setLevel(logging.CRITICAL)
        self.died: type[Exception] = KilledWorker
        connect: Any = Client  # distributed has no types
        try:
            self._client = connect(address, timeout="10s", set_as_default=False)
        except (OSError, ValueError, MemoryError) as error:  # the last: another program answers
            raise _no_scheduler(address, error) from None
        try:
            self._client.wait_for_workers(1, timeout=self._PATIENCE)
        except TimeoutError:
            self._client.close()
            raise CrewError(
                f"cluster {address}: no worker has come in {self._PATIENCE:g} s; start some first: "
                f"dask worker {address}"
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


def _knock(address: str) -> None:
    """Raise CrewError at once where nobody listens: dask would try for long, in many words."""
    scheme, _, place = address.rpartition("://")
    if scheme not in ("", "tcp", "tls"):
        return
    host, _, port = place.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 1 << 16:
        raise _no_scheduler(address, "it has no port")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_KNOCK).close()
    except OSError as error:
        raise _no_scheduler(address, error.strerror or error) from None


def _no_scheduler(address: str, why: object) -> CrewError:
    return CrewError(
        f"cluster {address}: no scheduler answers ({why or type(why).__name__}); "
        "allowed: the address of a running one, such as tcp://127.0.0.1:8786"
    )


class Run(Protocol):
    """Calls a function once per tuple of arguments."""

    def __call__(self, function: Callable[..., T], arguments: Sequence[tuple[Any, ...]]) -> list[T]:
        """Return the results in the order of the arguments."""
        ...


@contextmanager
def workers(count: int) -> Iterator[Run]:
    """A `Run` on so many processes of one thread each; one is this process."""
    if count == 1:
        yield _here
        return
    crew = LocalCrew(count)

    def run(function: Callable[..., T], arguments: Sequence[tuple[Any, ...]]) -> list[T]:
        return [f.result() for f in [crew.submit(function, *own) for own in arguments]]

    try:
        yield run
    except BaseException:
        crew.close(at_once=True)
        raise
    crew.close(at_once=False)


def _here(function: Callable[..., T], arguments: Sequence[tuple[Any, ...]]) -> list[T]:
    return [function(*own) for own in arguments]


def begin(lifeline: Connection) -> None:
    """Begin a worker: one thread for numeric libraries, deaf to Ctrl-C, gone when its parent is.

    lifeline: a pipe whose other end only the parent holds

    Ctrl-C, and the hang-up of a terminal that closes, go to its whole process group; it is for the
    parent to decide what becomes of the running points. A killed parent decides nothing, and leaves
    no worker behind. (SIGTERM is how the pool ends workers when one of them has died.)
    """
    os.environ.update(dict.fromkeys(_THREADS, "1"))
    for one in STOPS:
        if one != signal.SIGTERM:
            signal.signal(one, signal.SIG_IGN)
    threading.Thread(target=_follow, args=(lifeline,), daemon=True).start()


def _follow(lifeline: Connection) -> None:
    wait([lifeline])  # readable once the other end is closed
    os._exit(1)
