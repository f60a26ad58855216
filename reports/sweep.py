"""A sweep's points as a table: all of them, or of many the best of each network."""

from __future__ import annotations

from collections.abc import Iterable
from math import prod
from typing import TYPE_CHECKING

from bfpsim.reports.capacity import constant_price_text
from bfpsim.reports.levels import OUTERMOST, more_than_movement
from bfpsim.reports.report import Report
from bfpsim.reports.style import BITS, ENERGY, make_table, numbers, readable
from bfpsim.search.buffers import constant_prices

if TYPE_CHECKING:
    import pandas as pd
    from rich.table import Table

    from bfpsim.mapping.objective import Objective
    from bfpsim.search.sweep.point import Point
    from bfpsim.search.sweep.results import Results

_ROWS = 40
_ALIKE = ("arch", "formats", "objective", "model", "layers")  # shown where they differ
# What each objective minimises: the columns whose product it is, and the unit that it is shown in.
_COST = {
    "dram": (("dram_bits",), "Mbit", 1e6),
    "energy": (("energy_pj",), "mJ", 1e9),
    "latency": (("cycles",), "M cycles", 1e6),
    "edp": (("energy_pj", "cycles"), "J x cycles", 1e12),
}
# Columns of figures, and their units: of three decimals one bit is seen in kbit.
_BITS, _ENERGY = BITS[:-1], ENERGY[:-1]
_SHOWN = {
    "dram_bits": (OUTERMOST, _BITS),
    "compulsory_bits": ("compulsory", _BITS),
    "energy_pj": ("energy", _ENERGY),
    "all_energy_pj": ("all", _ENERGY),
    "cycles": ("cycles", ((1e6, "M"), (1e3, "k"))),
}


def sweep_report(results: Results, title: str) -> Report:
    """The points of a sweep, and how many of them failed."""
    frame = results.points_table()
    failed = int(frame["error"].notna().sum())
    summary = {"sweep": title, "store": str(results.store), "failed": failed}
    notes = ("failed",) if failed else ()
    return Report(points_table(frame, title), {"points": frame}, summary, notes)


def sweep_warnings(points: Iterable[Point]) -> list[str]:
    """What to know of a sweep's energies: a line where memories are resized at a constant price."""
    resized = constant_prices(dict.fromkeys(point.arch for point in points))
    return [constant_price_text(resized)] if resized else []


def points_table(frame: pd.DataFrame, title: str) -> Table:
    """The table of `Results.points_table`; of many points those that cost least."""
    *names, _ = frame.columns[1 : list(frame.columns).index("capacity_bits")]
    labels = [name for name in names if name not in _ALIKE or len(frame[name].unique()) > 1]
    if len(frame) > _ROWS:
        best, which = _cheapest(frame)
        title = f"{title}, {len(frame):,} points: the best {which}, of each network"
        frame = best
    table = make_table(title, "point", *labels)
    scales = {}
    shown = dict(_SHOWN)
    if more_than_movement(frame.dropna(subset="energy_pj")):
        shown["energy_pj"] = "movement", _ENERGY
    else:
        del shown["all_energy_pj"]
    for name, (label, units) in shown.items():
        # Traffic and its floor are in one unit, and so are energies.
        alike = frame[[other for other, (_, own) in shown.items() if own is units]]
        known = alike.max().dropna()
        scales[name], unit = readable(known.max() if len(known) else 0, units)
        numbers(table, f"{label}\n[{unit}]")
    numbers(table, "array\nused [%]")
    table.add_column("", vertical="bottom")
    for row in frame.to_dict(orient="records"):
        failed = isinstance(row["error"], str)
        table.add_row(
            *(str(row[name]) for name in ("point", *labels)),
            *("" if failed else f"{row[name] / by:,.3f}" for name, by in scales.items()),
            "" if failed else f"{100 * row['utilisation']:.1f}",
            row["error"] if failed else "",
        )
    return table


def cost_text(objective: Objective, cost: float) -> str:
    """A cost with its unit: DRAM bits, pJ or cycles as "1.234 Mbit"."""
    _, unit, by = _COST[objective]
    return f"{cost / by:,.3f} {unit}"


def _cheapest(frame: pd.DataFrame) -> tuple[pd.DataFrame, str]:
    """The points that cost least by their objective, cheapest first, and what they are of."""
    import pandas as pd

    rows = frame.to_dict(orient="records")
    factors = [[row[column] for column in _COST[row["objective"]][0]] for row in rows]
    # A point that failed costs nothing that is known.
    costs = [pd.NA if any(map(pd.isna, own)) else float(prod(own)) for own in factors]
    priced = frame.assign(cost=pd.array(costs, "Float64"))
    groups = [own for _, own in priced.groupby(["network", "objective"], sort=False)]
    most = max(1, _ROWS // len(groups))
    by = ", ".join(dict.fromkeys(frame["objective"]))
    return pd.concat([own.nsmallest(most, "cost") for own in groups]), f"{most} by {by}"
