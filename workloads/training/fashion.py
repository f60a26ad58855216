"""Trains a network on Fashion-MNIST: ``python -m bfpsim.workloads.training.fashion --help``."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from bfpsim.workloads.batch_norm import fold_batch_norm
from bfpsim.workloads.checkpoint import PIXEL_MEAN, PIXEL_STD, normalise, save_images, save_state
from bfpsim.workloads.images import FashionMnist, read_fashion_mnist
from bfpsim.workloads.layer import WorkloadError
from bfpsim.workloads.training.family import FAMILIES, Recipe

DEBIAN_FOLDER = Path("/usr/share/datasets/fashion-mnist")  # of the package dataset-fashion-mnist

BATCH = 128
CROP_PADDING = 2
SHIPPED_IMAGES = 1000


def train(
    module: nn.Module,
    recipe: Recipe,
    images: NDArray[np.uint8],
    labels: NDArray[np.uint8],
    epochs: int,
) -> None:
    """Train the module on images uint8 (n, 28, 28) and labels uint8 (n,); draws torch's numbers."""
    # A third faster on a CPU. torch's own type stubs do not know this argument.
    module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimiser = recipe.optimiser(module.parameters(), recipe.peak)
    steps = len(images) // BATCH
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser,
        recipe.peak,
        total_steps=epochs * steps,
        pct_start=recipe.warm_up,
        cycle_momentum=False,
    )
    pool, targets = torch.from_numpy(images), torch.from_numpy(labels).long()
    columns = (
        TextColumn("epoch {task.fields[epoch]}, loss {task.fields[loss]:.3f}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    console = Console()
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        bar = progress.add_task("train", total=epochs * steps, epoch=1, loss=0.0)
        for epoch in range(1, epochs + 1):
            module.train()
            loss_sum = 0.0
            order = torch.randperm(len(pool))
            for step in range(steps):
                chosen = order[step * BATCH : (step + 1) * BATCH]
                logits = module(as_input(augment(pool[chosen])))
                loss = F.cross_entropy(logits, targets[chosen])
                optimiser.zero_grad()
                torch.autograd.backward(loss)
                optimiser.step()
                schedule.step()
                loss_sum += loss.item()
                progress.update(bar, advance=1, epoch=epoch, loss=loss_sum / (step + 1))
            console.print(f"epoch {epoch}: training loss {loss_sum / steps:.4f}")
    module.eval()


def augment(images: Tensor) -> Tensor:
    """Return uint8 images (n, H, W), each shifted by up to 2 pixels and flipped half of the time.

    What a shift uncovers is 0, the background.
    """
    n, height, width = images.shape
    padded = F.pad(images, (CROP_PADDING,) * 4)
    top, left = torch.randint(0, 2 * CROP_PADDING + 1, (2, n, 1))
    rows = top + torch.arange(height)
    columns = left + torch.arange(width)
    columns = torch.where(torch.rand(n, 1) < 0.5, columns.flip(1), columns)
    return padded[torch.arange(n)[:, None, None], rows[:, :, None], columns[:, None, :]]


def as_input(images: Tensor) -> Tensor:
    """Return uint8 images (n, H, W) normalised, as float32 (n, 1, H, W)."""
    return torch.from_numpy(normalise(images.numpy())).permute(0, 3, 1, 2)


def count_correct(module: nn.Module, images: NDArray[np.uint8], labels: NDArray[np.uint8]) -> int:
    """Return how many images uint8 (n, 28, 28) the module gives their label."""
    correct = 0
    with torch.no_grad():
        for start in range(0, len(images), 500):
            part = torch.from_numpy(images[start : start + 500])
            predicted = module(as_input(part)).argmax(1).numpy()
            correct += int((predicted == labels[start : start + 500]).sum())
    return correct


def max_difference(one: nn.Module, other: nn.Module, images: Tensor) -> float:
    """Return the largest absolute difference of two modules' outputs on the images."""
    with torch.no_grad():
        return float((one(images) - other(images)).abs().max())


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="bfpsim.workloads.training.fashion", description=main.__doc__
    )
    parser.add_argument("--network", choices=FAMILIES, default="resnet18")
    parser.add_argument("--width", type=int, help="of the channels (default: the shipped one)")
    parser.add_argument("--data", type=Path, default=DEBIAN_FOLDER, help="folder of IDX files")
    parser.add_argument("--out", type=Path, required=True, help="weights to write")
    parser.add_argument("--images-out", type=Path, help="first 1,000 test images to write")
    parser.add_argument("--epochs", type=int, help="(default: those of the shipped weights)")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    family = FAMILIES[options.network]
    options.width = family.width if options.width is None else options.width
    options.epochs = family.epochs if options.epochs is None else options.epochs
    if options.epochs < 1:
        parser.error(f"--epochs={options.epochs} must be at least 1")
    for path in (options.out, options.images_out):
        if path is not None and not path.parent.is_dir():
            parser.error(f"{path}: its folder does not exist")
    return options


def _measure(module: nn.Module, folded: nn.Module, data: FashionMnist) -> dict[str, str]:
    """Return what the folded network reaches on the test images, and how far folding moved it."""
    first = slice(0, SHIPPED_IMAGES)
    inputs = as_input(torch.from_numpy(data.test_images[first]))
    correct = count_correct(folded, data.test_images, data.test_labels)
    correct_first = count_correct(folded, data.test_images[first], data.test_labels[first])
    return {
        "test_images": str(len(data.test_images)),
        "test_correct": str(correct),
        "test_accuracy": f"{correct / len(data.test_images):.4f}",
        "first_1000_correct": str(correct_first),
        "first_1000_accuracy": f"{correct_first / SHIPPED_IMAGES:.4f}",
        "fold_max_logit_difference": f"{max_difference(module, folded, inputs):.3g}",
    }


def main(arguments: list[str] | None = None) -> int:
    """Train, fold, evaluate and write; return the exit code, 2 for bad input."""
    options = _options(arguments)
    torch.set_num_threads(1)  # the order of a sum, and with it the result, depends on the threads
    torch.use_deterministic_algorithms(True)
    # Nothing here reads memory before it is written; filling it would take a quarter of the time.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.manual_seed(options.seed)
    try:
        family = FAMILIES[options.network]
        module = family.build(options.width)
        data = read_fashion_mnist(options.data)
        train(module, family.recipe, data.train_images, data.train_labels, options.epochs)
        folded = fold_batch_norm(module)
        metadata = {
            "network": options.network,
            "width": str(options.width),
            "data": "Fashion-MNIST (MIT licence, Copyright 2017 Zalando SE)",
            "licence": "Apache-2.0",
            "mean": repr(PIXEL_MEAN),
            "std": repr(PIXEL_STD),
            "seed": str(options.seed),
            "epochs": str(options.epochs),
            **_measure(module, folded, data),
            "torch": torch.__version__,
        }
        state = {name: tensor.numpy() for name, tensor in folded.state_dict().items()}
        save_state(options.out, state, metadata)
        if options.images_out is not None:
            source = {
                "source": "Fashion-MNIST, the first 1,000 test images",
                "licence": "MIT, Copyright 2017 Zalando SE, see LICENSE-fashion-mnist",
            }
            first = slice(0, SHIPPED_IMAGES)
            save_images(
                options.images_out, data.test_images[first], data.test_labels[first], source
            )
    except (WorkloadError, OSError) as error:
        print(f"workloads.training.fashion: {error}", file=sys.stderr)
        return 2
    for key, value in metadata.items():
        print(f"{key}: {value}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
