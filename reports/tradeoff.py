"""Accuracy against energy: of weights at each width, and of any choices; tables and figures."""

from __future__ import annotations

import csv
import io
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bfpsim.reports.levels import levels_in
from bfpsim.reports.style import (
    BLUE,
    GREY,
    ORANGE,
    SKY,
    VERMILION,
    drawing,
    make_table,
    numbers,
    points_text,
    save,
)
from bfpsim.workloads.files.text import quote
from bfpsim.workloads.layer import WorkloadError, check_text

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from rich.table import Table

SHOWN_BITS = (23, 10, 7, 5, 4, 3, 2, 1, 0)
"""Mantissa widths of terminals' tables and of figures' labels; files have all."""

COLUMNS = ("label", "energy_pj", "accuracy_loss")
"""Columns of a table of choices; accuracy_loss is a share of the images."""

_BITS_PER_MBIT = 1e6
_PJ_PER_UJ = 1e6
_INNER = ((VERMILION, ""), (ORANGE, ".."), (GREY, "xx"))  # looks of the levels below the outermost
_RANGES = {
    "energy_pj": (0.0, 1e300, "a number of pJ from 0"),
    "accuracy_loss": (-1.0, 1.0, "a share of the images, from -1 to 1, not percent"),
}
_LARGEST_FILE = 1 << 24  # bytes
_LABELS = 20  # widths that have room for a label along the axis of energy
_NAMED = 12  # points of the front with a label


def energy_table(frame: pd.DataFrame, title: str) -> Table:
    """The table of `measure_energy`, at the widest exponent.

    Columns top1 and accuracy_loss are shown if they are there.
    """
    table = make_table(title, gap=1)
    levels = levels_in(frame)
    outermost = levels[0]
    numbers(table, "m", "bits of\na weight", f"{outermost.name}\n[Mbit]", "of weights\n[Mbit]")
    numbers(table, *(f"{level.name}\n[µJ]" for level in levels), "energy\n[µJ]", "saved\n[%]")
    judged = "top1" in frame
    if judged:
        numbers(table, "top-1\n[%]", "loss\n[points]")
    rows = _at_widest(frame)
    for row in rows[rows["mantissa_bits"].isin(SHOWN_BITS)].to_dict(orient="records"):
        cells = [f"{row['mantissa_bits']}", f"{row['bits']}"]
        bits = (outermost.column("bits"), outermost.column("weight_bits"))
        cells += [f"{row[key] / _BITS_PER_MBIT:.3f}" for key in bits]
        energies = (*(level.column("energy_pj") for level in levels), "energy_pj")
        cells += [f"{row[key] / _PJ_PER_UJ:.2f}" for key in energies]
        cells.append(f"{100 * row['energy_saved']:.1f}")
        if judged:
            cells += [f"{100 * row['top1']:.2f}", f"{100 * row['accuracy_loss']:.2f}"]
        table.add_row(*cells)
    return table


def front(frame: pd.DataFrame) -> pd.DataFrame:
    """The rows that no other beats: none with as little energy has a higher top-1.

    From the least energy on. Of rows that are equal in both, the first.
    """
    rows = frame.sort_values(["energy_pj", "top1"], ascending=[True, False], kind="stable")
    best = rows["top1"].cummax().shift(fill_value=-1.0)
    unbeaten: pd.DataFrame = rows[rows["top1"] > best]
    return unbeaten


def plot_energy(frame: pd.DataFrame, within: float, title: str, path: str | Path) -> None:
    """Draw accuracy against energy, and what the energy is made of, as a PNG.

    frame: of `measure_energy`, with the columns top1 and accuracy_loss; without them, what the
        energy is made of alone
    within: how much top-1 may be lost, as a share of the images

    Raises OSError if the file cannot be written.
    """
    judged = "top1" in frame
    with drawing() as figure:
        panels = figure.subplots(1, 1 + judged, squeeze=False)[0]
        if judged:
            _draw_accuracy(panels[0], frame, within)
        _draw_parts(panels[-1], _at_widest(frame))
        figure.suptitle(title)
        save(figure, path)


def _draw_accuracy(axes: Axes, frame: pd.DataFrame, within: float) -> None:
    best = front(frame)
    axes.step(
        [*best["energy_pj"] / _PJ_PER_UJ, frame["energy_pj"].max() / _PJ_PER_UJ],
        [*100 * best["top1"], 100 * best["top1"].iloc[-1]],
        where="post", color=ORANGE, linewidth=1.8, label="best format for the energy",
    )  # fmt: skip
    widest = _at_widest(frame)
    energy, top = widest["energy_pj"] / _PJ_PER_UJ, 100 * widest["top1"]
    e = widest["exponent_bits"].iloc[0]
    axes.plot(energy, top, "o", color=BLUE, markersize=5, label=f"e = {e}, with m")
    last = float("inf")
    room = float(energy.max()) / _LABELS
    for m, x, y in zip(widest["mantissa_bits"], energy, top, strict=True):
        if m in SHOWN_BITS and (m == 0 or last - x >= room):  # from the right to the left
            axes.annotate(
                str(m), (x, y), (0, -12), textcoords="offset points", fontsize=8, color=BLUE,
                ha="center",
            )  # fmt: skip
            last = x
    limit = float((frame["top1"] + frame["accuracy_loss"]).iloc[0]) - within
    axes.axhline(
        100 * limit,
        color=GREY,
        linewidth=1.0,
        dashes=(5, 3),
        label=f"FP32 less {points_text(within)}",
    )
    axes.set_xlim(0)
    axes.locator_params(axis="x", nbins=6)
    axes.set_ylim(0, 102)
    axes.set_xlabel("data-movement energy [µJ]")
    axes.set_ylabel("top-1 [%]")
    axes.legend(loc="center right")


def _draw_parts(axes: Axes, frame: pd.DataFrame) -> None:
    """Stacked bars at each mantissa width: weights and the rest of DRAM, then the inner levels."""
    outermost, *inner = levels_in(frame)
    energy, moved = frame[outermost.column("energy_pj")], frame[outermost.column("bits")]
    weights = frame[outermost.column("weight_bits")] * (energy / moved) / _PJ_PER_UJ
    top = energy / _PJ_PER_UJ
    bars: list[tuple[Any, Any, str, str, str]] = [
        (weights, 0, BLUE, "", f"{outermost.name}, weights"),
        (top - weights, weights, SKY, "//", f"{outermost.name}, inputs and outputs"),
    ]
    for level, look in zip(inner, cycle(_INNER), strict=False):
        height = frame[level.column("energy_pj")] / _PJ_PER_UJ
        bars.append((height, top, *look, level.name))
        top = top + height
    places = frame["mantissa_bits"]
    for height, bottom, colour, hatch, label in bars:
        axes.bar(
            places, height, 0.8, bottom, color=colour, edgecolor="white", hatch=hatch, label=label
        )
    axes.set_xlabel(f"mantissa bits of weights, e = {frame['exponent_bits'].iloc[0]}")
    axes.set_ylabel("data-movement energy [µJ]")
    axes.set_ylim(0, 1.25 * float(top.max()))
    axes.invert_xaxis()
    axes.legend(loc="upper right")


def _at_widest(frame: pd.DataFrame) -> pd.DataFrame:
    """The rows at the widest exponent, from the widest mantissa on."""
    rows: pd.DataFrame = frame[frame["exponent_bits"] == frame["exponent_bits"].max()]
    return rows.sort_values("mantissa_bits", ascending=False)


class AccuracyError(ValueError):
    """A table of accuracies that cannot be read; its message is one line."""


def read_accuracies(path: str | Path) -> pd.DataFrame:
    """Read a CSV file with the columns label, energy_pj and accuracy_loss; others stay as texts.

    accuracy_loss: share of the images, against the network in floats; below zero for a gain

    Raises AccuracyError for any other file.
    """
    import pandas as pd

    (_, header), *rows = _records(path)
    allowed = ", ".join(COLUMNS)
    for column in COLUMNS:
        if column not in header:
            raise AccuracyError(f"{path}: has no column {column!r}; needed: {allowed}")
    for column in header:
        if header.count(column) > 1:
            raise AccuracyError(f"{path}:1: column {quote(column)} stands twice; allowed: once")
    if not rows:
        raise AccuracyError(f"{path}: has no row; needed: at least one, with {allowed}")
    for line, cells in rows:
        if len(cells) != len(header):
            raise AccuracyError(
                f"{path}:{line}: {len(cells)} cells; allowed: {len(header)}, as the header has"
            )
    frame = pd.DataFrame([cells for _, cells in rows], columns=header, dtype=str)
    for column, (least, most, what) in _RANGES.items():
        numbers = pd.to_numeric(frame[column], errors="coerce")
        wrong_rows = frame.index[~numbers.between(least, most)]
        if len(wrong_rows):
            row = wrong_rows[0]
            raise AccuracyError(
                f"{path}:{rows[row][0]}: {column}: {quote(frame[column][row])}; allowed: {what}"
            )
        frame[column] = numbers.astype(float)
    return frame


def _records(path: str | Path) -> list[tuple[int, list[str]]]:
    """The rows of a CSV file that are not empty, each with its last line; at least one."""
    try:
        with open(path, "rb") as file:
            data = file.read(_LARGEST_FILE + 1)
    except OSError as error:
        raise AccuracyError(f"{path}: cannot be read: {error.strerror}; give a CSV file") from None
    if len(data) > _LARGEST_FILE:
        raise AccuracyError(f"{path}: is too long; allowed: at most {_LARGEST_FILE} bytes")
    try:
        text = data.decode("utf-8-sig")
        reader = csv.reader(io.StringIO(text, newline=""), strict=True)
        records = [(reader.line_num, cells) for cells in reader if cells]
        for line, cells in records:
            for cell in cells:
                check_text(f"{path}:{line}: cell", cell)
    except WorkloadError as error:
        raise AccuracyError(str(error)) from None
    except (ValueError, csv.Error) as error:  # ValueError: no UTF-8
        wrong = " ".join(str(error).split())
        raise AccuracyError(f"{path}: is no CSV file ({wrong})") from None
    if not records:
        raise AccuracyError(f"{path}: is empty; needed: {', '.join(COLUMNS)}")
    return records


def unbeaten(frame: pd.DataFrame) -> pd.DataFrame:
    """The rows to which no other is equal or better in both; from the least energy on."""
    return front(frame.assign(top1=1 - frame["accuracy_loss"])).drop(columns="top1")


def plot_tradeoff(frame: pd.DataFrame, path: str | Path) -> None:
    """Draw accuracy lost [% of images] over energy [µJ], as a PNG; equal tables make equal bytes.

    frame: label, energy_pj, accuracy_loss

    Raises OSError if the file cannot be written.
    """
    best = unbeaten(frame)
    with drawing() as figure:
        axes = figure.subplots()
        axes.plot(
            frame["energy_pj"] / 1e6, 100 * frame["accuracy_loss"], "o",
            color=GREY, mew=0, ms=5, alpha=0.6, label=f"{len(frame):,} choices",
        )  # fmt: skip
        x, y = best["energy_pj"] / 1e6, 100 * best["accuracy_loss"]
        label = f"{len(best):,} that no other beats in both"
        axes.step(x, y, "o-", where="post", color=BLUE, ms=6, lw=1.6, label=label)
        step = -(-len(best) // _NAMED)
        for at in range(0, len(best), step):
            axes.annotate(
                best["label"].iloc[at], (x.iloc[at], y.iloc[at]), (6, 5),
                textcoords="offset points", fontsize=8,
            )  # fmt: skip
        axes.axhline(0, color=ORANGE, lw=1.0, dashes=(5, 3), label="as accurate as in floats")
        axes.grid(True, axis="both")
        axes.set_xlabel("data-movement energy [µJ]")
        axes.set_ylabel("accuracy lost [% of the images]")
        axes.legend(loc="upper right")
        figure.suptitle("accuracy against energy")
        save(figure, path)
