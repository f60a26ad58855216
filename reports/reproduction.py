"""Tables and figures of the BitQ paper's experiments."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Group

from bfpsim.reports.quantization import accuracy_table
from bfpsim.reports.report import Report
from bfpsim.reports.style import (
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    PURPLE,
    SKY,
    VERMILION,
    YELLOW,
    drawing,
    make_table,
    numbers,
    save,
)

if TYPE_CHECKING:
    import pandas as pd
    from rich.table import Table

    from bfpsim.search.experiments.bitq import (
        AblationStudy,
        AccuracyStudy,
        AlphaStudy,
        EnergyStudy,
    )

_COLORS = (GREY, YELLOW, GREEN, BLUE, ORANGE, PURPLE, SKY, VERMILION)
_HATCHES = ("", "//", "..", "", "\\\\", "xx", "", "--")


def energy_report(study: EnergyStudy) -> Report:
    """Fig. 5, as `reproduce_energy` returns it."""
    energies, means = study.energies, study.means
    title = f"Energy of data movement on {study.arch}"
    summary: dict[str, Any] = {"arch": study.arch, "networks": list(study.networks)}
    summary |= {
        f"{row['format']} of {row['group']}": round(row["normalised"], 4)
        for row in means.to_dict(orient="records")
        if row["format"] in study.formats
    }
    figures = {"energy": lambda path: plot_energies(energies, means, title, path)}
    frames = {"energy": energies, "means": means}
    return Report(energy_table(energies, means), frames, summary, (), figures)


def alpha_report(study: AlphaStudy) -> Report:
    """Fig. 6, as `reproduce_alpha` returns it."""
    frames = {f"bitq{width}": frame for width, frame in study.choices.items()}
    table = Group(*(alpha_table(frame) for frame in frames.values()))
    figures = {"alpha": lambda path: plot_alphas(frames, study.network, path)}
    return Report(table, frames, _summary(study.network, study.arch), (), figures)


def ablation_report(study: AblationStudy) -> Report:
    """Table 4, as `reproduce_ablation` returns it."""
    summary = _summary(study.network, study.arch, study.alpha)
    return Report(ablation_table(study.choices), {"ablation": study.choices}, summary)


def accuracy_report(study: AccuracyStudy) -> Report:
    """Table 3, as `reproduce_accuracy` returns it."""
    frames = {"accuracy": study.accuracy}
    if study.trained is not None:
        frames["trained"] = study.trained
    table = accuracy_table(study.accuracy, f"{study.network} on {study.images:,} images")
    return Report(table, frames, _summary(study.network, study.arch, study.alpha))


def _summary(network: str, arch: str, alpha: float | None = None) -> dict[str, Any]:
    about: dict[str, Any] = {"network": network, "arch": arch}
    if alpha is not None:
        about["alpha"] = alpha
    return about | {"perf": "energy"}


def energy_table(frame: pd.DataFrame, means: pd.DataFrame) -> Table:
    """Fig. 5 in numbers: energies relative to the original, and geometric means."""
    formats = list(dict.fromkeys(frame["format"]))
    table = make_table("Energy of data movement, original = 1", "network", gap=1)
    numbers(table, "original\n[mJ]", *formats)
    for network in dict.fromkeys(frame["network"]):
        own = frame[frame["network"] == network].set_index("format")
        table.add_row(
            network,
            f"{own['energy_pj'].iloc[0] / 1e9:.2f}",
            *(f"{own.loc[name, 'normalised']:.3f}" for name in formats),
        )
    for group in dict.fromkeys(means["group"]):
        own = means[means["group"] == group].set_index("format")
        count = int(own["networks"].iloc[0])
        cells = (f"{own.loc[name, 'normalised']:.3f}" for name in formats)
        table.add_row(f"geometric mean, {group} ({count})", "", *cells)
    return table


def plot_energies(frame: pd.DataFrame, means: pd.DataFrame, title: str, path: str | Path) -> None:
    """Fig. 5: bars of energy relative to the original, by network; geometric means set apart.

    The original, whose bars would all be 1, is a line.
    """
    import numpy as np

    original, *formats = dict.fromkeys(frame["format"])
    networks = frame["network"].nunique()
    groups = [(name, frame[frame["network"] == name]) for name in dict.fromkeys(frame["network"])]
    groups += [
        (f"mean, {name}", means[means["group"] == name]) for name in dict.fromkeys(means["group"])
    ]
    with drawing() as figure:
        axes = figure.subplots()
        width = 0.84 / len(formats)
        at = np.arange(len(groups)) + (np.arange(len(groups)) >= networks)
        axes.axvline(networks, color=GREY, linewidth=1.0)
        axes.axhline(1, color="black", linewidth=1.3, dashes=(5, 3), label=f"{original} = 1")
        for number, name in enumerate(formats):
            heights = [own.set_index("format").loc[name, "normalised"] for _, own in groups]
            axes.bar(
                at + (number - (len(formats) - 1) / 2) * width, heights, width, label=name,
                color=_COLORS[number % 8], hatch=_HATCHES[number % 8], edgecolor="white",
            )  # fmt: skip
        axes.set_xticks(
            at, [name for name, _ in groups], rotation=30, ha="right", rotation_mode="anchor"
        )
        for label in axes.get_xticklabels()[networks:]:
            label.set_fontweight("bold")
        axes.set_xlim(at[0] - 0.6, at[-1] + 0.6)
        axes.set_ylim(0, 1.08)
        axes.set_ylabel(f"energy, {original} = 1")
        figure.suptitle(title)
        figure.legend(ncols=len(formats) + 1, loc="outside lower center")
        save(figure, path)


def alpha_table(frame: pd.DataFrame) -> Table:
    """Fig. 6 in numbers."""
    table = make_table("Sensitivity to alpha", "alpha", gap=1)
    numbers(table, "top-1\n[%]", "loss\n[points]", "predicted\n[points]", "energy\n[µJ]")
    numbers(table, "of that at\nleast alpha [%]", "W\n[bit/elem]", "I and O\n[bit/elem]")
    for row in frame.to_dict(orient="records"):
        table.add_row(
            f"{row['alpha']:g}",
            f"{100 * row['top1']:.2f}",
            f"{100 * row['accuracy_loss']:.2f}",
            f"{100 * row['predicted_loss']:.3f}",
            f"{row['simulated'] / 1e6:.2f}",
            f"{100 * row['of_first']:.1f}",
            f"{row['weight_width']:.2f}",
            f"{row['activation_width']:.2f}",
        )
    return table


def plot_alphas(frames: Mapping[str, pd.DataFrame], title: str, path: str | Path) -> None:
    """Fig. 6: top-1, and energy relative to the least alpha's, against alpha; a line per width.

    Alpha has a logarithmic scale, from 0 on where there is one of 0.
    """
    every = sorted({float(alpha) for frame in frames.values() for alpha in frame["alpha"]})
    with drawing() as figure:
        left, right = figure.subplots(1, 2)
        for (name, frame), color, marker in zip(
            frames.items(), (BLUE, VERMILION, ORANGE), "os^", strict=False
        ):
            alpha = frame["alpha"]
            left.plot(alpha, 100 * frame["top1"], marker=marker, color=color, label=name)
            right.plot(alpha, 100 * frame["of_first"], marker=marker, color=color, label=name)
        left.set_ylabel("top-1 [%]")
        right.set_ylabel("energy, least alpha = 100")
        for axes in (left, right):
            least = next((alpha for alpha in every if alpha > 0), 1.0)
            if every[0] > 0:
                axes.set_xscale("log")
            else:
                axes.set_xscale("symlog", linthresh=least, linscale=0.3)
            axes.set_xticks(
                every, [f"{alpha:g}" for alpha in every],
                rotation=60, ha="right", rotation_mode="anchor",
            )  # fmt: skip
            axes.set_xticks([], minor=True)
            axes.set_xlabel("alpha")
            axes.legend()
        figure.suptitle(title)
        save(figure, path)


def ablation_table(frame: pd.DataFrame) -> Table:
    """Table 4 at this scale."""
    table = make_table("Ablation", "method", "bits", "trained", gap=1)
    numbers(table, "top-1\n[%]", "loss\n[points]", "energy\n[µJ]", "W\n[bit/elem]")
    numbers(table, "I and O\n[bit/elem]")
    for row in frame.to_dict(orient="records"):
        table.add_row(
            row["choice"],
            str(row["bits"]),
            "yes" if row["trained"] else "no",
            f"{100 * row['top1']:.2f}",
            f"{100 * row['accuracy_loss']:.2f}",
            f"{row['simulated'] / 1e6:.2f}",
            f"{row['weight_width']:.2f}",
            f"{row['activation_width']:.2f}",
        )
    return table
