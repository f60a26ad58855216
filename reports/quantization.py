"""Tables of what number formats do to a network's accuracy and storage."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from rich.console import Group

from bfpsim.reports.report import Report
from bfpsim.reports.style import make_table, numbers

if TYPE_CHECKING:
    import pandas as pd
    from rich.console import RenderableType
    from rich.table import Table

    from bfpsim.quant.study.additivity import Additivity
    from bfpsim.quant.study.sensitivity import Sensitivity
    from bfpsim.search.experiments.formats import FormatStudy, SensitivityStudy


def formats_report(study: FormatStudy) -> Report:
    """The report of `study_formats`; of one format alone the noise of every layer too."""
    title = f"{study.network} on {study.images:,} images"
    table: RenderableType = accuracy_table(study.accuracy, title)
    if len(study.accuracy) == 1:
        table = Group(table, "", noise_table(study.layers))
    summary: dict[str, Any] = {
        "network": study.network,
        "images": study.images,
        "calibration": study.calibration,
    }
    if study.steps is not None:
        summary |= {"qat_steps": study.steps, "seed": study.seed}
    return Report(table, {"accuracy": study.accuracy, "layers": study.layers}, summary)


def sensitivity_report(study: SensitivityStudy) -> Report:
    """The report of `study_sensitivity`: the tensors that matter most, and how losses add up."""
    result, lines = study.sensitivity, additivity_lines(study.additivity)
    summary = {
        "network": result.network,
        "images": result.images,
        "accuracy": result.accuracy,
        **lines,
    }
    frames = {"sensitivity": result.table, "additivity": study.additivity.table}
    return Report(sensitivity_table(result), frames, summary, tuple(lines))


def accuracy_table(frame: pd.DataFrame, title: str) -> Table:
    """The table of the `accuracy` that `compare_formats` returns."""
    table = make_table(title, "format", gap=1)
    numbers(table, "top-1\n[%]", "top-5\n[%]", "loss\n[points]", "logits\nSQNR [dB]")
    numbers(table, "W\n[Mbit]", "W\n[bit/elem]", "I and O\n[Mbit/image]", "I and O\n[bit/elem]")
    for row in frame.to_dict(orient="records"):
        table.add_row(
            row["policy"],
            f"{100 * row['top1']:.2f}",
            f"{100 * row['top5']:.2f}",
            f"{100 * row['accuracy_loss']:.2f}",
            f"{row['logits_sqnr_db']:.1f}",
            f"{row['weight_bits'] / 1e6:.3f}",
            f"{row['weight_width']:.2f}",
            f"{row['activation_bits'] / 1e6:.3f}",
            f"{row['activation_width']:.2f}",
        )
    return table


def noise_table(frame: pd.DataFrame) -> Table:
    """Formats and SQNR per layer of one policy, from `Comparison.layers`."""
    table = make_table(f"Each layer in {frame['policy'].iloc[0]}", "layer", gap=1)
    for tensor in "IWO":
        table.add_column(tensor)
        numbers(table, "SQNR\n[dB]")
    rows = {(row["layer"], row["tensor"]): row for row in frame.to_dict(orient="records")}
    for layer in dict.fromkeys(frame["layer"]):
        cells = [layer]
        for tensor in "IWO":
            row = rows[layer, tensor]
            cells += [row["coding"], f"{row['sqnr_db']:.1f}"]
        table.add_row(*cells)
    return table


def additivity_lines(result: Additivity) -> dict[str, str]:
    """One line per measure: how well sums of single losses predict a mixed choice's."""
    n = len(result.table)
    lines = {}
    for title, measure, by in (
        ("divergence", "kl", None),
        ("divergence by the Fisher estimate", "kl", "fisher"),
        ("accuracy loss", "accuracy_loss", None),
        ("accuracy loss by the divergence", "accuracy_loss", "kl"),
    ):
        rank, slope = result.spearman(measure, by), result.slope(measure, by)
        order = "no rank correlation" if math.isnan(rank) else f"Spearman {rank:.3f}"
        lines[title] = f"{order}, slope {slope:.3g} over {n} mixed choices"
    return lines


def sensitivity_table(result: Sensitivity) -> Table:
    """The tensors that matter most: the divergence of each in its best, median and worst format."""
    table = make_table(
        f"{result.network} on {result.images:,} images, top-1 {100 * result.accuracy:.2f} %: one "
        "tensor swapped at a time, KL divergence [nat]",
        *("layer", "tensor", "best"),
        gap=1,
    )
    numbers(table, "KL", "median KL", "worst KL")
    best = result.table.sort_values("kl", kind="stable").drop_duplicates(["layer", "tensor"])
    formats = best.set_index(["layer", "tensor"])["format"]
    spread = result.table.groupby(["layer", "tensor"])["kl"].agg(["min", "median", "max"])
    rows = spread.sort_values("median", ascending=False, kind="stable").reset_index()
    for row in rows.to_dict(orient="records"):
        layer, tensor = row["layer"], row["tensor"]
        divergences = (f"{row[name]:.2e}" for name in ("min", "median", "max"))
        table.add_row(layer, tensor, formats[layer, tensor], *divergences)
    return table
