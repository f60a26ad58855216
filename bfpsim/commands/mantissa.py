"""The `mantissa` command: how few bits trained networks' weights need, without training."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from bfpsim.commands.arguments import (
    ArchName,
    Csv,
    Json,
    Out,
    ShapeOption,
    UsageError,
    one_of,
    shapes,
)
from bfpsim.commands.emit import Report, emit
from bfpsim.commands.trained import (
    Count,
    Crop,
    DataName,
    Grey,
    LabelsFile,
    NormaliseName,
    Preparation,
    Resize,
    WeightsFile,
    labelled_images,
    trained_module,
)

if TYPE_CHECKING:
    from bfpsim.commands.mantissa_reports import Question

ModelNames = Annotated[
    list[str],
    typer.Argument(
        metavar="MODEL...",
        help="A shipped trained network (resnet18-fashion, ...), a .safetensors file of the "
        "training script, package.module:function or file.py:function, which makes a module, or "
        "an .onnx file, which is not run. Several are compared with each other.",
    ),
]
# What a network that is run needs, and what one alone is shown with.
_OF_IMAGES = (
    "weights", "data", "labels", "normalise", "resize", "crop", "grey", "count", "rounding",
    "within", "unit_format", "unit_images",
)  # fmt: skip
_OF_ONE = ("weights", "unit_format", "unit_images", "arch")


def mantissa(
    context: typer.Context,
    models: ModelNames,
    weights: WeightsFile = None,
    data: DataName = "shipped",
    labels: LabelsFile = None,
    normalise: NormaliseName = "fashion-mnist",
    resize: Resize = None,
    crop: Crop = None,
    grey: Grey = False,
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
    arch: ArchName = "edge-64k",
    shape: ShapeOption = None,
    as_json: Json = False,
    as_csv: Csv = False,
    out: Out = None,
) -> None:
    """Show how few exponent and mantissa bits a network's weights need, without training.

    Accuracy in every FP(e, m), e from 8 to 2 and m from 23 to 0, and the energy of each width; the
    weights' distribution and kurtosis; and the error that quantising one building block at a time
    makes. Of an ONNX file, weights and energy. Of several networks, what each mantissa width costs
    them. With --out, the figures too.
    """
    one_of(as_json, as_csv, out)
    from bfpsim.arch import load_arch
    from bfpsim.commands.mantissa_reports import Question
    from bfpsim.quant.formats import Rounding

    models = list(dict.fromkeys(models))
    asked = Question(Rounding(rounding), activations, within / 100, load_arch(arch))
    onnx = [model for model in models if Path(model).suffix == ".onnx"]
    if onnx:
        if len(models) > 1:
            raise UsageError(f"{onnx[0]}: an ONNX file is not run; name it alone")
        _refuse(context, _OF_IMAGES, f"{onnx[0]}: an ONNX file is not run")
        emit(_onnx(onnx[0], shape, asked), as_json, as_csv, out)
        return
    if len(models) > 1:
        _refuse(context, _OF_ONE, f"{len(models)} models are compared by their accuracy alone")
    if shape:
        raise UsageError("--shape is of .onnx files; the images fix the shapes of a module")
    from bfpsim.commands.mantissa_reports import compare, study
    from bfpsim.quant.mantissa.minifloat import parse_minifloat
    from bfpsim.quant.study.datasets import first

    formats = [parse_minifloat(name, asked.rounding) for name in unit_format or ["e8m3"]]
    modules = {model: trained_module(model, weights) for model in models}
    images = labelled_images(data, labels, Preparation(normalise, resize, crop, grey))
    images = images if count is None else first(images, count)
    if len(models) > 1:
        report = compare(modules, images, asked)
    else:
        report = study(models[0], modules[models[0]], images, asked, formats, unit_images)
    emit(report, as_json, as_csv, out)


def _refuse(context: typer.Context, names: tuple[str, ...], why: str) -> None:
    """Raise UsageError if one of these options is on the command line."""
    given = [name for name in names if _is_given(context, name)]
    if given:
        options = ", ".join(f"--{name.replace('_', '-')}" for name in given)
        raise UsageError(f"{why}; leave out {options}")


def _is_given(context: typer.Context, name: str) -> bool:
    source = context.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


def _onnx(path: str, shape: list[str] | None, asked: Question) -> Report:
    from bfpsim.commands.mantissa_reports import study_weights
    from bfpsim.quant.mantissa.weights import imported_weights
    from bfpsim.workloads.importers.onnx.model import import_onnx

    imported = import_onnx(path, shapes(shape))
    return study_weights(path, imported.network, imported_weights(imported), asked)
