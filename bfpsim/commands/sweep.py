"""The `sweep` command: every point of a sweep, simulated once and kept."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bfpsim.commands.arguments import Csv, Json, Out, UsageError, one_of
from bfpsim.commands.emit import Report, emit
from bfpsim.reports.units import BITS, ENERGY, readable

if TYPE_CHECKING:
    import pandas as pd
    from rich.table import Table

    from bfpsim.search.sweep.results import Results
    from bfpsim.search.sweep.run import Progress

_ROWS = 40  # of the terminal's table
_ALIKE = ("arch", "formats", "objective", "model")  # shown where they differ
# What each objective minimises: its column, and the unit that it is shown in.
_COST = {
    "dram": ("dram_bits", "Mbit", 1e6),
    "energy": ("energy_pj", "mJ", 1e9),
    "latency": ("cycles", "M cycles", 1e6),
}

# The terminal's columns of figures, and their units: of three decimals one bit is seen in kbit.
_SHOWN = {
    "dram_bits": ("DRAM", BITS[:-1]),
    "compulsory_bits": ("compulsory", BITS[:-1]),
    "energy_pj": ("energy", ENERGY[:-1]),
    "cycles": ("cycles", ((1e6, "M"), (1e3, "k"))),
}


def sweep(
    spec: Annotated[
        Path,
        typer.Argument(
            metavar="SPEC", help="A YAML file: arch, networks, formats, axes; see docs/sweeps.md."
        ),
    ],
    store: Annotated[
        Path | None,
        typer.Option(
            help="Where results are kept and looked up; by default SPEC with the ending .sqlite."
        ),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(min=1, help="Processes on this machine; by default one per core."),
    ] = None,
    cluster: Annotated[
        str | None,
        typer.Option(metavar="ADDRESS", help="A Dask scheduler (tcp://...) in their place."),
    ] = None,
    retry: Annotated[bool, typer.Option("--retry", help="Try failed points again.")] = False,
    as_json: Json = False,
    as_csv: Csv = False,
    out: Out = None,
) -> None:
    """Simulate every point of a sweep that the store does not hold yet.

    Every finished point is kept at once: after a stop of any kind, the same command goes on. Points
    that fail are kept with their error. With --out: points, layers and traffic, as CSV and Parquet.
    """
    one_of(as_json, as_csv, out)
    if cluster is not None and workers is not None:
        raise UsageError("--cluster and --workers exclude each other; give one")
    from bfpsim.search.sweep.run import sweep as run
    from bfpsim.search.sweep.spec import load_spec

    wanted = load_spec(spec)
    kept = store or spec.with_suffix(".sqlite")
    try:
        with _bar(spec.stem) as progress:
            results = run(
                wanted, kept, workers=workers, cluster=cluster, retry=retry, progress=progress
            )
    except KeyboardInterrupt as stop:
        done = f"interrupted: {stop}" if str(stop) else "interrupted"
        print(f"bfpsim: {done}; the same command goes on from there", file=sys.stderr)
        raise typer.Exit(130) from None
    if out is not None:
        names = ", ".join(path.name for path in results.export(out))
        print(f"wrote {names} to {out}")
    else:
        emit(_report(spec.stem, results), as_json, as_csv, None)


def _report(title: str, results: Results) -> Report:
    frame = results.points_table()
    failed = int(frame["error"].notna().sum())
    summary: dict[str, Any] = {
        "sweep": title,
        "store": str(results.store),
        "failed": failed,
    }
    notes = ("failed",) if failed else ()
    return Report(_table(title, frame), {"points": frame}, summary, notes)


def _table(title: str, frame: pd.DataFrame) -> Table:
    """The points, or of many those that cost their network least."""
    from rich.markup import escape

    from bfpsim.reports.style import make_table, numbers

    *names, _ = frame.columns[1 : list(frame.columns).index("capacity_bits")]
    told = [name for name in names if name not in _ALIKE or len(frame[name].unique()) > 1]
    if len(frame) > _ROWS:
        best, which = _cheapest(frame)
        title = f"{title}, {len(frame):,} points: the best {which}, of each network"
        frame = best
    table = make_table(title, "point", *told)
    scales = {}
    for name, (label, units) in _SHOWN.items():
        known = frame[name].dropna()
        scales[name], unit = readable(known.max() if len(known) else 0, units)
        numbers(table, f"{label}\n[{unit}]")
    table.add_column("", vertical="bottom")
    for row in frame.to_dict(orient="records"):
        failed = isinstance(row["error"], str)
        table.add_row(
            *(escape(str(row[name])) for name in ("point", *told)),
            *("" if failed else f"{row[name] / by:,.3f}" for name, by in scales.items()),
            escape(row["error"]) if failed else "",
        )
    return table


def _cheapest(frame: pd.DataFrame) -> tuple[pd.DataFrame, str]:
    """The points that cost least by their objective, cheapest first, and what they are of."""
    import pandas as pd

    costs = [row[_COST[row["objective"]][0]] for row in frame.to_dict(orient="records")]
    priced = frame.assign(cost=pd.array(costs, "Float64"))
    groups = [own for _, own in priced.groupby(["network", "objective"], sort=False)]
    most = max(1, _ROWS // len(groups))
    by = ", ".join(dict.fromkeys(frame["objective"]))
    return pd.concat([own.nsmallest(most, "cost") for own in groups]), f"{most} by {by}"


@contextmanager
def _bar(title: str) -> Iterator[Callable[[Progress], None]]:
    """Points done and failed, rate, time left and best so far, on a terminal's stderr."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bars

    console = Console(stderr=True)
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
            if not bars.tasks:  # from what earlier runs did: it says nothing of this one's rate
                bars.add_task(
                    title, total=progress.total, completed=progress.done, rate="", note=""
                )
            (task,) = bars.tasks
            rate = f"{task.speed:.2g}/s" if task.speed else ""
            bars.update(task.id, completed=progress.done, rate=rate, note=_note(progress))

        yield show


def _note(progress: Progress) -> str:
    """Failed points, and the best so far."""
    parts = []
    if progress.stopping:
        parts.append("keeping what has begun; Ctrl-C again drops it")
    if progress.failed:
        parts.append(f"{progress.failed} failed")
    if progress.best is not None:
        point, cost = progress.best
        _, unit, by = _COST[point.objective]
        which = [point.network.name, point.formats_name, *(str(value) for _, value in point.axes)]
        parts.append(f"best {cost / by:,.3f} {unit}: {' '.join(which)}")
    return ", ".join(parts)
