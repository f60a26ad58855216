"""The `mantissa` command: how few bits a trained network's weights need, without training."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from bfpsim.arguments import Csv, Json, Out, ShapeOption, UsageError, one_of, shapes
from bfpsim.emit import Report, emit
from bfpsim.progress import progress_bar
from bfpsim.trained import (
    Count,
    DataName,
    LabelsFile,
    NormaliseName,
    WeightsFile,
    labelled_images,
    parse_normalisation,
    trained_module,
)

if TYPE_CHECKING:
    import pandas as pd
    from torch import nn

    from quant.datasets import Dataset
    from quant.mantissa.distribution import Weights
    from quant.minifloat import MiniFloat

ModelName = Annotated[
    str,
    typer.Argument(
        metavar="MODEL",
        help="A shipped trained network (resnet18-fashion, ...), a .safetensors file of the "
        "training script, package.module:function or file.py:function, which makes a module, or "
        "an .onnx file, of which the weights' distribution alone is shown.",
    ),
]


def mantissa(
    model: ModelName,
    weights: WeightsFile = None,
    data: DataName = "shipped",
    labels: LabelsFile = None,
    normalise: NormaliseName = "fashion-mnist",
    count: Count = None,
    rounding: Annotated[
        Literal["nearest-even", "truncate"],
        typer.Option(help="What happens to the mantissa bits that do not fit."),
    ] = "nearest-even",
    activations: Annotated[
        bool, typer.Option("--activations", help="Inputs and outputs of layers in FP(e, m), too.")
    ] = False,
    within: Annotated[
        float, typer.Option(min=0, max=100, help="Loss of top-1 that is allowed [points].")
    ] = 1.0,
    unit_format: Annotated[
        list[str] | None,
        typer.Option(
            help="What single building blocks are quantised to: e8m3 (the default), another, fp16, "
            "bf16 or tf32; may be given several times, the figure shows the first.",
        ),
    ] = None,
    unit_images: Annotated[
        int, typer.Option(min=1, help="Images on which building blocks are compared, at most.")
    ] = 100,
    shape: ShapeOption = None,
    as_json: Json = False,
    as_csv: Csv = False,
    out: Out = None,
) -> None:
    """Show how few exponent and mantissa bits a network's weights need, without training.

    Accuracy in every FP(e, m), e from 8 to 2 and m from 23 to 0; the weights' distribution and
    kurtosis; and the error that quantising one building block at a time makes. With --out, the
    figures too.
    """
    one_of(as_json, as_csv, out)
    if Path(model).suffix == ".onnx":
        images_given = data != "shipped" or labels is not None or count is not None
        if weights is not None or images_given or unit_format or activations:
            raise UsageError(
                f"{model}: of an ONNX file only the weights are read; leave out --weights, --data, "
                "--labels, --count, --unit-format and --activations"
            )
        emit(_distribution(model, _onnx_weights(model, shape)), as_json, as_csv, out)
        return
    if shape:
        raise UsageError("--shape is of .onnx files; the images fix the shapes of a module")
    from quant.datasets import first
    from quant.formats import Rounding
    from quant.minifloat import parse_minifloat

    how = Rounding(rounding)
    formats = [parse_minifloat(name, how) for name in unit_format or ["e8m3"]]
    module = trained_module(model, weights)
    images: Dataset = labelled_images(data, labels, parse_normalisation(normalise))
    images = images if count is None else first(images, count)
    report = _study(model, module, images, how, activations, within / 100, formats, unit_images)
    emit(report, as_json, as_csv, out)


def _study(
    name: str,
    module: nn.Module,
    images: Dataset,
    rounding: Any,
    activations: bool,
    within: float,
    formats: list[MiniFloat],
    unit_images: int,
) -> Report:
    from rich.console import Group

    from quant.mantissa.accuracy import (
        fewest_bits,
        grid,
        measure_accuracy,
        stored_weights,
        weights_in,
    )
    from quant.mantissa.distribution import check_weights
    from quant.mantissa.errors import measure_errors
    from quant.mantissa.units import find_units
    from quant.model import Codings, quantize_model
    from reports import mantissa as show

    some = images.batch(range(min(unit_images, len(images)))).inputs
    # No E_top is needed, and so no calibration.
    model = quantize_model(module, some[:4], None, [])
    weights = stored_weights(model, some[:1])
    check_weights(name, weights)
    points = grid(rounding)
    with progress_bar(f"evaluating {name}", len(points)) as done:
        coded = Codings.uniform if activations else weights_in
        accuracy = measure_accuracy(model, images, points, coded, progress=done)
    units = find_units(module, model.sites)
    with progress_bar(f"quantising units of {name}", len(units)) as done:
        errors = measure_errors(model, some, units, formats, progress=done)
    mantissa_bits = fewest_bits(accuracy[accuracy["exponent_bits"] == 8], "mantissa_bits", within)
    exponent_bits = fewest_bits(
        accuracy[accuracy["mantissa_bits"] == mantissa_bits], "exponent_bits", within
    )
    curves = show.curves(accuracy, mantissa_bits)
    spread = _distribution(name, weights)
    title = f"{name} on {len(images):,} images"
    summary = {
        "model": name,
        "images": len(images),
        "rounding": rounding.value,
        "activations": "FP(e, m)" if activations else "float32",
        "top1_fp32": float((accuracy["top1"] + accuracy["accuracy_loss"]).iloc[0]),
        "within_points": 100 * within,
        "fewest_mantissa_bits": mantissa_bits,
        "fewest_exponent_bits_with_these": exponent_bits,
        **spread.summary,
    }
    frames = {"accuracy": accuracy, "curves": curves, "units": errors, **spread.frames}
    figures = {
        "curves": lambda path: show.plot_curves(curves, within, title, path),
        "heat_map": lambda path: show.plot_heat_map(accuracy, within, title, path),
        "units": lambda path: show.plot_errors(errors, name, path),
        **spread.figures,
    }
    tables = (show.accuracy_table(accuracy, title), show.errors_table(errors), spread.table)
    shown = Group(*(part for table in tables for part in (table, "")))
    notes = ("top1_fp32", "fewest_mantissa_bits", "fewest_exponent_bits_with_these", *spread.notes)
    return Report(shown, frames, summary, notes, figures)


def _distribution(name: str, weights: Weights) -> Report:
    from quant.mantissa.distribution import (
        check_weights,
        exponent_histogram,
        exponent_span,
        histogram,
        layer_statistics,
        pearson_kurtosis,
        pooled,
    )
    from reports.mantissa import plot_weights, weights_table

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


def _onnx_weights(path: str, shape: list[str] | None) -> Weights:
    from workloads.importers.onnx_graph import import_onnx

    imported = import_onnx(path, shapes(shape))
    names = {layer.name for layer in imported.network.layers}
    return {name: own.weight for name, own in imported.weights.items() if name in names}
