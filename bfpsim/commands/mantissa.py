"""The `mantissa` command: how few bits trained networks' weights need, without training."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Annotated, Literal

import typer

from bfpsim.commands.arguments import (
    ArchName,
    ShapeOption,
    UsageError,
    ValueOption,
    shapes,
    with_groups,
)
from bfpsim.commands.emit import Output
from bfpsim.commands.images import ImageOptions
from bfpsim.commands.progress import progress

ModelNames = Annotated[
    list[str],
    typer.Argument(
        metavar="MODEL",
        help="A shipped trained network (resnet18-fashion, ...), a .safetensors file of the "
        "training script, package.module:function or file.py:function, which makes a module, or "
        "an .onnx file, which is run if images are given. Several are compared with each other.",
    ),
]
# What a network that is run needs, and what one alone is shown with.
_OF_IMAGES = (
    *(own.name for own in fields(ImageOptions)),
    *("rounding", "within", "unit_format", "unit_images"),
)
_OF_ONE = ("weights", "unit_format", "unit_images", "arch")


@with_groups
def mantissa(
    context: typer.Context,
    models: ModelNames,
    *,
    images: ImageOptions,
    rounding: Annotated[
        Literal["nearest-even", "truncate"],
        typer.Option(help="What happens to the mantissa bits that do not fit."),
    ] = "nearest-even",
    activations: Annotated[
        bool, typer.Option("--activations", help="Inputs and outputs of layers in FP(e, m), too.")
    ] = False,
    within: Annotated[
        float, typer.Option(min=0, max=100, help="Loss of top-1 that is allowed, in points.")
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
    arch: ArchName = "ideal-64k",
    shape: ShapeOption = None,
    value: ValueOption = None,
    output: Output,
) -> None:
    """Show how few exponent and mantissa bits a network's weights need, without training.

    Accuracy in every FP(e, m), e from 8 to 2 and m from 23 to 0, and the energy of each width; the
    weights' distribution and kurtosis; and the error that quantising one building block at a time
    makes. Of an ONNX file without images, weights and energy. Of several networks, what each
    mantissa width costs them. With --out, the figures too.
    """
    output.check()
    from bfpsim.arch import load_arch
    from bfpsim.quant.formats import Rounding
    from bfpsim.quant.mantissa.minifloat import parse_minifloat
    from bfpsim.reports.mantissa import mantissa_report, tolerance_report, weights_report
    from bfpsim.search.experiments.mantissa import study_mantissa, study_tolerance, study_weights

    models, mode, spec = list(dict.fromkeys(models)), Rounding(rounding), load_arch(arch)
    onnx = [model for model in models if Path(model).suffix.lower() == ".onnx"]
    given = shapes(shape, value)
    # Without images of its own, a file's weights and their energy can be told, and no accuracy.
    if onnx and len(models) == 1 and not any(_is_given(context, name) for name in _OF_IMAGES):
        from bfpsim.workloads import load_with_weights

        network, held = load_with_weights(onnx[0], given)
        weights = study_weights(
            network, held, spec, name=onnx[0], activations=activations, progress=progress
        )
        output.emit(weights_report(weights))
        return
    if len(models) > 1:
        _refuse(context, _OF_ONE, f"{len(models)} models are compared by their accuracy alone")
    if given and not onnx:
        raise UsageError("--shape is of .onnx files; the images fix the shapes of a module")
    formats = [parse_minifloat(name, mode) for name in unit_format or ["e8m3"]]
    modules = {model: images.module(model, given if model in onnx else None) for model in models}
    data = images.images()
    if len(models) > 1:
        tolerance = study_tolerance(
            modules, data, rounding=mode, activations=activations, within=within / 100,
            progress=progress,
        )  # fmt: skip
        output.emit(tolerance_report(tolerance))
        return
    ((name, module),) = modules.items()
    study = study_mantissa(
        module, data, spec, name=name, rounding=mode, activations=activations, within=within / 100,
        unit_formats=formats, unit_images=unit_images, progress=progress,
    )  # fmt: skip
    output.emit(mantissa_report(study))


def _refuse(context: typer.Context, names: tuple[str, ...], why: str) -> None:
    """Raise UsageError if one of these options is on the command line."""
    given = [name for name in names if _is_given(context, name)]
    if given:
        options = ", ".join(f"--{name.replace('_', '-')}" for name in given)
        raise UsageError(f"{why}; leave out {options}")


def _is_given(context: typer.Context, name: str) -> bool:
    source = context.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"
