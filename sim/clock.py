"""SimPy's environment, which also tells what it has yet to do."""

from __future__ import annotations

from collections.abc import Iterator

import simpy


class Clock(simpy.Environment):
    """An environment that tells, when asked, what is `pending`."""

    def __init__(self) -> None:
        super().__init__()
        for name in ("event", "process", "timeout"):  # SimPy binds its own class's early, no other
            setattr(self, name, getattr(self, name))

    def pending(self) -> Iterator[tuple[int, object]]:
        """Who resumes, how many cycles from now, in the order in which it will happen.

        A process; or whatever else is called back.
        """
        now = int(self.now)
        for when, _, _, event in sorted(self._queue):  # no two of the same number
            for resumed in event.callbacks or ():
                yield int(when) - now, resumed.__self__  # type: ignore[attr-defined]
