"""The `quantize` command: what number formats do to a trained network's accuracy."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bfpsim.commands.arguments import (
    ShapeOption,
    UsageError,
    ValueOption,
    check_writable,
    shapes,
    with_groups,
)
from bfpsim.commands.emit import Output, kept
from bfpsim.commands.images import ImageOptions, TrainData, TrainLabels, check_training
from bfpsim.commands.progress import progress

TrainedName = Annotated[
    str,
    typer.Argument(
        metavar="NETWORK",
        help="A shipped trained network (resnet18-fashion, ...), a .safetensors file of the "
        "training script, an .onnx file, or package.module:function or file.py:function, which "
        "makes a module.",
    ),
]
Formats = Annotated[
    list[str] | None,
    typer.Option(
        "--format",
        "-f",
        help="original, bitq16, bitq8, a baseline (hbfp8, ...; see docs/baselines.md), or "
        "a format such as bfp8e3b16 or mxfp4; may be given several times.",
    ),
]


@with_groups
def quantize(
    network: TrainedName,
    *,
    format: Formats = None,
    baselines: Annotated[
        bool, typer.Option("--baselines", help="All the formats that bfpsim compares with, too.")
    ] = False,
    shape: ShapeOption = None,
    value: ValueOption = None,
    images: ImageOptions,
    calibration: Annotated[
        int,
        typer.Option(
            min=1,
            help="Images of --train, else of --data, from which E_top and bitq's choice are taken.",
        ),
    ] = 200,
    qat: Annotated[
        int | None,
        typer.Option(min=1, help="Train each format for so many steps more; needs --train."),
    ] = None,
    train: TrainData = None,
    train_labels: TrainLabels = None,
    checkpoints: Annotated[
        Path | None,
        typer.Option(help="Folder of training checkpoints, to go on from after a stop."),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the order of training images.")] = 0,
    sensitivity: Annotated[
        Path | None,
        typer.Option(
            help="Measure every layer, tensor and format (all of table 2, 8 bits, unless --format "
            "names some), write the table to this CSV file, and say whether losses add up.",
        ),
    ] = None,
    output: Output,
) -> None:
    """Compare number formats on a trained network: accuracy, storage, and noise in each layer.

    Inputs, weights and outputs of every layer are quantised as the accelerator stores them.
    Without --format: the float original, and BitQ's space at 16 and 8 bits, each tensor in the
    format of least estimated loss. With --qat, each is trained on and evaluated again. With
    --sensitivity, single tensors are swapped instead.
    """
    output.check()
    check_training(qat, train)
    if checkpoints is not None and qat is None:
        raise UsageError("--checkpoints needs --qat")
    if sensitivity is not None and (qat is not None or baselines):
        raise UsageError("--sensitivity runs alone; leave out --qat and --baselines")
    if sensitivity is not None:
        check_writable("--sensitivity", sensitivity)
    from bfpsim.quant.formats import parse_format
    from bfpsim.reports.quantization import formats_report, sensitivity_report
    from bfpsim.search.experiments.classifier import make_classifier
    from bfpsim.search.experiments.formats import study_formats, study_sensitivity

    module, data = images.module(network, shapes(shape, value)), images.images()
    training = None if train is None else images.training(train, train_labels)
    classifier = make_classifier(
        module, data, name=network, sample=calibration, calibration=training
    )
    if sensitivity is not None:
        formats = [parse_format(name) for name in format or ()]
        swaps = study_sensitivity(classifier, formats, table=sensitivity, progress=progress)
        output.emit(sensitivity_report(swaps))
        return
    what = f"checkpoints of training are in {checkpoints}" if checkpoints else "no result was kept"
    with kept(what):
        study = study_formats(
            classifier, _names(format, baselines), training=training, steps=qat or 0, seed=seed,
            checkpoints=checkpoints, progress=progress,
        )  # fmt: skip
    output.emit(formats_report(study))


def _names(format: list[str] | None, baselines: bool) -> list[str]:
    from bfpsim.quant.baselines import BASELINES
    from bfpsim.quant.formats import INDUSTRY
    from bfpsim.search.experiments.formats import STOCK

    names = list(format or STOCK) + ([*INDUSTRY, *BASELINES] if baselines else [])
    return list(dict.fromkeys(name.strip().lower() for name in names))
