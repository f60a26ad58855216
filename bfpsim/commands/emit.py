"""Results handed to the user: a table on the terminal, JSON, CSV, or files in a folder."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd
    from rich.console import RenderableType

    from bfpsim.arch import Arch
    from bfpsim.quant.formats import LayerFormats
    from bfpsim.sim.result import NetworkResult
    from bfpsim.sim.validate import Validation
    from bfpsim.workloads import Network


@dataclass(frozen=True)
class Report:
    """One command's results in every shape.

    table: what the terminal shows
    frames: tables by file name, the first one being what --csv prints
    summary: totals, for JSON and below the terminal's table
    notes: lines of the summary that the terminal shows too
    figures: what draws a PNG, by file name
    """

    table: RenderableType
    frames: dict[str, pd.DataFrame]
    summary: dict[str, Any]
    notes: tuple[str, ...] = ()
    figures: dict[str, Callable[[Path], None]] = field(default_factory=dict)


def emit(report: Report, as_json: bool, as_csv: bool, out: Path | None) -> None:
    """Print the report, or write every table and the summary into a folder."""
    from bfpsim.reports.files import write_csv
    from bfpsim.workloads.files.atomic import write_atomic

    summary = {name: _plain(value) for name, value in report.summary.items()}
    if as_json:
        records = {name: _records(frame) for name, frame in report.frames.items()}
        print(json.dumps(summary | records, indent=2))
    elif as_csv:
        frame = next(iter(report.frames.values()))
        sys.stdout.write(frame.to_csv(index=False, lineterminator="\n"))
    elif out is not None:
        out.mkdir(parents=True, exist_ok=True)
        for name, frame in report.frames.items():
            write_csv(frame, out / f"{name}.csv")
        for name, draw in report.figures.items():
            draw(out / f"{name}.png")
        write_atomic(out / "summary.json", json.dumps(summary, indent=2) + "\n")
        tables = [f"{name}.csv" for name in report.frames]
        files = ", ".join([*tables, *(f"{name}.png" for name in report.figures), "summary.json"])
        print(f"wrote {files} to {out}")
    else:
        print_table(report.table)
        for key in report.notes:
            print(f"{key.replace('_', ' ')}: {report.summary[key]}")


def simulation_report(
    result: NetworkResult,
    formats: LayerFormats,
    more_frames: dict[str, pd.DataFrame] | None = None,
    more_summary: dict[str, Any] | None = None,
) -> Report:
    """What `simulate` shows; the extras of a run with images are shown on the terminal too."""
    from bfpsim.reports.tables import layers_frame, simulation_table

    more_summary = more_summary or {}
    summary = {
        "network": result.network,
        "arch": result.arch.name,
        "formats": str(formats),
        "dram_bits": sum(int(r.counts.total("DRAM")) for r in result.layers),
        "sram_bits": sum(int(r.counts.total("SRAM")) for r in result.layers),
        "energy_pj": result.energy_pj,
        "cycles": result.cycles,
        "seconds": result.seconds,
        **more_summary,
    }
    frames = {"traffic": result.traffic, "layers": layers_frame(result), **(more_frames or {})}
    return Report(simulation_table(result), frames, summary, tuple(more_summary))


def validation_report(result: Validation, formats: LayerFormats) -> Report:
    """What `validate` shows."""
    from bfpsim.reports.tables import validation_table

    summary = {
        "network": result.network,
        "arch": result.simulated.arch.name,
        "formats": str(formats),
        "agrees": result.agrees,
    }
    return Report(validation_table(result, _width()), {"validation": result.to_frame()}, summary)


def mapping_report(frame: pd.DataFrame) -> Report:
    """What `map` shows."""
    from bfpsim.reports.mapping import mapping_table, regret_line

    summary = {key: frame[key].iloc[0] for key in ("network", "arch", "formats", "objective")}
    notes: tuple[str, ...] = ()
    if "regret" in frame:
        summary["regret"] = regret_line(frame)
        notes = ("regret",)
    return Report(mapping_table(frame), {"mappings": frame}, summary, notes)


def solver_report(frame: pd.DataFrame) -> Report:
    """What `map --solver` shows."""
    from bfpsim.reports.mapping import solver_table

    summary = {key: frame[key].iloc[0] for key in ("network", "arch", "formats")}
    return Report(solver_table(frame), {"solvers": frame}, summary)


def curve_report(frame: pd.DataFrame) -> Report:
    """What `map --curve` shows."""
    from bfpsim.reports.curve import plot_curves
    from bfpsim.reports.mapping import curve_table

    summary = {key: frame[key].iloc[0] for key in ("network", "arch", "formats")}
    figures = {"curve": lambda path: plot_curves(frame, path)}
    return Report(curve_table(frame), {"curve": frame}, summary, (), figures)


def catalog_report(networks: Iterable[Network]) -> Report:
    """What `workload list` shows."""
    from bfpsim.reports.workload import catalog_frame, catalog_table

    frame = catalog_frame(networks)
    return Report(catalog_table(frame), {"workloads": frame}, {})


def workload_report(network: Network, arch: Arch, formats: LayerFormats) -> Report:
    """What `workload show` shows: layers, their sums by kind, and what is not modelled."""
    from rich.console import Group

    from bfpsim.reports import workload
    from bfpsim.reports.roofline import Roof, plot_roofline

    title = f"{network.name} in {formats} on {arch.name}"
    roof = Roof.of(arch, formats)
    layers = workload.workload_frame(network, formats, arch)
    kinds, host = workload.kinds_frame(layers), workload.host_frame(network)
    summary = {
        "network": network.name,
        "arch": arch.name,
        "formats": str(formats),
        "macs": network.macs,
        "host_macs": network.host_macs,
        "weights": workload.weights(network),
        "compulsory_bits": int(layers["compulsory_bits"].sum()),
        "peak_macs_per_cycle": float(roof.peak),
        "dram_bits_per_cycle": float(roof.bandwidth),
        "ridge_macs_per_bit": float(roof.ridge),
    }
    tables = [workload.workload_table(layers, title, _width()), workload.kinds_table(kinds)]
    if len(host):
        tables.append(workload.host_table(host))
    shown = Group(*(part for table in tables for part in (table, "")))
    frames = {"layers": layers, "kinds": kinds, "not_modelled": host}
    figures = {"roofline": lambda path: plot_roofline(layers, roof, title, path)}
    notes = ("peak_macs_per_cycle", "dram_bits_per_cycle", "ridge_macs_per_bit")
    return Report(shown, frames, summary, notes, figures)


def print_table(table: RenderableType) -> None:
    """Print a table at the terminal's width, or at 200 columns where there is no terminal."""
    from rich.console import Console

    Console(width=_width()).print(table)


def _width() -> int:
    from rich.console import Console

    console = Console()
    return console.width if console.is_terminal else 200


def _records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """Rows as plain Python values, numbers in full; null where JSON has no word for one."""
    return [
        {str(key): _plain(value) for key, value in row.items()}
        for row in frame.to_dict(orient="records")
    ]


def _plain(value: Any) -> Any:
    plain = value.item() if hasattr(value, "item") else value
    return None if isinstance(plain, float) and not math.isfinite(plain) else plain
