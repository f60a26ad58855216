"""A store's report, as files in a folder."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from bfpsim.reports.files import write_csv
from bfpsim.reports.store.figures import draw_figures
from bfpsim.reports.store.findings import Findings
from bfpsim.reports.store.page import PageTable, Section, render
from bfpsim.reports.store.reading import read_findings
from bfpsim.reports.store.tables import page_tables
from bfpsim.reports.store.tradeoff import read_accuracies, unbeaten
from bfpsim.workloads.files.atomic import write_atomic

_FIRST = ("gaps", "points")  # of the page's tables


@dataclass(frozen=True, slots=True)
class Written:
    """What a report consists of.

    files: in the order in which they were written
    points, failed, missing: how many have a result, an error, or neither
    """

    files: tuple[Path, ...]
    points: int
    failed: int
    missing: int


def write_report(
    store: str | Path,
    folder: str | Path,
    *,
    sweep: str | Path | None = None,
    accuracy: str | Path | None = None,
    progress: Callable[[str], None] | None = None,
) -> Written:
    """Write what a store holds: points.csv, layers.csv, traffic.csv, figures, and report.html.

    store: a file that `bfpsim sweep` wrote, finished or not
    folder: is made if it does not exist; files of the same names are replaced
    sweep: the sweep's YAML file; without it, all points of the store are taken, and which are
        missing is not known
    accuracy: a CSV file with the columns label, energy_pj [pJ] and accuracy_loss [share of the
        images], such as the choices of a search: adds the figure of accuracy against energy
    progress: called with a few words now and then

    Equal results make equal bytes. Raises StoreError, SweepError or AccuracyError for a file that
    cannot be read, OSError if the folder cannot be written.
    """
    tell = progress or (lambda _: None)
    accuracies = None if accuracy is None else read_accuracies(accuracy)
    findings = read_findings(store, sweep, progress)
    out = Path(folder)
    out.mkdir(parents=True, exist_ok=True)
    tables = {
        "points": findings.points,
        "layers": findings.layers,
        "traffic": findings.traffic,
        "gaps": findings.gaps,  # without any too: an earlier report's would stay
    }
    if accuracies is not None:
        tables["accuracy"] = accuracies.assign(
            unbeaten=accuracies.index.isin(unbeaten(accuracies).index)
        )
    files = []
    for name, frame in tables.items():
        tell(f"writing {name}.csv")
        write_csv(frame, out / f"{name}.csv")
        files.append(out / f"{name}.csv")
    sections = []
    for section, paths in draw_figures(findings, accuracies, out, tell):
        sections.append(section)
        files += paths
    tell("writing report.html")
    states = findings.gaps["state"].value_counts()
    page = render(
        f"Sweep: {Path(store).name}",
        _facts(findings, sweep, accuracy),
        _warnings(findings),
        _in_order(page_tables(findings, tables), sections),
    )
    write_atomic(out / "report.html", page)
    files.append(out / "report.html")
    missing = int(states.get("missing", 0))
    return Written(tuple(files), len(findings.points), int(states.sum()) - missing, missing)


def _in_order(tables: list[PageTable], sections: list[Section]) -> list[Section | PageTable]:
    """What is missing, the points, the figures, and then the long tables."""
    first = [table for table in tables if table.name in _FIRST]
    return [*first, *sections, *(table for table in tables if table.name not in _FIRST)]


def _facts(findings: Findings, sweep: str | Path | None, accuracy: str | Path | None) -> list[str]:
    points, networks = len(findings.points), len(findings.best)
    facts = [
        f"{points:,} point{'s' * (points != 1)} of {networks} network{'s' * (networks != 1)}, "
        f"{len(findings.layers):,} simulated layers. The page rounds; the CSV files beside it hold "
        "every number in full."
    ]
    if sweep is None:
        facts.append(
            "Whether points are missing is not known: the sweep was not given (--sweep SPEC.yaml)."
        )
    if accuracy is None:
        facts.append(
            "No accuracies were given (--accuracy FILE.csv), so accuracy against energy is not "
            "shown."
        )
    return facts


def _warnings(findings: Findings) -> list[str]:
    """What is not there."""
    warnings = []
    if not len(findings.points):
        warnings.append("There is no result yet: no table of results and no figure can be shown.")
    states = findings.gaps["state"].value_counts().sort_index()
    if len(states):
        counts = ", ".join(f"{count:,} {state}" for state, count in states.items())
        warnings.append(f"Points without a result: {counts}; listed below.")
    if findings.others:
        warnings.append(
            f"The store holds {findings.others:,} more points, of other sweeps or versions."
        )
    alike = findings.alike
    if alike:
        points, differ = (
            ("points look", "they differ") if alike > 1 else ("point looks", "it differs")
        )
        warnings.append(
            f"{alike:,} {points} like another: {differ} in the objective, the model, the ladder, "
            "the version of bfpsim, or the layers of a network of that name. Give the sweep "
            "(--sweep SPEC.yaml) to tell them apart."
        )
    if "paper_bits" not in findings.points:
        silent = list(findings.best)
    else:
        models = findings.points.groupby("network", sort=False)["paper_bits"].count()
        silent = [name for name in findings.best if not models[name]]
    if silent:
        warnings.append(
            f"Swept without models (ladder: false), so they are not compared: {', '.join(silent)}."
        )
    return warnings
