"""Trained networks and labelled images: the options that name them, and what they stand for."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bfpsim.commands.arguments import UsageError

if TYPE_CHECKING:
    from torch import nn

    from bfpsim.quant.study.datasets import Dataset, Normalisation
    from bfpsim.search.experiments.classifier import Classifier
    from bfpsim.workloads import Shapes

TrainData = Annotated[
    str | None, typer.Option("--train", help="Images to train on, as --data takes them.")
]
TrainLabels = Annotated[
    str | None,
    typer.Option("--train-labels", help="IDX file of labels for --train.", metavar="FILE"),
]


@dataclass(frozen=True)
class ImageOptions:
    """Options that name a trained module's weights and the images to judge it on."""

    weights: Annotated[
        Path | None,
        typer.Option(help="Checkpoint for a module: safetensors, or a state dict of torch.save."),
    ] = None
    data: Annotated[
        str,
        typer.Option(
            help="Labelled images: 'shipped' (1,000 of Fashion-MNIST), a folder with one folder "
            "per class, an .npz file with images and labels, or an IDX file with --labels.",
        ),
    ] = "shipped"
    labels: Annotated[
        str | None, typer.Option(help="IDX file of labels for --data.", metavar="FILE")
    ] = None
    normalise: Annotated[
        str,
        typer.Option(
            help="fashion-mnist, imagenet, none, or MEAN/STD of pixels in 0..1, each a number or "
            "one per channel joined by commas."
        ),
    ] = "fashion-mnist"
    resize: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Of a folder of images: length in pixels that the shorter side gets. With neither "
            "this nor --crop, images are resized to 256 and cropped to 224.",
        ),
    ] = None
    crop: Annotated[
        int | None,
        typer.Option(
            min=1, help="Of a folder of images: side in pixels of the square cut from the middle."
        ),
    ] = None
    grey: Annotated[
        bool, typer.Option("--grey", help="Of a folder of images: one channel, grey, not RGB.")
    ] = False
    count: Annotated[int | None, typer.Option(min=1, help="Evaluate on the first images only.")] = (
        None
    )

    def module(self, network: str, shapes: Shapes | None = None) -> nn.Module:
        """A shipped network, a file of the training script, an ONNX file, or a module.

        shapes: of an ONNX file's inputs; what they leave open, the images give
        """
        if network.lower().endswith(".onnx"):
            from bfpsim.workloads.graph.torch_module import onnx_module

            if self.weights is not None:
                raise UsageError(f"--weights: {network} has its own; leave it out")
            return onnx_module(network, shapes, self.images().batch(range(1)).inputs.shape[1:])
        if shapes is not None:
            raise UsageError("--shape is of .onnx files; the images fix the shapes of a module")
        if ":" in network:
            from bfpsim.workloads.importers.torch.module import make_module
            from bfpsim.workloads.state import load_into

            module = make_module(network)
            if self.weights is not None:
                load_into(module, self.weights)
            return module
        if self.weights is not None:
            raise UsageError(
                "--weights needs a module: package.module:function or file.py:function"
            )
        from bfpsim.workloads.training.shipped import load_module, shipped_module

        return load_module(network) if network.endswith(".safetensors") else shipped_module(network)

    def images(self) -> Dataset:
        """The images of --data, the first --count of them."""
        from bfpsim.quant.study.datasets import first

        images = self._read(self.data, self.labels)
        return images if self.count is None else first(images, self.count)

    def training(self, train: str, labels: str | None) -> Dataset:
        """The images of --train, prepared as those of --data."""
        return self._read(train, labels)

    def classifier(
        self, network: str, sample: int, shapes: Shapes | None = None
    ) -> Classifier | None:
        """A network's trained module with the images, of which `sample` calibrate it.

        shapes: of an ONNX file's inputs

        None for a network without trained weights; raises UsageError if options are of a module.
        """
        from bfpsim.workloads.shipped import TRAINED

        trained = network in TRAINED or network.endswith(".safetensors")
        onnx = network.lower().endswith(".onnx")
        own = ":" in network and (self.weights is not None or self.data != "shipped")
        own = own or (onnx and self.data != "shipped")
        if not (trained or own):
            looks = (self.normalise, self.resize, self.crop, self.grey)
            plain = ImageOptions()
            if (
                self.weights is not None
                or self.data != "shipped"
                or looks != (plain.normalise, plain.resize, plain.crop, plain.grey)
            ):
                raise UsageError(
                    f"--weights, --data and how images look: {network} has no module to run; "
                    "allowed: a shipped trained network, a .safetensors file, "
                    "an .onnx file, package.module:function or file.py:function"
                )
            return None
        from bfpsim.search.experiments.classifier import make_classifier

        module = self.module(network, shapes if onnx else None)
        return make_classifier(module, self.images(), name=network, sample=sample)

    def _read(self, data: str, labels: str | None) -> Dataset:
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
                f"{data}: no such file or folder; allowed: shipped, a folder, an .npz file, or an "
                "IDX file with one of labels"
            )
        normalisation = _normalisation(self.normalise)
        if not folder and (self.resize is not None or self.crop is not None or self.grey):
            raise UsageError(
                f"--resize, --crop, --grey: {data} is no folder; allowed: with a folder"
            )
        if data == "shipped":
            if normalisation != datasets.FASHION_MNIST:
                parts = (normalisation.mean, normalisation.std)
                given = "/".join(",".join(f"{x:g}" for x in part) for part in parts)
                raise UsageError(
                    f"--normalise {given} of the shipped images; allowed: fashion-mnist"
                )
            return datasets.shipped_test_images()
        if folder:
            fit = Fit() if self.resize is self.crop is None else Fit(self.resize, self.crop)
            return read_image_folder(path, normalisation, fit, 1 if self.grey else 3)
        if path.suffix == ".npz":
            return datasets.read_npz_dataset(path, normalisation)
        if labels is None:
            raise UsageError(
                f"{data} needs labels; allowed: an IDX file of them, or a folder or .npz"
            )
        return datasets.read_idx_dataset(data, labels, normalisation)


def check_training(steps: int | None, train: str | None) -> None:
    """Raise UsageError unless --qat and --train come together."""
    if (steps is None) != (train is None):
        raise UsageError("--qat and --train need each other")


def _normalisation(text: str) -> Normalisation:
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
