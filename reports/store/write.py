"""A store's report, as files in a folder."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from reports.files import write_csv
from reports.store import columns
from reports.store.achieved import plot_achieved
from reports.store.breakdown import plot_energy, plot_stalls
from reports.store.capacity import plot_capacity
from reports.store.findings import Findings, read_findings
from reports.store.ladder import plot_ladder
from reports.store.page import PageFigure, PageTable, Section, render
from reports.store.tradeoff import plot_tradeoff, read_accuracies, unbeaten
from workloads.files.atomic import write_atomic

if TYPE_CHECKING:
    import pandas as pd

_PAGE_LAYERS = 250_000  # rows of layers that the page holds at most


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
    tables = {"points": findings.points, "layers": findings.layers, "traffic": findings.traffic}
    if len(findings.gaps):
        tables["gaps"] = findings.gaps
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
    for section, paths in _sections(findings, accuracies, out, tell):
        sections.append(section)
        files += paths
    tell("writing report.html")
    states = findings.gaps["state"].value_counts()
    page = render(
        f"Sweep: {Path(store).name}",
        _facts(findings, sweep, accuracy),
        _warnings(findings),
        sections,
        _page_tables(findings, tables),
    )
    write_atomic(out / "report.html", page)
    files.append(out / "report.html")
    missing = int(states.get("missing", 0))
    return Written(tuple(files), len(findings.points), int(states.sum()) - missing, missing)


def _sections(
    findings: Findings, accuracies: pd.DataFrame | None, out: Path, tell: Callable[[str], None]
) -> Iterator[tuple[Section, list[Path]]]:
    """Draw every figure; what the page says about it, and its file."""

    def drawn(name: str, caption: str, draw: Callable[[Path], None]) -> tuple[PageFigure, Path]:
        tell(f"drawing {name}.png")
        path = out / f"{name}.png"
        draw(path)
        return PageFigure(caption, path.read_bytes()), path

    names = _file_names(findings.best)
    for place, (network, name) in enumerate(names.items()):
        section, files = zip(*_network_figures(findings, network, name, drawn), strict=True)
        yield Section(f"network-{place}", network, section), list(files)
    if accuracies is not None:
        figure, file = drawn(
            "accuracy",
            "Accuracy lost against the energy of data movement: every choice, and those that no "
            "other beats in both.",
            lambda path: plot_tradeoff(accuracies, path),
        )
        yield Section("tradeoff", "Accuracy against energy", (figure,)), [file]


_Drawn = Callable[[str, str, Callable[[Path], None]], tuple[PageFigure, Path]]


def _network_figures(
    findings: Findings, network: str, name: str, drawn: _Drawn
) -> Iterator[tuple[PageFigure, Path]]:
    """The figures of one network."""
    points = findings.points[findings.points["network"] == network]
    layers = findings.layers[findings.layers["network"] == network]
    best = findings.best[network]
    of_best = layers[layers["point"] == best.point]
    yield drawn(
        f"{name}-capacity",
        f"{network}: DRAM traffic and energy against buffer size, by format; dashed is what no "
        "mapping avoids.",
        lambda path: plot_capacity(points, path),
    )
    yield drawn(
        f"{name}-energy",
        f"{network}: energy by level and tensor, at each buffer size and by layer of point "
        f"{best.point}.",
        lambda path: plot_energy(points, layers, path),
    )
    yield drawn(
        f"{name}-stalls",
        f"{network}: cycles in which the PE array computes, and waits for a tile of I, W or O.",
        lambda path: plot_stalls(points, layers, path),
    )
    yield drawn(
        f"{name}-roofline",
        f"{network}: MACs per cycle that the layers of point {best.point} reach, under the roof of "
        "its PE array and DRAM channel.",
        lambda path: plot_achieved(best.record, of_best, path),
    )
    if "paper_bits" in points and points["paper_bits"].notna().any():
        judged = points[points["paper_bits"].notna()]
        yield drawn(
            f"{name}-models",
            f"{network}: DRAM traffic by the analytical models against the simulation, and what "
            "each effect that the paper's model leaves out adds to it.",
            lambda path: plot_ladder(judged, layers[layers["paper_bits"].notna()], path),
        )


def _file_names(networks: Iterable[str]) -> dict[str, str]:
    """Network -> a name for its files, which no other has."""
    names: dict[str, str] = {}
    for network in networks:
        plain = re.sub(r"[^A-Za-z0-9._-]+", "-", network).strip(".-") or "network"
        name, again = plain, 2
        while name.lower() in {taken.lower() for taken in names.values()}:
            name, again = f"{plain}-{again}", again + 1
        names[network] = name
    return names


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
    for state, count in findings.gaps["state"].value_counts().sort_index().items():
        points = "1 point is" if count == 1 else f"{count:,} points are"
        warnings.append(f"{points} {state}: see “Without a result”.")
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


def _page_tables(findings: Findings, tables: dict[str, pd.DataFrame]) -> list[PageTable]:
    shown = []
    if "gaps" in tables:
        gaps = tables["gaps"]
        shown.append(
            PageTable(
                "gaps",
                "Without a result",
                "gaps.csv. Failed points are tried again by sweep --retry, missing ones by sweep.",
                gaps,
                columns.gap_columns(gaps),
            )
        )
    if len(findings.points):
        points, layers, traffic = tables["points"], tables["layers"], tables["traffic"]
        note = "layers.csv."
        if len(layers) > _PAGE_LAYERS:
            layers = layers[layers["point"].isin([best.point for best in findings.best.values()])]
            note = (
                f"layers.csv has all {len(tables['layers']):,} rows, too many for a page; these "
                "are the layers of each network's point of least energy."
            )
        shown += [
            PageTable(
                "points",
                "Points",
                "points.csv. Energy is of data movement; compulsory: DRAM payload that no mapping "
                "avoids; paper, exact: DRAM bits by the models.",
                points,
                columns.point_columns(points, findings.axes),
            ),
            PageTable("layers", "Layers", note, layers, columns.layer_columns(layers)),
            PageTable(
                "traffic",
                "Traffic of the best points",
                "traffic.csv: every flow of bits at each network's point of least energy. The "
                "energies add up to that point's.",
                traffic,
                columns.traffic_columns(traffic),
            ),
        ]
    if "accuracy" in tables:
        accuracy = tables["accuracy"]
        shown.append(
            PageTable(
                "accuracy",
                "Accuracies",
                "accuracy.csv, as given; unbeaten: no other choice is as good in both.",
                accuracy,
                columns.accuracy_columns(accuracy),
            )
        )
    return shown
