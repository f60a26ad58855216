"""The `sweep` command: every point of a sweep, simulated once and kept."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bfpsim.commands.arguments import TrustOption, UsageError, with_groups
from bfpsim.commands.emit import Output, complain, say
from bfpsim.commands.progress import sweep_progress


@with_groups
def sweep(
    spec: Annotated[
        Path,
        typer.Argument(
            metavar="SPEC", help="A YAML file: arch, networks, formats, axes; see docs/sweeps.md."
        ),
    ],
    *,
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
    trust: TrustOption = False,
    output: Output,
) -> None:
    """Simulate every point of a sweep that the store does not hold yet.

    Every finished point is kept at once: after a stop of any kind, the same command goes on. Points
    that fail are kept with their error. With --out: points, layers and traffic, as CSV and Parquet.
    """
    output.check()
    if cluster is not None and workers is not None:
        raise UsageError("--cluster and --workers exclude each other; give one")
    from bfpsim.reports.sweep import sweep_report, sweep_warnings
    from bfpsim.search.sweep.run import sweep as run
    from bfpsim.search.sweep.spec import load_spec

    wanted = load_spec(spec, trust=trust)
    kept = store or spec.with_suffix(".sqlite")
    try:
        with sweep_progress(spec.stem) as progress:
            results = run(
                wanted, kept, workers=workers, cluster=cluster, retry=retry, progress=progress
            )
    except KeyboardInterrupt as stop:
        done = f"interrupted: {stop}" if str(stop) else "interrupted"
        complain(f"{done}; the same command goes on from there")
        raise typer.Exit(130) from None
    if output.out is not None:
        names = ", ".join(path.name for path in results.export(output.out))
        say(f"wrote {names} to {output.out}")
    else:
        output.emit(sweep_report(results, spec.stem))
    for line in sweep_warnings(results.points):
        complain(line)
