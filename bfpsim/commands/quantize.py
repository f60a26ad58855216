"""The `quantize` command: what number formats do to a trained network's accuracy."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bfpsim.commands.arguments import Csv, Json, Out, UsageError, check_writable, one_of
from bfpsim.commands.emit import Report, emit
from bfpsim.commands.progress import progress_bar
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
    classifier,
    file_stem,
    labelled_images,
    train_choice,
    trained_module,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from bfpsim.quant.study.datasets import Dataset
    from bfpsim.quant.torch.model import Chosen, QuantizedModel

    Choice = Chosen | Mapping[str, Chosen]

TrainedName = Annotated[
    str,
    typer.Argument(
        metavar="NETWORK",
        help="A shipped trained network (resnet18-fashion, ...), a .safetensors file of the "
        "training script, or package.module:function or file.py:function, which makes a module.",
    ),
]
Formats = Annotated[
    list[str] | None,
    typer.Option(
        "--format",
        "-f",
        help="original, bitq16, bitq8, a baseline (mxfp4, msfp12, ...; see docs/baselines.md), or "
        "a format such as bfp8e3b16; may be given several times.",
    ),
]
_STOCK = ("original", "bitq16", "bitq8")


def quantize(
    network: TrainedName,
    format: Formats = None,
    baselines: Annotated[
        bool, typer.Option("--baselines", help="All the formats that bfpsim compares with, too.")
    ] = False,
    weights: WeightsFile = None,
    data: DataName = "shipped",
    labels: LabelsFile = None,
    normalise: NormaliseName = "fashion-mnist",
    resize: Resize = None,
    crop: Crop = None,
    grey: Grey = False,
    count: Count = None,
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
    train: Annotated[
        str | None, typer.Option(help="Images to train on, as --data takes them.")
    ] = None,
    train_labels: Annotated[
        str | None, typer.Option(help="IDX file of labels for --train.", metavar="FILE")
    ] = None,
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
    as_json: Json = False,
    as_csv: Csv = False,
    out: Out = None,
) -> None:
    """Compare number formats on a trained network: accuracy, storage, and noise in each layer.

    Inputs, weights and outputs of every layer are quantised as the accelerator stores them.
    Without --format: the float original, and BitQ's space at 16 and 8 bits, each tensor in the
    format of least estimated loss. With --qat, each is trained on and evaluated again. With
    --sensitivity, single tensors are swapped instead.
    """
    one_of(as_json, as_csv, out)
    if (qat is None) != (train is None):
        raise UsageError("--qat and --train need each other")
    if checkpoints is not None and qat is None:
        raise UsageError("--checkpoints needs --qat")
    if sensitivity is not None and (qat is not None or baselines):
        raise UsageError("--sensitivity runs alone; leave out --qat and --baselines")
    if sensitivity is not None:
        check_writable("--sensitivity", sensitivity)
    from bfpsim.quant.study.datasets import first

    module = trained_module(network, weights)
    how = Preparation(normalise, resize, crop, grey)
    images = labelled_images(data, labels, how)
    images = images if count is None else first(images, count)
    training = None if train is None else labelled_images(train, train_labels, how)
    source = training or images
    some = source.batch(range(min(calibration, len(source)))).inputs
    model = classifier(network, module, some[:4], [some])
    if sensitivity is not None:
        emit(_sensitivity(model, images, format, sensitivity), as_json, as_csv, out)
        return
    names = _names(format, baselines)
    emit(
        _comparison(network, model, images, names, some, training, qat, checkpoints, seed),
        as_json,
        as_csv,
        out,
    )


def _names(format: list[str] | None, baselines: bool) -> list[str]:
    from bfpsim.quant.baselines import BASELINES

    names = list(format or _STOCK) + (list(BASELINES) if baselines else [])
    return list(dict.fromkeys(name.strip().lower() for name in names))


def _comparison(
    network: str,
    model: QuantizedModel,
    images: Dataset,
    names: list[str],
    some: Tensor,
    training: Dataset | None,
    steps: int | None,
    checkpoints: Path | None,
    seed: int,
) -> Report:
    import pandas as pd

    from bfpsim.quant.study.comparison import compare_formats, evaluate_original, parse_policy
    from bfpsim.reports.quantization import accuracy_table, noise_table

    policies: dict[str, Choice] = {name: parse_policy(name, model, some[:100]) for name in names}
    with progress_bar(f"evaluating {network}", len(policies)) as done:
        original = evaluate_original(model, images)  # before any training
        result = compare_formats(model, images, policies, original=original, progress=done)
    accuracy, layers = [result.accuracy], [result.layers]
    if training is not None and steps is not None:
        weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        for name in names:
            if name == "original":
                continue
            model.load_state_dict(weights)
            tuned = f"{name} +QAT"
            checkpoint = None
            if checkpoints is not None:
                checkpoints.mkdir(parents=True, exist_ok=True)
                checkpoint = checkpoints / f"{file_stem(network)}-{name}.safetensors"
            train_choice(
                model, policies[name], training, steps, f"{network} {name}", seed, checkpoint
            )
            again = compare_formats(model, images, {tuned: policies[name]}, original=original)
            accuracy.append(again.accuracy)
            layers.append(again.layers)
        model.load_state_dict(weights)
    frame, noise = pd.concat(accuracy, ignore_index=True), pd.concat(layers, ignore_index=True)
    title = f"{network} on {len(images):,} images"
    if len(frame) == 1:
        from rich.console import Group

        table: Any = Group(accuracy_table(frame, title), "", noise_table(noise))
    else:
        table = accuracy_table(frame, title)
    summary: dict[str, Any] = {"network": network, "images": len(images), "calibration": len(some)}
    if steps is not None:
        summary |= {"qat_steps": steps, "seed": seed}
    return Report(table, {"accuracy": frame, "layers": noise}, summary)


def _sensitivity(
    model: QuantizedModel, images: Dataset, format: list[str] | None, path: Path
) -> Report:
    from bfpsim.quant.formats import candidates, parse_format
    from bfpsim.quant.study.additivity import check_additivity
    from bfpsim.quant.study.sensitivity import measure_sensitivity
    from bfpsim.reports.quantization import additivity_lines, sensitivity_table

    formats = list(candidates(8)) if not format else [parse_format(name) for name in format]
    whole = images.batch(range(len(images)))
    chunks = -(-len(images) // 100) * len(model.operands)
    with progress_bar("swapping single tensors", chunks) as done:
        table = measure_sensitivity(model, *whole, formats, progress=done)
    table.save(path)
    with progress_bar("running mixed choices", 40) as done:
        result = check_additivity(model, table, *whole, progress=done)
    summary = {
        "network": model.title,
        "images": table.images,
        "accuracy": table.accuracy,
        **additivity_lines(result),
    }
    notes = tuple(additivity_lines(result))
    frames = {"sensitivity": table.table, "additivity": result.table}
    return Report(sensitivity_table(table), frames, summary, notes)
