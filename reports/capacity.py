"""Traffic and energy against buffer capacity: tables and figures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bfpsim.arch.cacti import NAMES
from bfpsim.arch.units import CAPACITY
from bfpsim.reports.levels import BUFFER, OUTERMOST, levels_in, more_than_movement
from bfpsim.reports.report import Report
from bfpsim.reports.style import (
    BLUE,
    GREY,
    ORANGE,
    SKY,
    VERMILION,
    capacity_ticks,
    drawing,
    layers_text,
    make_table,
    numbers,
    save,
)

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from numpy.typing import NDArray
    from rich.table import Table

_BITS_PER_MBIT = 1e6
_PJ_PER_MJ = 1e9
_NUMBERED = 10  # bars that have room for a number each
# Legends stand where no data can be.
_BELOW: dict[str, Any] = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.22), "ncols": 3}
_LINES = ((GREY, "s--"), (SKY, "^-"), (BLUE, "o-"), (VERMILION, "D-"), (ORANGE, "v-"))


def sweep_table(frame: pd.DataFrame) -> Table:
    """The table of `sweep_capacity`: DRAM traffic, energy and time at each capacity.

    The last row is the payload, and its DRAM energy, that no mapping avoids.
    """
    first, levels = frame.iloc[0], levels_in(frame)
    table = make_table(
        f"{first['network']} in {first['formats']} on {first['arch']}, by {BUFFER} capacity", gap=1
    )
    numbers(table, BUFFER, "simulated\n[Mbit]", "payload\n[Mbit]", "exact\n[Mbit]")
    numbers(table, "paper\n[Mbit]", *(f"{level.name}\n[mJ]" for level in levels))
    more = ["all_energy_pj"] if more_than_movement(frame) else []
    numbers(table, f"{'movement' if more else 'total'}\n[mJ]", *("all\n[mJ]" for _ in more))
    numbers(table, "cycles\n[M]")
    if _constant(frame):
        table.caption = constant_price_text([BUFFER])
    for _, row in frame.iterrows():
        columns = (*(level.column("energy_pj") for level in levels), "energy_pj", *more)
        energies = (row[column] / _PJ_PER_MJ for column in columns)
        table.add_row(
            CAPACITY.text(int(row["capacity_bits"])),
            *(_mbit(row[f"{name}_bits"]) for name in ("dram", "dram_payload", "exact", "paper")),
            *(f"{energy:,.3f}" for energy in energies),
            f"{row['cycles'] / 1e6:,.3f}",
        )
    table.add_section()
    floor = _mbit(first["compulsory_bits"])
    energy = f"{first['compulsory_energy_pj'] / _PJ_PER_MJ:,.3f}"
    rest = [""] * (len(levels) + 1 + len(more))
    table.add_row("least", "", floor, "", "", energy, *rest, style="dim")
    return table


def _constant(frame: pd.DataFrame) -> bool:
    """Whether a sweep's buffer has several sizes at one price per bit, no table's."""
    sizes, prices = (
        frame[columns].drop_duplicates()
        for columns in (["capacity_bits"], ["energy", "read_pj", "write_pj"])
    )
    return len(sizes) > 1 and len(prices) == 1 and prices["energy"].iloc[0] not in NAMES


def constant_price_text(memories: Sequence[str]) -> str:
    """What follows where memories are resized at a constant energy per bit."""
    names, (be, they) = ", ".join(memories), ("is", "it") if len(memories) == 1 else ("are", "they")
    return (
        f"{names} {be} resized at a constant energy per bit, so that the largest costs the least "
        f"by construction; a table prices {they} by size, such as energy: cacti-45nm"
    )


def plot_sweep(frame: pd.DataFrame, path: str | Path) -> None:
    """Draw what `sweep_capacity` returns, as a PNG; equal tables make equal bytes.

    Left: DRAM traffic [Mbit], simulated with and without burst padding, by the exact and by the
    paper's model. Right: energy [mJ] of DRAM and SRAM. Dashed: what no mapping avoids.

    Raises ValueError if the table has no row, OSError if the file cannot be written.
    """
    if frame.empty:
        raise ValueError("the sweep has no row to draw; allowed: at least one capacity")
    frame = frame.sort_values("capacity_bits")
    first = frame.iloc[0]
    sizes = frame["capacity_bits"].to_numpy()
    x = np.log2(sizes)
    with drawing() as figure:
        traffic, energy = figure.subplots(1, 2)
        _draw_traffic(traffic, frame, x)
        _draw_energy(energy, frame, x)
        for axes in (traffic, energy):
            axes.set_xlabel(f"{BUFFER} capacity")
            capacity_ticks(axes, [*sizes], [*x])
            axes.set_xlim(x[0] - 0.6, x[-1] + 0.6)
        figure.suptitle(
            f"{first['network']} in {first['formats']} on {first['arch']} with its {BUFFER} resized"
        )
        save(figure, path)


def programs_table(alone: pd.DataFrame, program: pd.DataFrame) -> Table:
    """The table of `plot_programs`: DRAM traffic, energy and time at each capacity."""
    first = program.iloc[0]
    table = make_table(
        f"{first['network']} in {first['formats']} on {first['arch']}: layers alone, and as one "
        "program",
        gap=1,
    )
    numbers(table, BUFFER, *(f"{what}\n[Mbit]" for what in ("alone", "program")), "stay\non chip")
    numbers(table, *(f"{what}\n[mJ]" for what in ("alone", "program")))
    numbers(table, *(f"{what}\n[M cycles]" for what in ("alone", "program")))
    for (_, one), (_, all_) in zip(alone.iterrows(), program.iterrows(), strict=True):
        table.add_row(
            CAPACITY.text(int(all_["capacity_bits"])),
            *(_mbit(own["dram_bits"]) for own in (one, all_)),
            f"{all_['stay_on_chip']} of {all_['activations']}",
            *(f"{own['energy_pj'] / _PJ_PER_MJ:,.3f}" for own in (one, all_)),
            *(f"{own['cycles'] / 1e6:,.3f}" for own in (one, all_)),
        )
    table.add_section()
    floors = (_mbit(own.iloc[0]["compulsory_bits"]) for own in (alone, program))
    table.add_row("least", *floors, *[""] * 5, style="dim")
    return table


def plot_programs(alone: pd.DataFrame, program: pd.DataFrame, path: str | Path) -> None:
    """Draw a network's layers alone and as one program over the buffer's size, as a PNG.

    alone, program: what `sweep_capacity` returns with these layers, of the same capacities

    Left: DRAM traffic [Mbit]; right: energy of data movement [mJ]. Dashed: DRAM traffic, and its
    energy, that no buffer avoids. Equal tables make equal bytes.

    Raises ValueError if a table has no row or they are of other capacities, OSError if the file
    cannot be written.
    """
    sizes = [sorted(frame["capacity_bits"]) for frame in (alone, program)]
    if not sizes[0] or sizes[0] != sizes[1]:
        raise ValueError(f"capacities {sizes[0]} and {sizes[1]}; allowed: the same, at least one")
    x = np.log2(sizes[0])
    looks = ((alone, "layers alone", GREY, "s"), (program, "one program", BLUE, "o"))
    shown = (
        ("dram_bits", "compulsory_bits", f"{OUTERMOST} traffic [Mbit]", _BITS_PER_MBIT),
        ("energy_pj", "compulsory_energy_pj", "energy of data movement [mJ]", _PJ_PER_MJ),
    )
    with drawing() as figure:
        for axes, (column, floor, label, unit) in zip(figure.subplots(1, 2), shown, strict=True):
            for frame, name, colour, marker in looks:
                ordered = frame.sort_values("capacity_bits")
                axes.plot(x, ordered[column] / unit, f"{marker}-", color=colour, label=name)
                least = ordered[floor].iloc[0] / unit
                axes.axhline(
                    least, color=colour, lw=1.3, dashes=(5, 3), label=f"{name}: compulsory, DRAM"
                )
            axes.set_ylim(0, 1.08 * axes.dataLim.y1)
            axes.set_ylabel(label)
            axes.set_xlabel(f"{BUFFER} capacity")
            axes.set_xticks(x, [CAPACITY.text(int(size)) for size in sizes[0]])
        handles, labels = axes.get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=len(handles))
        first = program.iloc[0]
        figure.suptitle(
            f"{first['network']} in {first['formats']} on {first['arch']} with its {BUFFER} "
            "resized: layers alone, and as one program"
        )
        save(figure, path)


def _draw_traffic(axes: Axes, frame: pd.DataFrame, x: NDArray[np.float64]) -> None:
    mbit = frame.filter(like="_bits") / _BITS_PER_MBIT
    axes.plot(x, mbit["dram_bits"], "o-", color=BLUE, label="simulated")
    axes.plot(x, mbit["dram_payload_bits"], "D-", color=SKY, ms=5, label="simulated payload")
    axes.plot(x, mbit["exact_bits"], "o", color="black", ms=10, mfc="none", label="exact model")
    axes.plot(x, mbit["paper_bits"], "^:", color=VERMILION, lw=1.8, label="paper's model")
    _floor(axes, mbit["compulsory_bits"].iloc[0], "compulsory")
    axes.set_title(f"{OUTERMOST} data movement")
    axes.set_ylabel(f"{OUTERMOST} traffic [Mbit]")
    axes.set_ylim(0, 1.08 * mbit[["dram_bits", "paper_bits"]].to_numpy().max())
    axes.legend(**_BELOW)


def _draw_energy(axes: Axes, frame: pd.DataFrame, x: NDArray[np.float64]) -> None:
    levels = levels_in(frame)
    heights = [frame[level.column("energy_pj")].to_numpy() / _PJ_PER_MJ for level in levels]
    bottoms = np.cumsum([np.zeros(len(frame)), *heights], axis=0)
    width = 0.6 * min([*np.diff(np.unique(x)), 1.0])
    for level, height, bottom in reversed([*zip(levels, heights, bottoms, strict=False)]):
        axes.bar(
            x, height, width, bottom, color=level.colour, edgecolor="white",
            hatch=level.hatch, label=level.name,
        )  # fmt: skip
    floor = frame["compulsory_energy_pj"].iloc[0] / _PJ_PER_MJ
    _floor(axes, floor, f"compulsory {levels[0].name}")
    if len(x) <= _NUMBERED:
        for place, total in zip(x, bottoms[-1], strict=True):
            axes.text(place, total, f"{total:.3g}", ha="center", va="bottom", fontsize=9)
    top = bottoms[-1].max()
    if more_than_movement(frame):
        every = frame["all_energy_pj"].to_numpy() / _PJ_PER_MJ
        axes.plot(x, every, "kD", ms=6, mfc="white", label="all energy")
        top = max(top, every.max())
    axes.set_title("Data-movement energy")
    axes.set_ylabel("energy [mJ]")
    axes.set_ylim(0, 1.08 * top)
    axes.legend(**_BELOW)


def _floor(axes: Axes, level: float, label: str) -> None:
    """A dashed line, white between its dashes where it crosses a bar, under the markers."""
    axes.axhline(level, color="white", linewidth=1.3, zorder=1.5)
    axes.axhline(level, color="black", linewidth=1.3, zorder=1.5, dashes=(5, 3), label=label)


def plot_energies(frame: pd.DataFrame, path: str | Path) -> None:
    """Draw sweeps of one network under several buffer energies, as a PNG.

    frame: sweeps as `sweep_capacity` returns them, one below the other, each with the columns
        `energy`, as an architecture file spells it, and `read_pj` and `write_pj`, what a bit of
        the buffer costs; at most five energies

    Left: what a bit read (solid) or written (dotted) costs [pJ] at each capacity. Right: energy of
    data movement in DRAM and SRAM together [mJ]; the least of each sweep is ringed. Equal tables
    make equal bytes.

    Raises ValueError if the table has no row or too many energies, OSError if the file cannot be
    written.
    """
    energies = list(dict.fromkeys(frame["energy"]))
    if not 1 <= len(energies) <= len(_LINES):
        raise ValueError(f"{len(energies)} energies to draw; allowed: 1 to {len(_LINES)}")
    first = frame.iloc[0]
    with drawing() as figure:
        bit, network = figure.subplots(1, 2)
        for name, (color, line) in zip(energies, _LINES, strict=False):
            sweep = frame[frame["energy"] == name].sort_values("capacity_bits")
            x = np.log2(sweep["capacity_bits"].to_numpy())
            total = sweep["energy_pj"].to_numpy() / _PJ_PER_MJ
            bit.plot(x, sweep["read_pj"], line, color=color, label=name)
            bit.plot(x, sweep["write_pj"], ":", color=color, lw=1.2)
            network.plot(x, total, line, color=color)
            best = int(total.argmin())
            network.plot(x[best], total[best], "o", ms=14, mfc="none", color="black")
        bit.set_title("a bit of the buffer, read (dotted: written)")
        bit.set_ylabel("energy [pJ]")
        network.set_title("the network's data movement (ring: least)")
        network.set_ylabel("energy [mJ]")
        sizes = np.unique(frame["capacity_bits"].to_numpy())
        for axes in (bit, network):
            _octaves(axes, sizes)
        figure.legend(loc="outside lower center", ncols=len(energies))
        figure.suptitle(
            f"{first['network']} in {first['formats']} on {first['arch']} with its {BUFFER} resized"
        )
        save(figure, path)


def _octaves(axes: Axes, sizes: np.ndarray) -> None:
    axes.set_yscale("log", base=2)
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:.3g}")
    axes.set_xlabel(f"{BUFFER} capacity")
    capacity_ticks(axes, [*sizes], [*np.log2(sizes)])


def curve_table(frame: pd.DataFrame) -> Table:
    """The table of `traffic_curves` in brief: ends, knee and floor of each staircase."""
    first = frame.iloc[0]
    table = make_table(
        f"Least {OUTERMOST} traffic of {_subject(frame)} in {first['formats']} on "
        f"{first['arch']} by {BUFFER} capacity [Mbit]",
        "layer",
    )
    numbers(table, "layers", "steps", f"smallest\n{BUFFER}", "traffic", "knee", "traffic")
    numbers(table, f"enough\n{BUFFER}", "traffic", "compulsory")
    for name, curve in frame.groupby("layer", sort=False):
        if name == "total":
            table.add_section()
        low, high = curve.iloc[0], curve.iloc[-1]
        knee = curve[curve["knee"]]
        at_knee = (
            (_kib(knee["capacity_bits"].iloc[0]), _mbit(knee["dram_bits"].iloc[0]))
            if len(knee)
            else ("-", "-")
        )
        table.add_row(
            str(name),
            str(low["layers"]),
            str(len(curve)),
            _kib(low["capacity_bits"]),
            _mbit(low["dram_bits"]),
            *at_knee,
            _kib(high["capacity_bits"]),
            _mbit(high["dram_bits"]),
            _mbit(low["compulsory_bits"]),
            style="bold" if name == "total" else None,
        )
    return table


def _subject(frame: pd.DataFrame) -> str:
    layers = frame[frame["layer"] != "total"].drop_duplicates("layer")
    return layers_text(frame["network"].iloc[0], layers["layer"], layers["layers"])


def curve_report(frame: pd.DataFrame) -> Report:
    """The report of `traffic_curves`: its table, and the staircases as a figure."""
    summary = {key: frame[key].iloc[0] for key in ("network", "arch", "formats")}
    figures = {"curve": lambda path: plot_curves(frame, path)}
    return Report(curve_table(frame), {"curve": frame}, summary, (), figures)


def plot_curves(frame: pd.DataFrame, path: str | Path) -> None:
    """Draw what `traffic_curves` returns, as a PNG; equal tables make equal bytes.

    Left: the whole network with its compulsory minimum and its knee. Right: every distinct layer,
    its traffic as a multiple of its own minimum, knees marked.

    Raises ValueError if the table has no row, OSError if the file cannot be written.
    """
    if frame.empty:
        raise ValueError("the curves have no row to draw; allowed: at least one layer")
    with drawing() as figure:
        whole, each = figure.subplots(1, 2)
        total = frame[frame["layer"] == "total"]
        _draw_total(whole, total)
        widest = frame["capacity_bits"].max() * 2
        for _, curve in frame[frame["layer"] != "total"].groupby("layer", sort=False):
            _draw_layer(each, curve, widest)
        each.axhline(1, color="black", linewidth=1.3, dashes=(5, 3), label="compulsory")
        each.set_title("each distinct layer")
        each.set_ylabel(f"{OUTERMOST} traffic / compulsory")
        each.legend(loc="upper right")
        for axes in (whole, each):
            _capacity_axis(axes)
        first = frame.iloc[0]
        figure.suptitle(
            f"{_subject(frame)} in {first['formats']} on {first['arch']}: least {OUTERMOST} "
            "traffic of any mapping"
        )
        save(figure, path)


def _draw_total(axes: Axes, curve: pd.DataFrame) -> None:
    mbit = curve["dram_bits"] / 1e6
    end = curve["capacity_bits"].iloc[-1] * 2
    x = [*curve["capacity_bits"], end]
    axes.step(x, [*mbit, mbit.iloc[-1]], where="post", color=BLUE, linewidth=1.8)
    floor = curve["compulsory_bits"].iloc[0] / 1e6
    axes.axhline(floor, color="black", linewidth=1.3, dashes=(5, 3), label="compulsory")
    knee = curve[curve["knee"]]
    if len(knee):
        at = int(knee["capacity_bits"].iloc[0])
        axes.plot([at], knee["dram_bits"] / 1e6, "o", color=VERMILION, label="knee")
        axes.annotate(
            f"{at / 8192:.1f} KiB",
            (at, knee["dram_bits"].iloc[0] / 1e6),
            xytext=(8, 8),
            textcoords="offset points",
        )
    axes.set_yscale("log", base=2)
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:,g}")
    axes.set_title("whole network")
    axes.set_ylabel(f"{OUTERMOST} traffic [Mbit]")
    axes.legend(loc="upper right")


def _draw_layer(axes: Axes, curve: pd.DataFrame, end: int) -> None:
    ratio = curve["dram_bits"] / curve["compulsory_bits"]
    x = [*curve["capacity_bits"], end]
    axes.step(x, [*ratio, ratio.iloc[-1]], where="post", color=GREY, linewidth=1.0)
    knee = curve["knee"].to_numpy()
    axes.plot(curve["capacity_bits"][knee], ratio[knee], "o", color=VERMILION, markersize=4)
    axes.set_yscale("log", base=2)
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:,g} x")


def _capacity_axis(axes: Axes) -> None:
    axes.set_xscale("log", base=4)
    low, high = axes.get_xlim()
    ticks = [size for size in (8 * 4**i for i in range(3, 17)) if low <= size <= high]
    capacity_ticks(axes, ticks, ticks)
    axes.set_xlabel(f"{BUFFER} capacity")


def _kib(bits: int) -> str:
    return f"{bits / 8192:,.1f} KiB" if bits >= 8192 else CAPACITY.text(-(-int(bits) // 8) * 8)


def _mbit(bits: float) -> str:
    return f"{bits / 1e6:,.3f}"
