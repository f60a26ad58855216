"""A store's report as files in a folder: which tables the page shows, and in which units."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from bfpsim.reports.capacity import constant_price_text
from bfpsim.reports.levels import levels_in, more_than_movement
from bfpsim.reports.report import write_csv
from bfpsim.reports.store.figures import Units, draw_figures
from bfpsim.reports.store.findings import Findings, read_findings
from bfpsim.reports.store.page import Column, PageTable, Section, render
from bfpsim.reports.style import ENERGY, TIME, Ending, Unit, readable
from bfpsim.reports.tables import demand_text
from bfpsim.reports.tradeoff import read_accuracies, unbeaten
from bfpsim.workloads.files.atomic import all_or_none, write_atomic

if TYPE_CHECKING:
    import pandas as pd

_FIRST = ("gaps", "points")  # of the page's tables
_KIB = 8192
_PARTS = 5  # digits of what a layer or a flow adds to numbers of 3
_LAYERS = 250_000  # rows of layers that the page holds at most

_FLOORS = {"compulsory_bits": "compulsory", "exact_bits": "exact", "paper_bits": "paper"}
_CYCLES = {
    "cycles": "cycles",
    "steady_cycles": "multiplying",
    "fill_cycles": "filling",
    "port_cycles": "held up by ports",
    "stall_I_cycles": "waiting for I",
    "stall_W_cycles": "waiting for W",
    "stall_O_cycles": "waiting for O",
    "vector_cycles": "vector unit",
    "vector_stall_cycles": "vector unit waiting",
}
_OF_PROGRAMS = ("vector_cycles", "vector_stall_cycles")
_SHARES = {
    "utilisation": "array used",
    "spatial_utilisation": "lanes used while multiplying",
    "temporal_utilisation": "time multiplying",
}


@dataclass(frozen=True, slots=True)
class StoreReport:
    """The files of a store's report, and what they are about.

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
    trust: bool = False,
    figures: Sequence[Ending] = ("png",),
    progress: Callable[[str], None] | None = None,
) -> StoreReport:
    """Write what a store holds: points.csv, layers.csv, traffic.csv, figures, and report.html.

    store: a file that `bfpsim sweep` wrote, finished or not
    folder: is made if it does not exist; files of the same names are replaced, all or none
    sweep: the sweep's YAML file; without it, all points of the store are taken, and which are
        missing is not known
    accuracy: a CSV file with the columns label, energy_pj [pJ] and accuracy_loss [share of the
        images], such as the choices of a search: adds the figure of accuracy against energy
    trust: whether the sweep's networks may be functions, which are called, as in `load_spec`
    figures: what they are written as: "png", "pdf", "svg", or several of these
    progress: called with a few words now and then

    Equal results make equal bytes. Raises StoreError, SweepError or AccuracyError for a file that
    cannot be read, OSError if the folder cannot be written.
    """
    tell = progress or (lambda _: None)
    accuracies = None if accuracy is None else read_accuracies(accuracy)
    findings = read_findings(store, sweep, progress, trust=trust)
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
    states = findings.gaps["state"].value_counts()
    names, sections = [], []
    with all_or_none(folder) as out:
        for name, frame in tables.items():
            tell(f"writing {name}.csv")
            write_csv(frame, out / f"{name}.csv")
            names.append(f"{name}.csv")
        for section, paths in draw_figures(findings, accuracies, out, tell, figures):
            sections.append(section)
            names += [path.name for path in paths]
        tell("writing report.html")
        page = render(
            f"Sweep: {Path(store).name}",
            _facts(findings, sweep, accuracy),
            _warnings(findings),
            _parts(_page_tables(findings, tables), sections),
        )
        write_atomic(out / "report.html", page)
        names.append("report.html")
    missing = int(states.get("missing", 0))
    files = tuple(Path(folder) / name for name in names)
    return StoreReport(files, len(findings.points), int(states.sum()) - missing, missing)


def _parts(tables: list[PageTable], sections: list[Section]) -> list[Section | PageTable]:
    """The page's parts in order: what is missing, the points, the figures, the long tables."""
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
    """Sentences on what is not there, and on what follows from the sweep's choices."""
    warnings = []
    if not len(findings.points):
        warnings.append("There is no result yet: no table of results and no figure can be shown.")
    states = findings.gaps["state"].value_counts().sort_index()
    if len(states):
        counts = ", ".join(f"{count:,} {state}" for state, count in states.items())
        warnings.append(f"Points without a result: {counts}; listed below.")
    if findings.constant_prices:
        warnings.append(f"{constant_price_text(findings.constant_prices)}.")
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
    for network, best in findings.best.items():
        warnings += [
            f"{network}, point {best.point}: {text}." for text in demand_text(best.record.demands)
        ]
    if "paper_bits" not in findings.points:
        silent = list(findings.best)
    else:
        models = findings.points.groupby("network", sort=False)["paper_bits"].count()
        silent = [name for name in findings.best if not models[name]]
    if silent:
        warnings.append(
            "Swept without models (ladder: false, or layers: program), so they are not compared: "
            f"{', '.join(silent)}."
        )
    return warnings


def _page_tables(findings: Findings, tables: dict[str, pd.DataFrame]) -> list[PageTable]:
    """The tables of the page: what is missing and the points first.

    tables: the frames of the CSV files, by name
    """
    shown = []
    gaps = tables["gaps"]
    if len(gaps):
        shown.append(
            PageTable(
                "gaps",
                "Without a result",
                "gaps.csv. Failed points are tried again by sweep --retry, missing ones by sweep.",
                gaps,
                _gap_columns(gaps),
            )
        )
    if len(findings.points):
        points, layers, traffic = tables["points"], tables["layers"], tables["traffic"]
        units = Units.of(points)
        note, outermost = "layers.csv.", levels_in(points)[0].name
        if len(layers) > _LAYERS:
            layers = layers[layers["point"].isin([best.point for best in findings.best.values()])]
            note = (
                f"layers.csv has all {len(tables['layers']):,} rows, too many for a page; these "
                "are the layers of each network's point of least energy."
            )
        shown += [
            PageTable(
                "points",
                "Points",
                f"points.csv. Energy is of data movement; compulsory: {outermost} payload that no "
                f"mapping avoids; paper, exact: {outermost} bits by the models.",
                points,
                _point_columns(points, findings.axes, units),
            ),
            PageTable("layers", "Layers", note, layers, _layer_columns(layers, units)),
            PageTable(
                "traffic",
                "Traffic of the best points",
                "traffic.csv: every flow of bits at each network's point of least energy. The "
                "energies add up to that point's.",
                traffic,
                _traffic_columns(traffic, units),
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
                _accuracy_columns(accuracy),
            )
        )
    return shown


def _point_columns(points: pd.DataFrame, axes: Sequence[str], units: Units) -> tuple[Column, ...]:
    """Columns of what differs between points, and of their sums."""
    labels = [name for name in ("arch", "objective", "model", "layers") if _differs(points, name)]
    stays = [name for name in ("activations", "stay_on_chip") if name in points]
    return (
        Column("point", "point", digits=0),
        *(Column(name, name) for name in ("network", *labels, "formats", *axes)),
        Column("capacity_bits", "buffers [KiB]", _KIB, 1),
        *(Column(name, name.replace("_", " "), digits=0) for name in stays),
        *_unit_columns(points, {"seconds": "time"}, readable(points["seconds"].max(), TIME)),
        *_figures(points, units),
    )


def _layer_columns(layers: pd.DataFrame, units: Units) -> tuple[Column, ...]:
    """Layers, their mappings and sums."""
    return (
        Column("point", "point", digits=0),
        *(Column(name, name) for name in layers.columns[1 : list(layers.columns).index("steps")]),
        Column("steps", "steps", digits=0),
        *_figures(layers, units, _PARTS),
    )


def _traffic_columns(traffic: pd.DataFrame, units: Units) -> tuple[Column, ...]:
    """Flows."""
    names = ("network", "layer", "level", "tensor", "direction", "kind")
    return (
        Column("point", "point", digits=0),
        *(Column(name, name) for name in names),
        Column("bits", "bits", digits=0),
        *_unit_columns(traffic, {"energy_pj": "energy"}, units.energy, _PARTS),
    )


def _gap_columns(gaps: pd.DataFrame) -> tuple[Column, ...]:
    """All that is known; keys only where nothing else is."""
    shown = [str(name) for name in gaps.columns if gaps[name].notna().any()]
    if "network" in shown:
        shown.remove("key")
    return tuple(Column(name, name, digits=0 if name == "point" else None) for name in shown)


def _accuracy_columns(accuracies: pd.DataFrame) -> tuple[Column, ...]:
    """Labels, energies and losses."""
    return (
        Column("label", "label"),
        *_unit_columns(
            accuracies, {"energy_pj": "energy"}, readable(accuracies["energy_pj"].max(), ENERGY)
        ),
        Column("accuracy_loss", "accuracy lost [%]", 0.01, 2),
        Column("unbeaten", "unbeaten"),
    )


def _figures(frame: pd.DataFrame, units: Units, digits: int = 3) -> tuple[Column, ...]:
    outermost, *inner = levels_in(frame)
    energies = {level.column("energy_pj"): level.name for level in (outermost, *inner)}
    totals = {"energy_pj": "energy"}
    if more_than_movement(frame):
        totals = {"all_energy_pj": "all energy", "energy_pj": "movement"}
    volumes = {
        outermost.column("bits"): outermost.name,
        **_FLOORS,
        **{level.column("bits"): level.name for level in inner},
    }
    return (
        *_unit_columns(frame, {**totals, **energies}, units.energy, digits),
        *(
            Column(name, label, digits=0)
            for name, label in _CYCLES.items()
            if name not in _OF_PROGRAMS or frame[name].any()
        ),
        *(Column(name, f"{label} [%]", 0.01, 1) for name, label in _SHARES.items()),
        *_unit_columns(frame, volumes, units.bits, digits),
    )


def _unit_columns(
    frame: pd.DataFrame, labels: dict[str, str], unit: Unit, digits: int = 3
) -> tuple[Column, ...]:
    """Columns in the one unit."""
    scale, name_of = unit
    return tuple(
        Column(name, f"{label} [{name_of}]", scale, 0 if name_of == "bit" else digits)
        for name, label in labels.items()
        if name in frame
    )


def _differs(frame: pd.DataFrame, name: str) -> bool:
    return name in frame and len(frame[name].unique()) > 1
