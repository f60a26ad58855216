"""Trained networks and labelled images: the options that name them, and what they stand for."""

from __future__ import annotations

import inspect
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bfpsim.commands.arguments import UsageError
from bfpsim.commands.progress import progress_bar

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor, nn

    from bfpsim.quant.study.datasets import Dataset, Normalisation
    from bfpsim.quant.torch.model import Chosen, QuantizedModel
    from bfpsim.workloads import Network

WeightsFile = Annotated[
    Path | None,
    typer.Option(help="Checkpoint for a module: safetensors, or a state dict of torch.save."),
]
DataName = Annotated[
    str,
    typer.Option(
        help="Labelled images: 'shipped' (1,000 of Fashion-MNIST), a folder with one folder "
        "per class, an .npz file with images and labels, or an IDX file with --labels.",
    ),
]
LabelsFile = Annotated[
    str | None, typer.Option(help="IDX file of labels for --data.", metavar="FILE")
]
NormaliseName = Annotated[
    str,
    typer.Option(
        help="fashion-mnist, imagenet, none, or MEAN/STD of pixels in 0..1, each a number or "
        "one per channel joined by commas."
    ),
]
Resize = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="Of a folder of images: length that the shorter side gets [pixel]. With neither this "
        "nor --crop, images are resized to 256 and cropped to 224.",
    ),
]
Crop = Annotated[
    int | None,
    typer.Option(
        min=1, help="Of a folder of images: side of the square cut from the middle [pixel]."
    ),
]
Grey = Annotated[
    bool, typer.Option("--grey", help="Of a folder of images: one channel, grey, not RGB.")
]
Count = Annotated[int | None, typer.Option(min=1, help="Evaluate on the first images only.")]


@dataclass(frozen=True)
class Preparation:
    """What becomes of images before a network sees them, as the options of these names say."""

    normalise: str = "fashion-mnist"
    resize: int | None = None
    crop: int | None = None
    grey: bool = False


def trained_module(network: str, weights: Path | None) -> nn.Module:
    """A shipped network, a file of the training script, or a module with a checkpoint."""
    if ":" in network:
        from bfpsim.workloads.importers.torch.module import make_module
        from bfpsim.workloads.state import load_into

        module = make_module(network)
        if weights is not None:
            load_into(module, weights)
        return module
    if weights is not None:
        raise UsageError("--weights needs a module: package.module:function or file.py:function")
    from bfpsim.workloads.training.shipped import load_module, shipped_module

    return load_module(network) if network.endswith(".safetensors") else shipped_module(network)


def classifier(
    network: str, module: nn.Module, inputs: Tensor, calibration: Sequence[Tensor]
) -> QuantizedModel:
    """The module with every operand quantised, under the name that the user gave it.

    inputs: some images; calibration: those from which E_top is taken

    Raises WorkloadError, before anything is measured, for an output that is not one tensor
    (images, classes), and what `quantize_model` raises.
    """
    import torch

    from bfpsim.quant.study.accuracy import logits_of
    from bfpsim.quant.torch.model import quantize_model

    model = quantize_model(module, inputs, None, calibration, name=network)
    with torch.no_grad():
        logits_of(model, inputs)
    return model


def file_stem(network: str) -> str:
    """What files made for a network are called: of a module, which function makes it too."""
    source, colon, function = network.rpartition(":")
    if not colon:
        return Path(network).stem
    return f"{Path(source).stem if source.endswith('.py') else source}-{function}"


def labelled_images(
    data: str,
    labels: str | None,
    how: Preparation,
) -> Dataset:
    """'shipped', a folder per class, an .npz file, or two IDX files.

    A folder's images without resize and crop are fitted as torchvision does: 256 and 224.

    Raises UsageError for what does not go with the data.
    """
    from bfpsim.quant.study import datasets
    from bfpsim.quant.study.image_folder import Fit, read_image_folder

    path = Path(data)
    folder = data != "shipped" and path.is_dir()
    if labels is not None and (data == "shipped" or folder or path.suffix == ".npz"):
        raise UsageError(f"{data} brings its own labels; leave out {labels}")
    if data != "shipped" and not path.exists():
        raise UsageError(
            f"{data}: no such file or folder; allowed: shipped, a folder, an .npz file, or an IDX "
            "file with one of labels"
        )
    normalisation = parse_normalisation(how.normalise)
    if not folder and how != Preparation(how.normalise):
        raise UsageError(f"--resize, --crop, --grey: {data} is no folder; allowed: with a folder")
    if data == "shipped":
        if normalisation != datasets.FASHION_MNIST:
            parts = (normalisation.mean, normalisation.std)
            given = "/".join(",".join(f"{x:g}" for x in part) for part in parts)
            raise UsageError(f"--normalise {given} of the shipped images; allowed: fashion-mnist")
        return datasets.shipped_test_images()
    if folder:
        fitted = how.resize is not None or how.crop is not None
        fit = Fit(how.resize, how.crop) if fitted else Fit()
        return read_image_folder(path, normalisation, fit, 1 if how.grey else 3)
    if path.suffix == ".npz":
        return datasets.read_npz_dataset(path, normalisation)
    if labels is None:
        raise UsageError(f"{data} needs labels; allowed: an IDX file of them, or a folder or .npz")
    return datasets.read_idx_dataset(data, labels, normalisation)


def parse_normalisation(text: str) -> Normalisation:
    """A name, or MEAN/STD."""
    from bfpsim.quant.study.datasets import AS_STORED, FASHION_MNIST, IMAGENET, Normalisation

    named = {"fashion-mnist": FASHION_MNIST, "imagenet": IMAGENET, "none": AS_STORED}
    if text in named:
        return named[text]
    number = r"-?\d+(?:\.\d+)?"
    if not re.fullmatch(rf"{number}(?:,{number})*/{number}(?:,{number})*", text):
        raise UsageError(
            f"--normalise {text!r}; allowed: {', '.join(named)}, or MEAN/STD such as 0.5/0.25 or "
            "0.4,0.4,0.4/0.2,0.2,0.2"
        )
    mean, std = (tuple(float(x) for x in part.split(",")) for part in text.split("/"))
    return Normalisation(mean, std)


def module_network(module: nn.Module, image: Tensor) -> Network:
    """The module's layers at the shape of one image (1, C, H, W)."""
    from bfpsim.workloads import load_workload

    argument = next(iter(inspect.signature(module.forward).parameters))
    return load_workload(module, {argument: image.shape})


def train_choice(
    model: QuantizedModel,
    choice: Chosen | Mapping[str, Chosen],
    training: Dataset,
    steps: int,
    title: str,
    seed: int,
    checkpoint: Path | None,
) -> None:
    """Give the model its formats and train it in them, in place, with a bar of progress."""
    from bfpsim.quant.training.fine_tuning import fine_tune

    model.choose(choice, tied=False)
    with progress_bar(f"training {title}", steps) as done:
        fine_tune(
            model,
            training,
            steps,
            seed=seed,
            checkpoint=checkpoint,
            progress=done,
            name=f"{title} {model.described()}",
        )
