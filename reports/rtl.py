"""Tables of the array as RTL: what it is made of, and how it does beside the simulator."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from bfpsim.reports.report import Report, together
from bfpsim.reports.style import make_table, numbers
from bfpsim.sim.rtl.design import Design

if TYPE_CHECKING:
    from bfpsim.sim.rtl.trial import Trial

_STAYS = {"W": "weight", "I": "input", "O": "output"}


def rtl_report(name: str, design: Design, trials: Sequence[Trial] = ()) -> Report:
    """A design's parts and widths, the cycles that it takes beyond the simulator's, and trials.

    name: of the architecture
    """
    import pandas as pd

    parts = _parts(design)
    table = make_table(f"{name} as RTL", "part", "what it is")
    for part, text in parts:
        table.add_row(part, text)
    cycles = make_table("Cycles of a tile that the simulator does not count", "for")
    numbers(cycles, "cycles")
    for reason, count in design.beyond.items():
        cycles.add_row(reason, str(count))
    tables = [table, cycles]
    frames = {
        "parts": pd.DataFrame(parts, columns=["part", "text"]),
        "cycles": pd.DataFrame(design.beyond.items(), columns=["reason", "cycles"]),
    }
    summary: dict[str, Any] = {"arch": name, "exact_terms": design.exact_terms}
    notes: tuple[str, ...] = ()
    if trials:
        tables.append(_trials_table(trials))
        frames["trials"] = pd.DataFrame([_row(trial) for trial in trials])
        agree = sum(trial.agrees for trial in trials)
        summary |= {"agree": f"{agree} of {len(trials)} layers"}
        notes = ("agree",)
    return Report(together(*tables), frames, summary, notes)


def _parts(design: Design) -> list[tuple[str, str]]:
    def operand(tensor: str) -> str:
        fmt = design.formats.of(tensor)  # type: ignore[arg-type]
        code = f", exponent code {fmt.exponent_bits} bit" if fmt.exponent_bits else ""
        return f"mantissa {fmt.mantissa_bits} bit{code} ({fmt})"

    i, w = design.pieces
    cut = f", {design.passes} passes: {i} pieces of I x {w} of W" if design.passes > 1 else ""
    sure = f"{design.exact_terms:,} products" if design.exact_terms else "no product"
    way = "down the columns" if design.sums_move_down else "along the rows"
    return [
        ("PEs", f"{design.rows} rows of {design.row_dims} x {design.cols} columns of "
                f"{design.col_dims}, {_STAYS[design.held]} stationary, fill {design.fill}"),
        ("I", operand("I")),
        ("W", operand("W")),
        ("O", operand("O")),
        ("multiplier", f"{min(design.formats.I.mantissa_bits, design.mac_bits)} x "
                       f"{min(design.formats.W.mantissa_bits, design.mac_bits)} bit{cut}"),
        ("alignment", f"up to {design.reach} bit to the left"),
        ("sums", f"{design.sum_bits} bit, exact for certain up to {sure}; they leave {way}"),
        ("registers in PEs", f"{design.register_bits:,} bit, "
                             f"{design.register_bits / (design.rows * design.cols):.0f} in each"),
        ("accumulators", f"{design.banks} banks of {design.entries} sums"),
        ("requantiser", f"blocks of up to {design.formats.O.block_size}, a sum or result a cycle"),
    ]  # fmt: skip


def _trials_table(trials: Sequence[Trial]) -> Any:
    table = make_table("Random layers, on the array in RTL and in the simulator", "layer", "tiles")
    numbers(table, "simulated\n[cycles]", "expected\n[cycles]", "RTL\n[cycles]")
    for column in ("cycles", "sums", "results"):
        table.add_column(column, justify="right", vertical="bottom")
    for trial in trials:
        yes = ["equal" if same else "NOT EQUAL" for same in (
            trial.rtl_cycles == trial.expected, trial.sums, trial.results
        )]  # fmt: skip
        if trial.overflow:
            yes[1:] = [f"{text}, overflow" for text in yes[1:]]
        counts = (f"{n:,}" for n in (trial.cycles, trial.expected, trial.rtl_cycles))
        table.add_row(_shape(trial), str(trial.tiles), *counts, *yes)
    return table


def _shape(trial: Trial) -> str:
    layer = trial.layer
    return f"K{layer.K} C{layer.C} P{layer.P} Q{layer.Q} R{layer.R} S{layer.S}"


def _row(trial: Trial) -> dict[str, Any]:
    return {
        "layer": _shape(trial),
        "mapping": str(trial.mapping),
        "tiles": trial.tiles,
        "cycles": trial.cycles,
        "expected_cycles": trial.expected,
        "rtl_cycles": trial.rtl_cycles,
        "sums_equal": trial.sums,
        "results_equal": trial.results,
        "overflow": trial.overflow,
    }
