"""The same function on many arguments, here or in worker processes; results in order."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol, TypeVar

from bfpsim.search.crew import LocalCrew

T = TypeVar("T")


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
