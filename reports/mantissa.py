"""Tables and figures of how few bits weights need: of one network, and of several."""

from __future__ import annotations

from math import isnan
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bfpsim.quant.mantissa.accuracy import SLACK, TRANSFORMER, WIDTHS
from bfpsim.quant.mantissa.errors import WHOLE
from bfpsim.quant.mantissa.minifloat import NAMED
from bfpsim.reports.report import Report, together
from bfpsim.reports.style import (
    BLUE,
    GREY,
    ORANGE,
    SKY,
    VERMILION,
    drawing,
    make_table,
    numbers,
    plain_powers,
    points_text,
    save,
)
from bfpsim.reports.tradeoff import SHOWN_BITS, energy_table, plot_energy

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from matplotlib.axes import Axes
    from numpy.typing import NDArray
    from rich.table import Table

    from bfpsim.quant.mantissa.weights import Span
    from bfpsim.search.experiments.mantissa import MantissaStudy, ToleranceStudy, WeightStudy

_FAMILIES = tuple(zip((BLUE, VERMILION, ORANGE, SKY, GREY), "osD^v", strict=True))
_TOLERANCE_BITS = (3, 2, 1, 0)
_LOSSES = (0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0)  # points, at which colours change
_DARK = 5.0  # points, above which a cell is too dark for black


def mantissa_report(study: MantissaStudy) -> Report:
    """The report of `study_mantissa`: tables, figures, and the fewest bits that suffice."""
    weights, accuracy, within = study.weights, study.accuracy, study.within
    name, energy = weights.name, weights.energy
    m, e = study.fewest_mantissa_bits, study.fewest_exponent_bits
    lines = curves(accuracy, m)
    spread = _distribution(weights)
    title = f"{name} on {study.images:,} images"
    on = f"{name} on {weights.arch}"
    notes = {
        "top1_fp32": study.top1_fp32,
        "fewest_mantissa_bits": m,
        "fewest_exponent_bits_with_these": e,
        "energy_saved_percent_with_these_mantissa_bits": _percent(study.energy_saved(8, m)),
        "energy_saved_percent_with_both": _percent(study.energy_saved(e, m)),
    }
    summary = {
        "model": name,
        "images": study.images,
        "rounding": study.rounding.value,
        "activations": _activations(weights.activations),
        "arch": weights.arch,
        "within_points": 100 * within,
        **notes,
        **spread.summary,
    }
    figures = {
        "curves": lambda path: plot_curves(lines, within, title, path),
        "heat_map": lambda path: plot_heat_map(accuracy, within, title, path),
        "energy": lambda path: plot_energy(energy, within, on, path),
        "units": lambda path: plot_errors(study.errors, name, path),
        **spread.figures,
    }
    table = together(
        accuracy_table(accuracy, title),
        energy_table(energy, f"{on}: accuracy against energy, e = 8"),
        errors_table(study.errors),
        spread.table,
    )
    frames = {"accuracy": accuracy, "curves": lines, "energy": energy, "units": study.errors}
    return Report(table, {**frames, **spread.frames}, summary, (*notes, *spread.notes), figures)


def weights_report(study: WeightStudy) -> Report:
    """The report of `study_weights`: the weights' distribution, and the energy of each width."""
    spread, on = _distribution(study), f"{study.name} on {study.arch}"
    table = together(spread.table, energy_table(study.energy, f"{on}: energy, e = 8"))
    figures = {**spread.figures, "energy": lambda path: plot_energy(study.energy, 0.0, on, path)}
    about = {"activations": _activations(study.activations), "arch": study.arch}
    frames = {**spread.frames, "energy": study.energy}
    return Report(table, frames, {**spread.summary, **about}, spread.notes, figures)


def tolerance_report(study: ToleranceStudy) -> Report:
    """The report of `study_tolerance`: what mantissa widths cost networks of several sizes."""
    networks, title = study.networks, f"Weights in FP(8, m), {study.images:,} images"
    summary = {
        "images": study.images,
        "rounding": study.rounding.value,
        "activations": _activations(study.activations),
        "within_points": 100 * study.within,
    }
    figures = {"tolerance": lambda path: plot_tolerance(networks, study.within, title, path)}
    frames = {"networks": networks, "tolerance": study.accuracy}
    return Report(tolerance_table(networks, title), frames, summary, (), figures)


def _distribution(study: WeightStudy) -> Report:
    """The part of a report that is about the weights alone."""
    span = study.span
    summary: dict[str, Any] = {
        "model": study.name,
        "weights": study.size,
        "kurtosis_pearson": study.kurtosis,
        "kurtosis_excess": study.kurtosis - 3,
        "kurtosis_pearson_mean_of_layers": float(study.layers["kurtosis_pearson"].mean()),
        "exponents_of_99.9_percent": None if span is None else f"{span.low}..{span.high}",
        "exponent_bits_of_that_span": None if span is None else span.exponent_bits,
    }
    notes = tuple(key for key in summary if key != "model")
    frames = {"layers": study.layers, "histogram": study.histogram, "exponents": study.exponents}
    title = f"{study.size:,} weights of {study.name}, Pearson kurtosis {study.kurtosis:.4g}"
    figures = {
        "weights": lambda path: plot_weights(study.histogram, study.exponents, span, title, path)
    }
    return Report(weights_table(study.layers), frames, summary, notes, figures)


def _percent(share: float | None) -> float | None:
    return None if share is None else round(100 * share, 2)


def _activations(narrow: bool) -> str:
    return "FP(e, m)" if narrow else "float32"


def accuracy_table(frame: pd.DataFrame, title: str) -> Table:
    """Top-1 of `measure_accuracy`: a row per exponent width, a column per mantissa width."""
    table = make_table(f"{title}: top-1 [%] in FP(e, m)", gap=1)
    shown = [m for m in SHOWN_BITS if m in set(frame["mantissa_bits"])]
    numbers(table, "e", *(f"m={m}" for m in shown))
    for e, row in _cells(frame, "top1").sort_index(ascending=False).iterrows():
        table.add_row(str(e), *(f"{100 * row[m]:.2f}" for m in shown))
    return table


def weights_table(frame: pd.DataFrame) -> Table:
    """The table of `layer_statistics`."""
    table = make_table("Weights of each layer", "layer", gap=1)
    numbers(table, "weights", "kurtosis\n(Pearson)", "kurtosis\n(excess)", "largest")
    numbers(table, "zeros", "exponents of\n99.9 %")
    for row in frame.to_dict(orient="records"):
        table.add_row(
            row["layer"],
            f"{row['weights']:,}",
            f"{row['kurtosis_pearson']:.2f}",
            f"{row['kurtosis_excess']:.2f}",
            f"{row['largest']:.3g}",
            f"{row['zeros']:,}",
            "-" if row["zeros"] == row["weights"] else f"{row['span_low']}..{row['span_high']}",
        )
    return table


def errors_table(frame: pd.DataFrame) -> Table:
    """The table of `measure_errors`."""
    table = make_table(
        "One unit quantised at a time: drop in cosine similarity", "unit", "part", "format", gap=1
    )
    numbers(table, "at its\noutput", "at the\nlogits")
    for row in frame.to_dict(orient="records"):
        drops = (f"{row[key]:.2e}" for key in ("block_drop", "logits_drop"))
        table.add_row(row["unit"], row["part"], row["format"], *drops)
    return table


def curves(frame: pd.DataFrame, fewest: int | None) -> pd.DataFrame:
    """The rows of `measure_accuracy` on lines through the grid, from the widest format on.

    Column ``along`` says which width varies: mantissa_bits at the widest exponent, exponent_bits
    at the widest mantissa and, unless it is None, at `fewest` mantissa bits too. (A wide mantissa
    hides what a narrow exponent does: its subnormals are then fine enough for any weight.)
    """
    import pandas as pd

    widest = frame[["exponent_bits", "mantissa_bits"]].max()
    lines = [("mantissa_bits", "exponent_bits", widest["exponent_bits"])]
    for m in dict.fromkeys((widest["mantissa_bits"], fewest)):
        if m is not None:
            lines.append(("exponent_bits", "mantissa_bits", m))
    parts = [
        frame[frame[fixed] == at].sort_values(along, ascending=False).assign(along=along)
        for along, fixed, at in lines
    ]
    joined: pd.DataFrame = pd.concat(parts, ignore_index=True)
    return joined


def plot_curves(frame: pd.DataFrame, within: float, title: str, path: str | Path) -> None:
    """Draw accuracy against mantissa bits and against exponent bits, as a PNG.

    frame: of `curves`
    within: how much top-1 may be lost, as a share of the images

    Raises OSError if the file cannot be written.
    """
    limit = float((frame["top1"] + frame["accuracy_loss"]).iloc[0]) - within
    with drawing() as figure:
        panels = figure.subplots(1, 2, sharey=True)
        for axes, along, fixed, letter in zip(
            panels,
            ("mantissa_bits", "exponent_bits"),
            ("exponent_bits", "mantissa_bits"),
            "em",
            strict=True,
        ):
            own = frame[frame["along"] == along]
            for style, (at, rows) in zip(("-", ":"), own.groupby(fixed, sort=False), strict=False):
                for key, name, colour, marker in (
                    ("top1", "top-1", BLUE, "o"),
                    ("top5", "top-5", ORANGE, "s"),
                ):
                    axes.plot(
                        rows[along], 100 * rows[key], style, color=colour, marker=marker,
                        markersize=5, label=f"{name}, {letter} = {at}",
                    )  # fmt: skip
            axes.axhline(
                100 * limit, color=GREY, linewidth=1.0, dashes=(5, 3),
                label=f"top-1 of FP32 less {points_text(within)}",
            )  # fmt: skip
            axes.set_xlabel(along.replace("_", " "))
            axes.invert_xaxis()
            axes.xaxis.get_major_locator().set_params(integer=True)
            axes.legend(loc="lower left")
        panels[0].set_ylim(0, 102)
        panels[0].set_ylabel("images [%]")
        figure.suptitle(title)
        save(figure, path)


def plot_heat_map(frame: pd.DataFrame, within: float, title: str, path: str | Path) -> None:
    """Draw top-1 over (e, m), coloured by its loss, with a frame around what loses little.

    frame: of `measure_accuracy`
    within: the loss inside the frame, at most, as a share of the images

    Raises OSError if the file cannot be written.
    """
    from matplotlib.colors import BoundaryNorm, LinearSegmentedColormap

    cells = _cells(frame, "top1")
    shares = 100 * cells.to_numpy()
    losses = _cells(frame, "accuracy_loss").to_numpy()
    kept = losses <= within + SLACK
    shades = LinearSegmentedColormap.from_list("loss", ["#FFFFFF", SKY, BLUE, "#00304D"])
    steps = BoundaryNorm([-100, *_LOSSES], shades.N)
    with drawing() as figure:
        axes = figure.subplots()
        image = axes.imshow(100 * losses, cmap=shades, norm=steps, aspect="auto", origin="lower")
        axes.grid(False)
        axes.set_xticks(range(cells.shape[1]), [str(m) for m in cells.columns])
        axes.set_yticks(range(cells.shape[0]), [str(e) for e in cells.index])
        axes.invert_xaxis()
        titles = {f"e{f.exponent_bits}m{f.mantissa_bits}": name for name, f in NAMED.items()}
        for y, e in enumerate(cells.index):
            for x, m in enumerate(cells.columns):
                value = shares[y, x]
                text = f"{titles.get(f'e{e}m{m}', '').upper()}\n{value:.0f}\n"
                ink = "white" if 100 * losses[y, x] > _DARK else "black"
                axes.text(x, y, text, ha="center", va="center", fontsize=7, color=ink)
                if kept[y, x]:
                    _frame(axes, kept, x, y)
        axes.set_xlabel("mantissa bits m")
        axes.set_ylabel("exponent bits e")
        bar = figure.colorbar(
            image, ax=axes, label="loss of top-1 [points]", spacing="uniform", extend="neither",
            boundaries=[0, *_LOSSES], ticks=[0, *_LOSSES],
        )  # fmt: skip
        bar.ax.set_yticks([0, *_LOSSES], ["0", *(f"{loss:g}" for loss in _LOSSES)])
        figure.suptitle(f"{title}: top-1 [%]; framed: within {points_text(within)} of FP32")
        save(figure, path)


def plot_weights(
    values: pd.DataFrame, exponents: pd.DataFrame, span: Span | None, title: str, path: str | Path
) -> None:
    """Draw the histograms of weights (log count) and of their exponents, as a PNG.

    values, exponents: of `histogram` and `exponent_histogram`
    span: the exponents to set off

    Raises OSError if the file cannot be written.
    """
    from matplotlib.patches import Patch

    with drawing() as figure:
        left, right = figure.subplots(1, 2)
        widths = values["high"] - values["low"]
        left.bar(values["low"], values["count"], widths, align="edge", color=BLUE)
        left.set_xlabel("weight")
        colours: str | list[str] = GREY
        if span is not None:
            inside = exponents["exponent"].between(span.low, span.high)
            colours = [VERMILION if each else GREY for each in inside]
            label = f"99.9 % of weights: {span.low}..{span.high}"
            right.legend(handles=[Patch(color=VERMILION, label=label)], loc="upper left")
        right.bar(exponents["exponent"], exponents["count"], color=colours)
        right.set_xlabel("exponent floor(log2 |w|)")
        for axes in (left, right):
            axes.set_yscale("log")
            plain_powers(axes.yaxis)
            axes.set_ylim(0.5)
            axes.set_ylabel("weights")
        figure.suptitle(title)
        save(figure, path)


def plot_errors(frame: pd.DataFrame, title: str, path: str | Path) -> None:
    """Draw the drop in cosine similarity of each unit, and of each part's mean, as a PNG.

    frame: of `measure_errors`; its first format is drawn. Raises OSError if the file cannot be
    written.
    """
    of_first = frame[frame["format"] == frame["format"].iloc[0]]
    units = of_first[of_first["part"] == WHOLE]
    parts = of_first[of_first["part"] != WHOLE]
    with drawing() as figure:
        ratios = [3, 1] if len(parts) else [1]
        panels = figure.subplots(1, len(ratios), width_ratios=ratios, sharey=True, squeeze=False)[0]
        _draw_drops(panels[0], units, list(units["unit"]), "unit")
        if len(parts):
            names = list(dict.fromkeys(parts["part"]))
            mean = parts.groupby("part")[["block_drop", "logits_drop"]].mean().loc[names]
            _draw_drops(panels[1], mean, names, "part of an encoder layer, mean")
        panels[0].set_ylabel("drop in cosine similarity")
        panels[0].legend()
        figure.suptitle(f"{title}: weights of one unit in {of_first['format'].iloc[0]}")
        save(figure, path)


def _draw_drops(axes: Axes, frame: pd.DataFrame, names: list[str], label: str) -> None:
    places = range(len(names))
    for key, name, colour, marker in (
        ("block_drop", "at the unit's output", BLUE, "o"),
        ("logits_drop", "at the logits", ORANGE, "s"),
    ):
        axes.plot(places, frame[key], marker, color=colour, label=name, clip_on=False)
    axes.set_xticks(places, names, rotation=90)
    axes.set_xlabel(label)
    if (frame[["block_drop", "logits_drop"]] > 0).to_numpy().any():
        axes.set_yscale("log", nonpositive="mask")
        plain_powers(axes.yaxis)
    axes.set_xlim(-0.5, len(names) - 0.5)


def tolerance_table(frame: pd.DataFrame, title: str) -> Table:
    """The table of `tolerances`."""
    table = make_table(title, "network", "family", "kind", gap=1)
    numbers(table, "parameters", "top-1 in\nFP32 [%]", "fewest m", "m at the\nlimit")
    numbers(table, *(f"loss, m={m}\n[points]" for m in _TOLERANCE_BITS))
    for row in frame.to_dict(orient="records"):
        none = isnan(row["bits_at_limit"])
        table.add_row(
            row["model"],
            row["family"],
            row["kind"],
            f"{row['parameters']:,}",
            f"{100 * row['top1_fp32']:.2f}",
            "-" if none else str(row["fewest_mantissa_bits"]),
            "-" if none else f"{row['bits_at_limit']:.2f}",
            *(f"{100 * row[f'loss_m{m}']:.2f}" for m in _TOLERANCE_BITS),
        )
    return table


def plot_tolerance(frame: pd.DataFrame, within: float, title: str, path: str | Path) -> None:
    """Draw losses against mantissa bits, and tolerance against parameter count, as a PNG.

    A family has a colour and a marker, larger for larger networks; transformers are dashed and
    hollow.

    frame: of `tolerances`
    within: the loss of top-1 at which tolerance is taken, as a share of the images

    Raises OSError if the file cannot be written.
    """
    with drawing() as figure:
        losses, sizes = figure.subplots(1, 2)
        families = list(frame.groupby("family", sort=False))
        for number, (family, rows) in enumerate(families):
            colour, marker = _FAMILIES[number % len(_FAMILIES)]
            attentive = rows["kind"].iloc[0] == TRANSFORMER
            look = {
                "color": colour, "marker": marker,
                "linestyle": "--" if attentive else "-",
                "markerfacecolor": "white" if attentive else colour,
            }  # fmt: skip
            for rank, row in enumerate(rows.to_dict(orient="records")):
                own = [100 * row[f"loss_m{m}"] for m in WIDTHS]
                losses.plot(WIDTHS, own, linewidth=1.0, markersize=4 + 2 * rank, **look)
            label = f"{family} ({rows['kind'].iloc[0]})"
            sizes.plot(rows["parameters"], rows["bits_at_limit"], label=label, **look)
        _scale_tolerance(losses, sizes, within)
        figure.suptitle(title)
        save(figure, path)


def _scale_tolerance(losses: Axes, sizes: Axes, within: float) -> None:
    from matplotlib.ticker import EngFormatter, LogLocator, NullFormatter

    losses.axhline(100 * within, color=GREY, linewidth=1.0, dashes=(5, 3))
    losses.set_yscale("symlog", linthresh=1.0, linscale=0.5)
    losses.set_yticks([0, 1, 10, 100], ["0", "1", "10", "100"])
    losses.set_ylim(-0.5, 100)
    losses.set_xlim(max(WIDTHS) + 0.3, min(WIDTHS) - 0.3)
    losses.set_xlabel("mantissa bits of weights")
    losses.set_ylabel("loss of top-1 [points]")
    sizes.set_xscale("log")
    sizes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    sizes.xaxis.set_major_formatter(EngFormatter(sep=""))
    sizes.xaxis.set_minor_formatter(NullFormatter())
    sizes.set_xlabel("parameters")
    sizes.set_ylim(0)
    sizes.set_ylabel(f"mantissa bits at a loss of {points_text(within)}")
    sizes.legend()


def _frame(axes: Axes, kept: NDArray[np.bool_], x: int, y: int) -> None:
    """The sides of a kept cell that no kept cell is beside."""
    rows, columns = kept.shape
    inside = {
        (x + i, y + j)
        for i, j in ((-1, 0), (1, 0), (0, -1), (0, 1))
        if 0 <= x + i < columns and 0 <= y + j < rows and kept[y + j, x + i]
    }
    for i, j in ((-1, 0), (1, 0), (0, -1), (0, 1)):
        if (x + i, y + j) not in inside:
            xs = [x + i / 2, x + i / 2] if i else [x - 0.5, x + 0.5]
            ys = [y + j / 2, y + j / 2] if j else [y - 0.5, y + 0.5]
            axes.plot(xs, ys, color=VERMILION, linewidth=1.8, clip_on=False)


def _cells(frame: pd.DataFrame, key: str) -> pd.DataFrame:
    """A row per e, a column per m."""
    cells: pd.DataFrame = frame.pivot_table(key, "exponent_bits", "mantissa_bits")
    return cells
