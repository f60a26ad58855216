"""The `report` command: a sweep's store as tables, figures and one page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bfpsim.commands.arguments import TrustOption
from bfpsim.commands.emit import FigureEndings, check_folder, endings, say
from bfpsim.commands.progress import progress


def report(
    store: Annotated[
        Path, typer.Argument(metavar="STORE", help="A file of results that `sweep` wrote.")
    ],
    out: Annotated[
        Path, typer.Option("--out", "-o", help="Write tables, figures and report.html here.")
    ],
    sweep: Annotated[
        Path | None,
        typer.Option(
            metavar="SPEC", help="The sweep's YAML file: only its points, and what is missing."
        ),
    ] = None,
    accuracy: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="A CSV file with label, energy_pj and accuracy_loss, to draw one over the other.",
        ),
    ] = None,
    figures: FigureEndings = "png",
    trust: TrustOption = False,
) -> None:
    """Show what a sweep found: tables, figures, and one page with both that works offline.

    Buffer size, energy by level and tensor, stalls, roofline, models against simulation. A sweep
    that is empty, running or failed in part is reported as far as it is, and what is missing said.
    """
    check_folder(out)
    drawn = endings(figures)
    from bfpsim.reports.store.write import write_report

    with progress("report", None) as step:
        made = write_report(
            store, out, sweep=sweep, accuracy=accuracy, trust=trust, figures=drawn, progress=step
        )
    counts = {"points": made.points, "failed": made.failed, "missing": made.missing}
    listed = ", ".join(
        f"{count:,} {name}" for name, count in counts.items() if count or name == "points"
    )
    say(f"wrote report.html and {len(made.files) - 1} tables and figures to {out}: {listed}")
