"""Tables of mappings: the best, what trusting a model costs, how solvers compare."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from bfpsim.mapping.file import save_mappings
from bfpsim.reports.levels import OUTERMOST
from bfpsim.reports.report import Report
from bfpsim.reports.style import make_table, numbers
from bfpsim.search.mappings import mappings_of

if TYPE_CHECKING:
    from pathlib import Path

    import pandas as pd
    from rich.table import Table

_EMPTY = {"order": "-", "tile": "whole", "inner": "whole"}
_UNITS = {
    "dram": ("Mbit", 1e6),
    "energy": ("µJ", 1e6),
    "latency": ("Mcycles", 1e6),
    "edp": ("J x cycles", 1e12),
}
_PRICED = {
    "exact": "by payload; simulate and validate take the least in whole bursts: --model full",
    "full": "in whole bursts, as simulate and validate do",
}


def mapping_table(frame: pd.DataFrame) -> Table:
    """The table of `map_network`: a row per distinct layer, and the network's sums."""
    first = frame.iloc[0]
    unit, scale = _UNITS[first["objective"]]
    rescored = "regret" in frame
    under = f" under {first['constraints']}" if "constraints" in frame else ""
    texts = [name for name in ("order", "tile", "inner") if name in frame]
    table = make_table(
        f"Mappings of {first['network']} in {first['formats']} on {first['arch']}, "
        f"least {first['objective']}{under} [{unit}]",
        *("layer", *texts),
        gap=1,
    )
    numbers(table, "layers", f"{first['model']}\nmodel")
    if rescored:
        numbers(table, "simulated", "model's\nchoice", "regret\n[%]", "rank")
    costs = ("cost", "simulated_cost", "trusted_cost")
    for row in frame.to_dict(orient="records"):
        cells = [row["layer"], *(row[name] or _EMPTY[name] for name in texts), str(row["layers"])]
        cells += [f"{row[name] / scale:,.3f}" for name in costs if name in row]
        if rescored:
            cells += [f"{100 * row['regret']:.1f}", str(row["rank"])]
        table.add_row(*cells)
    table.add_section()
    sums = [(frame[name] * frame["layers"]).sum() for name in costs if name in frame]
    total = ["total", *("" for _ in texts), str(frame["layers"].sum())]
    total += [f"{s / scale:,.3f}" for s in sums]
    if rescored:
        total += [f"{100 * (sums[2] / sums[1] - 1):.1f}", ""]
    table.add_row(*total, style="bold")
    return table


def write_mappings(frame: pd.DataFrame, path: Path) -> None:
    """Write the mappings of `map_network` to a file for `load_mappings`."""
    first = frame.iloc[0]
    comment = (
        f"Mappings of {first['network']} in {first['formats']} on {first['arch']}, "
        f"least {first['objective']} ({first['model']})"
    )
    save_mappings(path, mappings_of(frame), comment)


def front_table(frame: pd.DataFrame) -> Table:
    """The table of `map_fronts`: a row per point, from the fewest cycles to the fewest bits."""
    first = frame.iloc[0]
    texts = [name for name in ("order", "tile", "inner") if name in frame]
    table = make_table(
        f"Mappings of {first['network']} in {first['formats']} on {first['arch']} of which none "
        f"has both fewer cycles and fewer {OUTERMOST} bits",
        *("layer", *texts),
        gap=1,
    )
    numbers(table, "cycles", f"{OUTERMOST}\n[Mbit]", "proven")
    previous = ""
    for row in frame.to_dict(orient="records"):
        cells = [row["layer"] if row["layer"] != previous else ""]
        cells += [row[name] or _EMPTY[name] for name in texts]
        cells += [f"{row['cycles']:,}", _mbit(row["dram_bits"]), "yes" if row["proven"] else "no"]
        table.add_row(*cells)
        previous = row["layer"]
    return table


def front_report(frame: pd.DataFrame) -> Report:
    """The report of `map_fronts`."""
    summary = {key: frame[key].iloc[0] for key in ("network", "arch", "formats")}
    return Report(front_table(frame), {"front": frame}, summary)


def regret_line(frame: pd.DataFrame) -> str:
    """One sentence: how often, and by how much, simulation chose otherwise than the model."""
    differ = frame[frame["regret"] > 0]
    layers, of = int(differ["layers"].sum()), int(frame["layers"].sum())
    trusted = (frame["trusted_cost"] * frame["layers"]).sum()
    chosen = (frame["simulated_cost"] * frame["layers"]).sum()
    return (
        f"simulation chose another mapping than the model for {layers} of {of} layers; "
        f"trusting the model costs {100 * (trusted / chosen - 1):.1f} % more"
    )


def solver_table(frame: pd.DataFrame) -> Table:
    """The table of `compare_solvers`: a row per layer and solver."""
    first = frame.iloc[0]
    table = make_table(
        f"Least {OUTERMOST} payload of {first['network']} in {first['formats']} on "
        f"{first['arch']} [Mbit]",
        *("layer", "solver", "order", "tile"),
        gap=1,
    )
    numbers(table, "payload", "solver's\nobjective", "bound", "gap\n[%]", "status", "time\n[s]")
    previous = ""
    for row in frame.to_dict(orient="records"):
        table.add_row(
            row["layer"] if row["layer"] != previous else "",
            row["solver"],
            row["order"] or "-",
            row["tile"] or "whole",
            *(_mbit(row[name]) for name in ("dram_bits", "objective", "bound")),
            f"{100 * row['gap']:.2f}",
            row["status"],
            f"{row['seconds']:.2f}",
        )
        previous = row["layer"]
    return table


def mapping_report(frame: pd.DataFrame) -> Report:
    """The report of `map_network`: its table, how it is priced, the regret if the simulator chose.

    Its files have the mappings as `load_mappings` reads them.
    """
    first = frame.iloc[0]
    keys = ("network", "arch", "formats", "objective", "constraints")
    summary = {key: frame[key].iloc[0] for key in keys if key in frame}
    notes: tuple[str, ...] = ()
    if "regret" in frame:
        summary["regret"] = regret_line(frame)
        notes = ("regret",)
    elif first["objective"] in ("dram", "energy"):
        summary["priced"] = _PRICED[first["model"]]
        notes = ("priced",)
    files = {"mappings.yaml": partial(write_mappings, frame)}
    texts = frame.drop(columns=["mapping", "names"])
    return Report(mapping_table(frame), {"mappings": texts}, summary, notes, files=files)


def solver_report(frame: pd.DataFrame) -> Report:
    """The report of `compare_solvers`."""
    summary = {key: frame[key].iloc[0] for key in ("network", "arch", "formats")}
    return Report(solver_table(frame), {"solvers": frame}, summary)


def _mbit(bits: float) -> str:
    return f"{bits / 1e6:,.3f}"
