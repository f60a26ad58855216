"""What the `mantissa` command shows: of one network, of an ONNX file, of several networks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rich.console import Group

from bfpsim.commands.emit import Report
from bfpsim.commands.progress import progress_bar
from bfpsim.commands.trained import classifier, module_network

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import pandas as pd
    from torch import nn

    from bfpsim.arch import Arch
    from bfpsim.quant.formats import Rounding
    from bfpsim.quant.mantissa.minifloat import MiniFloat
    from bfpsim.quant.mantissa.weights import Weights
    from bfpsim.quant.study.datasets import Dataset
    from bfpsim.workloads import Network


@dataclass(frozen=True)
class Question:
    """What is asked of a network.

    rounding: of weights
    activations: whether inputs and outputs of layers are in FP(e, m), too
    within: loss of top-1 that is allowed, as a share of the images
    arch: what the energy is of
    """

    rounding: Rounding
    activations: bool
    within: float
    arch: Arch


def study(
    name: str,
    module: nn.Module,
    images: Dataset,
    asked: Question,
    formats: Sequence[MiniFloat],
    unit_images: int,
) -> Report:
    """One network: accuracy in every FP(e, m), its energy, weights, and errors of blocks.

    formats: of single blocks, which are compared on the first `unit_images`
    """
    from bfpsim.quant.mantissa.accuracy import fewest_bits, grid, measure_accuracy
    from bfpsim.quant.mantissa.errors import find_units, measure_errors
    from bfpsim.quant.mantissa.weights import check_weights, stored_weights
    from bfpsim.reports import mantissa as show
    from bfpsim.reports.precision import energy_table, plot_energy

    some = images.batch(range(min(unit_images, len(images)))).inputs
    # No E_top is needed, and so no calibration.
    model = classifier(name, module, some[:4], [])
    weights = stored_weights(model, some[:1])
    check_weights(name, weights)
    points = grid(asked.rounding)
    # Before the accuracy, which takes longer: an architecture that is too small is found at once.
    energy = _energy(name, module_network(module, some[:1]), points, asked)
    with progress_bar(f"evaluating {name}", len(points)) as done:
        accuracy = measure_accuracy(model, images, points, asked.activations, progress=done)
    units = find_units(module, model.sites)
    with progress_bar(f"quantising units of {name}", len(units)) as done:
        errors = measure_errors(model, some, units, formats, progress=done)
    energy = energy.merge(accuracy[["format", "top1", "accuracy_loss"]], on="format")
    mantissa_bits = fewest_bits(
        accuracy[accuracy["exponent_bits"] == 8], "mantissa_bits", asked.within
    )
    exponent_bits = fewest_bits(
        accuracy[accuracy["mantissa_bits"] == mantissa_bits], "exponent_bits", asked.within
    )
    curves = show.curves(accuracy, mantissa_bits)
    spread = _distribution(name, weights)
    title = f"{name} on {len(images):,} images"
    on = f"{name} on {asked.arch.name}"
    notes = {
        "top1_fp32": float((accuracy["top1"] + accuracy["accuracy_loss"]).iloc[0]),
        "fewest_mantissa_bits": mantissa_bits,
        "fewest_exponent_bits_with_these": exponent_bits,
        "energy_saved_percent_with_these_mantissa_bits": _saved(energy, 8, mantissa_bits),
        "energy_saved_percent_with_both": _saved(energy, exponent_bits, mantissa_bits),
    }
    summary = {
        "model": name,
        "images": len(images),
        "rounding": asked.rounding.value,
        "activations": _activations(asked),
        "arch": asked.arch.name,
        "within_points": 100 * asked.within,
        **notes,
        **spread.summary,
    }
    figures = {
        "curves": lambda path: show.plot_curves(curves, asked.within, title, path),
        "heat_map": lambda path: show.plot_heat_map(accuracy, asked.within, title, path),
        "energy": lambda path: plot_energy(energy, asked.within, on, path),
        "units": lambda path: show.plot_errors(errors, name, path),
        **spread.figures,
    }
    tables = (
        show.accuracy_table(accuracy, title),
        energy_table(energy, f"{on}: accuracy against energy, e = 8"),
        show.errors_table(errors),
        spread.table,
    )
    frames = {"accuracy": accuracy, "curves": curves, "energy": energy, "units": errors}
    return Report(
        _together(tables), frames | spread.frames, summary, (*notes, *spread.notes), figures
    )


def study_weights(name: str, network: Network, weights: Weights, asked: Question) -> Report:
    """A network that is not run: its weights' distribution, and the energy at each width."""
    from bfpsim.quant.mantissa.accuracy import grid
    from bfpsim.quant.mantissa.weights import check_weights
    from bfpsim.reports.precision import energy_table, plot_energy

    check_weights(name, weights)
    energy = _energy(name, network, grid(), asked)
    spread = _distribution(name, weights)
    on = f"{name} on {asked.arch.name}"
    tables = (spread.table, energy_table(energy, f"{on}: energy, e = 8"))
    figures = spread.figures | {"energy": lambda path: plot_energy(energy, 0.0, on, path)}
    summary = spread.summary | {"activations": _activations(asked), "arch": asked.arch.name}
    frames = spread.frames | {"energy": energy}
    return Report(_together(tables), frames, summary, spread.notes, figures)


def _energy(
    name: str, network: Network, formats: Sequence[MiniFloat], asked: Question
) -> pd.DataFrame:
    from bfpsim.search.precision import distinct_widths, measure_energy

    with progress_bar(f"simulating {name} on {asked.arch.name}", distinct_widths(formats)) as done:
        return measure_energy(
            network, asked.arch, formats, activations=asked.activations, progress=done
        )


def _saved(energy: pd.DataFrame, e: int | None, m: int | None) -> float | None:
    """Percent of the energy in float32 that a format saves; None for none."""
    rows = energy[(energy["exponent_bits"] == e) & (energy["mantissa_bits"] == m)]
    return round(100 * float(rows["energy_saved"].iloc[0]), 2) if len(rows) else None


def _activations(asked: Question) -> str:
    return "FP(e, m)" if asked.activations else "float32"


def _together(tables: Sequence[Any]) -> Group:
    return Group(*(part for table in tables for part in (table, "")))


def _distribution(name: str, weights: Weights) -> Report:
    from bfpsim.quant.mantissa.weights import (
        check_weights,
        exponent_histogram,
        exponent_span,
        histogram,
        layer_statistics,
        pearson_kurtosis,
        pooled,
    )
    from bfpsim.reports.mantissa import plot_weights, weights_table

    check_weights(name, weights)
    row = pooled(weights)
    values, exponents, span = histogram(row), exponent_histogram(row), exponent_span(row)
    layers: pd.DataFrame = layer_statistics(weights)
    kurtosis = pearson_kurtosis(row)
    summary: dict[str, Any] = {
        "model": name,
        "weights": row.size,
        "kurtosis_pearson": kurtosis,
        "kurtosis_excess": kurtosis - 3,
        "kurtosis_pearson_mean_of_layers": float(layers["kurtosis_pearson"].mean()),
        "exponents_of_99.9_percent": None if span is None else f"{span.low}..{span.high}",
        "exponent_bits_of_that_span": None if span is None else span.exponent_bits,
    }
    notes = tuple(key for key in summary if key != "model")
    frames = {"layers": layers, "histogram": values, "exponents": exponents}
    title = f"{row.size:,} weights of {name}, Pearson kurtosis {kurtosis:.4g}"
    figures = {"weights": lambda path: plot_weights(values, exponents, span, title, path)}
    return Report(weights_table(layers), frames, summary, notes, figures)


def compare(modules: Mapping[str, nn.Module], images: Dataset, asked: Question) -> Report:
    """Several networks: what each mantissa width costs them, against their size."""
    import pandas as pd

    from bfpsim.quant.mantissa.accuracy import WIDTHS, measure_tolerance, tolerances
    from bfpsim.reports.tolerance import plot_tolerance, tolerance_table

    parts = []
    with progress_bar("evaluating", len(modules) * len(WIDTHS)) as done:
        for name, module in modules.items():

            def told(format: str, name: str = name) -> None:
                done(f"{name} {format}")

            rows = measure_tolerance(
                name, module, images, asked.rounding, asked.activations, progress=told
            )
            parts.append(rows)
    frame = pd.concat(parts, ignore_index=True)
    networks = tolerances(frame, asked.within)
    title = f"Weights in FP(8, m), {len(images):,} images"
    summary = {
        "images": len(images),
        "rounding": asked.rounding.value,
        "activations": _activations(asked),
        "within_points": 100 * asked.within,
    }
    figures = {"tolerance": lambda path: plot_tolerance(networks, asked.within, title, path)}
    frames = {"networks": networks, "tolerance": frame}
    return Report(tolerance_table(networks, title), frames, summary, (), figures)
