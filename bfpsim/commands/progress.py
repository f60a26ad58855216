"""Progress of long work on stderr: a bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from bfpsim.commands.emit import complain, shown

if TYPE_CHECKING:
    from bfpsim.search.sweep.run import Progress

_EVERY = 10.0  # seconds between two lines where there is no terminal


@contextmanager
def progress(title: str, steps: int | None) -> Iterator[Callable[[str], None]]:
    """A bar of so many steps, to be called with the name of each; without a number, a line.

    Where there is no terminal, a line every ten seconds: "mapping resnet18: conv1 (1 of 12)".
    """
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
    from rich.progress import Progress as Bars
    from rich.text import Text

    console = Console(stderr=True)
    if not console.is_terminal:
        from bfpsim.search.phases import progress_lines

        with progress_lines(_seldom(complain))(title, steps) as step:
            yield step
    elif steps is None:
        with console.status(Text(shown(title))) as status:
            yield lambda step: status.update(Text(shown(f"{title}: {step}")))
    else:
        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[at]}", markup=False),
        )
        with Bars(*columns, console=console, transient=True) as bars:
            task = bars.add_task(shown(title), total=steps, at="")
            yield lambda step: bars.update(task, advance=1, at=shown(step))


@contextmanager
def sweep_progress(title: str) -> Iterator[Callable[[Progress], None]]:
    """A bar of a sweep's points: done and failed, rate, time left, and the best so far."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bars

    console = Console(stderr=True)
    tell = _seldom(complain)
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=20),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}", markup=False),
    )
    with Bars(*columns, console=console, transient=True, disable=not console.is_terminal) as bars:

        def show(progress: Progress) -> None:
            if not console.is_terminal:
                more = f"; {note}" if (note := _note(progress)) else ""
                tell(f"{title}: {progress.done} of {progress.total} points{more}")
                return
            if not bars.tasks:  # from what earlier runs did: it says nothing of this one's rate
                bars.add_task(
                    title, total=progress.total, completed=progress.done, rate="", note=""
                )
            (task,) = bars.tasks
            rate = f"{task.speed:.2g}/s" if task.speed else ""
            bars.update(task.id, completed=progress.done, rate=rate, note=shown(_note(progress)))

        yield show


def _seldom(write: Callable[[str], None]) -> Callable[[str], None]:
    """What writes a line only if so many seconds have passed since the one before, or the start."""
    last = time.monotonic()

    def tell(line: str) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last >= _EVERY:
            last = now
            write(line)

    return tell


def _note(progress: Progress) -> str:
    """Failed points, and the best so far."""
    from bfpsim.reports.sweep import cost_text

    parts = []
    if progress.stopping:
        parts.append("keeping what has begun; Ctrl-C again drops it")
    if progress.failed:
        parts.append(f"{progress.failed} failed")
    if progress.best is not None:
        point, cost = progress.best
        which = [point.network.name, point.formats_name, *(str(value) for _, value in point.axes)]
        parts.append(f"best {cost_text(point.objective, cost)}: {' '.join(which)}")
    return ", ".join(parts)
