"""What the commands that search share: a trained model, its network, its losses, the search."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bfpsim.commands.arguments import UsageError, shapes
from bfpsim.commands.progress import progress_bar, progress_line
from bfpsim.commands.trained import (
    Preparation,
    classifier,
    labelled_images,
    module_network,
    train_choice,
    trained_module,
)

if TYPE_CHECKING:
    import pandas as pd

    from bfpsim.arch import Arch
    from bfpsim.mapping.candidates import Objective
    from bfpsim.quant.study.datasets import Dataset
    from bfpsim.quant.study.sensitivity import Sensitivity
    from bfpsim.quant.torch.model import QuantizedModel
    from bfpsim.search.bitwidth.search import Proposal, SearchResult
    from bfpsim.search.bitwidth.space import Space
    from bfpsim.search.bitwidth.target import Target
    from bfpsim.search.store import Stages
    from bfpsim.workloads import Network


@dataclass(frozen=True)
class Trained:
    """A calibrated model, the images to judge it on, and those to measure sensitivity on.

    digest: of the weights and of the images; what is stored of one model is not taken for another
    """

    module: Any
    model: QuantizedModel
    images: Dataset
    measured: Dataset
    digest: str


def trained_model(
    network: str,
    weights: Path | None,
    data: str,
    labels: str | None,
    how: Preparation,
    count: int | None,
    sensitivity_images: int,
) -> Trained | None:
    """None for a network without trained weights."""
    from bfpsim.workloads.shipped import TRAINED

    known = network in TRAINED or network.endswith(".safetensors")
    own = ":" in network and (weights is not None or data != "shipped")
    if not (known or own):
        if weights is not None or data != "shipped" or how != Preparation():
            raise UsageError(
                f"--weights, --data and how images look: {network} has no module to run; allowed: "
                "a shipped trained network, a .safetensors file, package.module:function or "
                "file.py:function"
            )
        return None
    from bfpsim.quant.study.datasets import first

    module = trained_module(network, weights)
    images = labelled_images(data, labels, how)
    images = images if count is None else first(images, count)
    measured = first(images, min(sensitivity_images, len(images)))
    some = measured.batch(range(len(measured))).inputs
    model = classifier(network, module, some[:4], [some])
    return Trained(module, model, images, measured, _digest(model, images))


def _digest(model: QuantizedModel, images: Dataset) -> str:
    from bfpsim.quant.torch.model import tensor_digest

    def named() -> Iterator[tuple[str, Any]]:
        yield from model.state_dict().items()
        for start in range(0, len(images), 100):
            part = images.batch(range(start, min(start + 100, len(images))))
            yield from zip(("inputs", "labels"), part, strict=True)

    return tensor_digest(named())


def searched_network(network: str, shape: list[str] | None, trained: Trained | None) -> Network:
    """The network whose layers are searched: a trained module's own, or a workload."""
    if trained is not None:
        if shape:
            raise UsageError(
                "--shape: the images fix the shapes of a trained network; leave it out"
            )
        return module_network(trained.module, trained.images.batch(range(1)).inputs)
    from bfpsim.workloads import load_workload

    return load_workload(network, shapes(shape))


def find_losses(
    space: Space,
    trained: Trained | None,
    path: Path | None,
    nat: float | None,
    stages: Stages,
) -> tuple[Any, dict[str, Any]]:
    """Acc_loss by stored tensor and format, and what the report says of it.

    path: of the sensitivity table, read, or measured and written; nat: loss per nat, or measured
    """
    from bfpsim.search.bitwidth.problem import make_losses, no_losses

    if trained is None:
        if path is not None or nat is not None:
            raise UsageError(
                f"--sensitivity and --nat need a trained network; {space.network} has no weights "
                "here; allowed: a shipped trained one, a .safetensors file, or --weights"
            )
        return no_losses(space), {"accuracy": "not known: the network has no trained weights"}
    from bfpsim.search.bitwidth.accuracy import check_names, loss_per_nat

    check_names(space, trained.model)
    table = _sensitivity(space, trained, path)
    if nat is None:
        deciding = (trained.digest, table.table.to_csv(), table.images)
        with progress_bar("running mixed choices", 20) as done:
            nat = stages.once(
                "nat", deciding, lambda: loss_per_nat(trained.model, table, trained.measured, done)
            )
    about = {"sensitivity_images": table.images, "loss_per_nat": nat}
    return make_losses(space, table, nat), about


def _sensitivity(space: Space, trained: Trained, path: Path | None) -> Sensitivity:
    from bfpsim.quant.study.sensitivity import Sensitivity, measure_sensitivity

    if path is not None and path.exists():
        return Sensitivity.load(path)
    model, images = trained.model, trained.measured
    whole = images.batch(range(len(images)))
    with progress_bar(
        "swapping single tensors", -(-len(images) // 100) * len(model.operands)
    ) as at:
        table = measure_sensitivity(model, *whole, space.formats, progress=at)
    if path is not None:
        table.save(path)
    return table


@contextmanager
def stages_in(path: Path | None) -> Iterator[Stages]:
    """Finished stages in a store; without one, for as long as the command runs."""
    from bfpsim.search.store import Stages, Store

    if path is None:
        yield Stages()
        return
    with Store(path) as store:
        yield Stages(store)


def run_search(
    space: Space,
    arch: Arch,
    losses: Any,
    target: Target,
    objective: Objective,
    workers: int | None,
    stages: Stages,
    between: int = 0,
) -> SearchResult:
    """The search, on so many processes (None: one per core), with a line of progress."""
    from bfpsim.search.bitwidth.search import search_formats
    from bfpsim.search.crew import workers as processes

    with (
        processes(workers or os.cpu_count() or 1) as run,
        progress_line(f"searching {space.network} on {arch.name}") as said,
    ):
        return search_formats(space, arch, losses, target, objective, run, stages, said, between)


def training_images(
    steps: int | None, train: str | None, labels: str | None, how: Preparation
) -> Dataset | None:
    """The images of --train; raises UsageError unless they and --qat come together."""
    if (steps is None) != (train is None):
        raise UsageError("--qat and --train need each other")
    return None if train is None else labelled_images(train, labels, how)


def tuned(
    name: str,
    found: Proposal,
    searched: SearchResult,
    trained: Trained,
    training: Dataset,
    steps: int,
    *,
    seed: int = 0,
    checkpoints: Path | None = None,
) -> pd.DataFrame:
    """A choice trained from the model's weights and evaluated, as a row of `confirm`.

    checkpoints: what their names begin with; the rest tells model, formats, steps and seed apart

    Its loss is counted from the float network before training, whose weights the model has again.
    """
    from bfpsim.quant.study.accuracy import top_k
    from bfpsim.quant.torch.operand import Mode
    from bfpsim.search.bitwidth.accuracy import confirm

    model = trained.model
    original = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    with model.in_mode(Mode.FLOAT):
        best = top_k(model, trained.images, (1,))[1]
    formats = searched.formats(found)
    checkpoint = None
    if checkpoints is not None:
        run = hashlib.sha256(f"{trained.digest} {formats} {steps} {seed}".encode()).hexdigest()
        checkpoint = checkpoints.with_name(f"{checkpoints.name}-{run[:8]}.safetensors")
    try:
        train_choice(model, formats, training, steps, name, seed, checkpoint)
        row = confirm(model, trained.images, searched, {name: found})
    finally:
        model.load_state_dict(original)
    row["accuracy_loss"] = best - row["top1"]
    row["value"] = searched.target.value(
        float(row["accuracy_loss"].iloc[0]), found.simulated, searched.by("simulated").dm_max
    )
    return row
