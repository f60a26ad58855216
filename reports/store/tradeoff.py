"""The figure of accuracy and energy: what no other choice beats in both."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from bfpsim.reports.precision import front
from bfpsim.reports.style import BLUE, GREY, ORANGE, drawing, save

if TYPE_CHECKING:
    import pandas as pd

COLUMNS = ("label", "energy_pj", "accuracy_loss")
_RANGES = {
    "energy_pj": (0.0, 1e300, "a number of pJ from 0"),
    "accuracy_loss": (-1.0, 1.0, "a share of the images, from -1 to 1, not percent"),
}
_NAMED = 12  # points of the front with a label


class AccuracyError(ValueError):
    """A table of accuracies that cannot be read; its message is one line."""


def read_accuracies(path: str | Path) -> pd.DataFrame:
    """Read a CSV file with the columns label, energy_pj and accuracy_loss.

    accuracy_loss: share of the images, against the network in floats; below zero for a gain

    Raises AccuracyError for any other file.
    """
    import pandas as pd

    try:
        frame = pd.read_csv(path, dtype=dict.fromkeys(COLUMNS, str), keep_default_na=False)
    except OSError as error:
        raise AccuracyError(f"{path}: cannot be read: {error.strerror}; give a CSV file") from None
    except ValueError as error:  # pandas' own errors, and text that is not UTF-8
        wrong = " ".join(str(error).split())
        raise AccuracyError(f"{path}: is no CSV file ({wrong})") from None
    allowed = ", ".join(COLUMNS)
    for column in COLUMNS:
        if column not in frame:
            raise AccuracyError(f"{path}: has no column {column!r}; needed: {allowed}")
    if frame.empty:
        raise AccuracyError(f"{path}: has no row; needed: at least one, with {allowed}")
    for column, (least, most, what) in _RANGES.items():
        numbers = pd.to_numeric(frame[column], errors="coerce")
        wrong_rows = frame.index[~numbers.between(least, most)]
        if len(wrong_rows):
            row = wrong_rows[0]
            raise AccuracyError(
                f"{path}:{row + 2}: {column}: {frame[column][row]!r}; allowed: {what}"
            )
        frame[column] = numbers
    return frame


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
