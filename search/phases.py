"""The progress of long work: phases of so many steps."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol


class Phases(Protocol):
    """Opens a phase of the work; the phase is called with the name of each step that is done."""

    def __call__(
        self, title: str, steps: int | None
    ) -> AbstractContextManager[Callable[[str], None]]:
        """Open a phase of so many steps; None if nobody knows how many."""


@contextmanager
def silent(title: str, steps: int | None) -> Iterator[Callable[[str], None]]:
    """`Phases` that say nothing."""
    yield lambda _: None


def progress_lines(write: Callable[[str], None]) -> Phases:
    """`Phases` that write a line for each step: "evaluating net: e8m7 (17 of 168)".

    write: called with each line, such as `print`
    """

    @contextmanager
    def phase(title: str, steps: int | None) -> Iterator[Callable[[str], None]]:
        done = 0

        def step(name: str) -> None:
            nonlocal done
            done += 1
            write(f"{title}: {name} ({done} of {steps})" if steps else f"{title}: {name}")

        yield step

    return phase
