"""The `search` command: BitQ's search for formats and mappings, with simulated costs."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from bfpsim.arguments import (
    ArchName,
    Csv,
    Json,
    NetworkName,
    Out,
    ShapeOption,
    UsageError,
    one_of,
    shapes,
)
from bfpsim.emit import Report, emit
from bfpsim.progress import progress_bar, progress_line
from bfpsim.trained import (
    Count,
    DataName,
    LabelsFile,
    NormaliseName,
    WeightsFile,
    labelled_images,
    module_network,
    parse_normalisation,
    trained_module,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    import pandas as pd

    from quant.datasets import Dataset
    from quant.model import QuantizedModel
    from quant.sensitivity import Sensitivity
    from search.bitwidth.search import Found, Searched
    from search.bitwidth.space import Space
    from search.bitwidth.stages import Stages
    from search.bitwidth.target import Target
    from workloads import Network

_NEIGHBOURS = (0.25, 0.5, 2.0, 4.0)
"""Factors of alpha whose choices are finalists too."""


def search(
    network: NetworkName,
    arch: ArchName = "edge-64k",
    bits: Annotated[
        int, typer.Option(help="16 or 8: the formats of BitQ's table 2 to choose from.")
    ] = 8,
    alpha: Annotated[
        float | None, typer.Option(help="Weight of movement in Eq. 1 (default 0.2).")
    ] = None,
    most_loss: Annotated[
        float | None, typer.Option(help="Instead: least cost for a loss of so many points.")
    ] = None,
    most_cost: Annotated[
        float | None,
        typer.Option(help="Instead: least loss for so many DRAM bits, pJ or cycles (--perf)."),
    ] = None,
    perf: Annotated[
        Literal["dram", "energy", "latency"], typer.Option(help="What movement is measured in.")
    ] = "energy",
    cost: Annotated[
        Literal["simulated", "exact", "paper"], typer.Option(help="Whose prices decide.")
    ] = "simulated",
    free: Annotated[
        bool, typer.Option("--free", help="A format for every operand, as in the paper; not tied.")
    ] = False,
    shape: ShapeOption = None,
    weights: WeightsFile = None,
    data: DataName = "shipped",
    labels: LabelsFile = None,
    normalise: NormaliseName = "fashion-mnist",
    count: Count = None,
    sensitivity: Annotated[
        Path | None,
        typer.Option(
            help="Table of `bfpsim quantize --sensitivity`; measured, and written there, if it "
            "does not exist.",
        ),
    ] = None,
    sensitivity_images: Annotated[
        int, typer.Option(min=1, help="Images of --data that the table is measured on.")
    ] = 200,
    nat: Annotated[
        float | None,
        typer.Option(help="Top-1 lost per nat of divergence (default: measured on 20 choices)."),
    ] = None,
    qat: Annotated[
        int | None, typer.Option(min=1, help="Train the choice for so many steps; needs --train.")
    ] = None,
    train: Annotated[
        str | None, typer.Option(help="Images to train on, as --data takes them.")
    ] = None,
    train_labels: Annotated[
        str | None, typer.Option(help="IDX file of labels for --train.", metavar="FILE")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the order of training images.")] = 0,
    store: Annotated[
        Path | None, typer.Option(help="File of finished stages, to go on from after a stop.")
    ] = None,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Processes (default: one per core).")
    ] = None,
    as_json: Json = False,
    as_csv: Csv = False,
    out: Out = None,
) -> None:
    """Choose a format for every stored tensor and a mapping for every layer (BitQ, Eq. 1).

    Makes Acc_loss + alpha x DM_sum / DM_max least, or one for a budget of the other. The simulator
    prices what is chosen until the choice is stable; what the exact and the paper's model would
    have chosen is simulated beside it. A trained network's choice is confirmed on real images; of
    any other network the movement alone is searched, with an Acc_loss of 0.
    """
    one_of(as_json, as_csv, out)
    if (qat is None) != (train is None):
        raise UsageError("--qat and --train need each other")
    target = _target(alpha, most_loss, most_cost)
    from arch import load_arch
    from quant.formats import candidates
    from search.bitwidth.space import make_space
    from search.bitwidth.stages import Stages
    from search.bitwidth.tasks import workers as processes
    from search.sweep.store import Store

    spec = load_arch(arch)
    formats = candidates(bits)
    trained = _trained(network, weights, data, labels, normalise, count, sensitivity_images)
    net = _network(network, shape, trained)
    space = make_space(net, formats, tied=not free)
    kept = None if store is None else Store(store)
    try:
        stages = Stages(kept)
        losses, about = _losses(space, trained, sensitivity, nat, stages)
        from search.bitwidth.search import search_formats

        with (
            processes(workers or os.cpu_count() or 1) as run,
            progress_line(f"searching {network} on {spec.name}") as said,
        ):
            found = search_formats(space, spec, losses, target, perf, run, stages, said)
        report = _report(network, net, found, cost, trained, about, stages, qat,
                         _training(train, train_labels, normalise), seed, store)  # fmt: skip
    finally:
        if kept is not None:
            kept.close()
    emit(report, as_json, as_csv, out)


@dataclass(frozen=True)
class _Trained:
    """A calibrated model, the images to judge it on, and those to measure sensitivity on."""

    module: Any
    model: QuantizedModel
    images: Dataset
    measured: Dataset


def _target(alpha: float | None, most_loss: float | None, most_cost: float | None) -> Target:
    from search.bitwidth.target import CostBudget, LossBudget, Tradeoff

    if sum(value is not None for value in (alpha, most_loss, most_cost)) > 1:
        raise UsageError("--alpha, --most-loss and --most-cost exclude each other; give one")
    for name, value in (("--alpha", alpha), ("--most-loss", most_loss), ("--most-cost", most_cost)):
        if value is not None and not 0 <= value < float("inf"):
            raise UsageError(f"{name} {value}; allowed: a number from 0")
    if most_loss is not None:
        return LossBudget(most_loss / 100)
    if most_cost is not None:
        return CostBudget(most_cost)
    return Tradeoff(0.2 if alpha is None else alpha)


def _trained(
    network: str,
    weights: Path | None,
    data: str,
    labels: str | None,
    normalise: str,
    count: int | None,
    sensitivity_images: int,
) -> _Trained | None:
    """None for a network without trained weights."""
    from workloads.shipped import TRAINED

    if weights is None and network not in TRAINED and not network.endswith(".safetensors"):
        return None
    from quant.datasets import first
    from quant.model import quantize_model

    module = trained_module(network, weights)
    images = labelled_images(data, labels, parse_normalisation(normalise))
    images = images if count is None else first(images, count)
    measured = first(images, min(sensitivity_images, len(images)))
    some = measured.batch(range(len(measured))).inputs
    return _Trained(module, quantize_model(module, some[:4], None, [some]), images, measured)


def _network(network: str, shape: list[str] | None, trained: _Trained | None) -> Network:
    if trained is not None:
        if shape:
            raise UsageError(
                "--shape: the images fix the shapes of a trained network; leave it out"
            )
        return module_network(trained.module, trained.images.batch(range(1)).inputs)
    from workloads import load_workload

    return load_workload(network, shapes(shape))


def _losses(
    space: Space,
    trained: _Trained | None,
    path: Path | None,
    nat: float | None,
    stages: Stages,
) -> tuple[Any, dict[str, Any]]:
    from search.bitwidth.losses import make_losses, no_losses

    if trained is None:
        if path is not None or nat is not None:
            raise UsageError(
                f"--sensitivity and --nat need a trained network; {space.network} has no weights "
                "here; allowed: a shipped trained one, a .safetensors file, or --weights"
            )
        return no_losses(space), {"accuracy": "not known: the network has no trained weights"}
    from search.bitwidth.accuracy import check_names, loss_per_nat

    check_names(space, trained.model)
    table = _sensitivity(space, trained, path)
    if nat is None:
        deciding = (space.network, table.table.to_csv(), table.images)
        with progress_bar("running mixed choices", 20) as done:
            nat = stages.kept(
                "nat", deciding, lambda: loss_per_nat(trained.model, table, trained.measured, done)
            )
    about = {"sensitivity_images": table.images, "loss_per_nat": nat}
    return make_losses(space, table, nat), about


def _sensitivity(space: Space, trained: _Trained, path: Path | None) -> Sensitivity:
    from quant.sensitivity import Sensitivity, measure_sensitivity

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


def _training(train: str | None, labels: str | None, normalise: str) -> Dataset | None:
    return None if train is None else labelled_images(train, labels, parse_normalisation(normalise))


def _report(
    name: str,
    net: Network,
    searched: Searched,
    cost: Any,
    trained: _Trained | None,
    about: Mapping[str, Any],
    stages: Stages,
    steps: int | None,
    training: Dataset | None,
    seed: int,
    store: Path | None,
) -> Report:
    from rich.console import Group

    from reports import search as show

    chosen, finalists = searched.by(cost), None
    if trained is not None:
        chosen, finalists = _confirmed(searched, cost, trained, stages)
    result = show.simulate_choice(searched, net, chosen)
    best = searched.by("simulated")
    summary: dict[str, Any] = {
        "network": name,
        "arch": searched.arch.name,
        "objective": str(searched.target),
        "perf": searched.objective,
        "cost": cost,
        "formats": len(searched.space.formats),
        **about,
        "dm_max": best.dm_max,
        "value": searched.value(chosen),
        "gap": chosen.gap,
        "floor": searched.floor,
        "rounds": searched.rounds,
        "simulations": searched.simulations,
        "predicted_loss": chosen.loss,
        "dram_bits": sum(int(one.counts.total("DRAM")) for one in result.layers),
        "energy_pj": result.energy_pj,
        "cycles": result.cycles,
    }
    rows = {row["cost"]: row for row in searched.comparison().to_dict(orient="records")}
    for model in ("exact", "paper"):
        summary[f"{model}_model_costs_more"] = f"{100 * rows[model]['excess']:.2f} %"
    frame = show.choice_frame(result, searched, chosen)
    frames: dict[str, pd.DataFrame] = {
        "layers": frame, "comparison": searched.comparison(), "front": show.front_frame(searched)
    }  # fmt: skip
    tables = [show.choice_table(frame, f"{name} on {searched.arch.name}"),
              show.comparison_table(searched)]  # fmt: skip
    if finalists is not None:
        if steps is not None and training is not None and trained is not None:
            finalists = _tuned(
                name, searched, chosen, trained, finalists, steps, training, seed, store
            )
        frames["finalists"] = finalists
        tables.append(show.finalists_table(finalists, searched))
        summary["accuracy_loss"] = float(finalists["accuracy_loss"].iloc[-1 if steps else 0])
    shown = Group(*(part for table in tables for part in (table, "")))
    figures = {
        "front": lambda path: show.plot_front(searched, f"{name}, {searched.arch.name}", path)
    }
    notes = tuple(key for key in summary if key not in ("network", "arch", "perf", "cost"))
    return Report(shown, frames, summary, notes, figures)


def _confirmed(
    searched: Searched, cost: Any, trained: _Trained, stages: Stages
) -> tuple[Found, pd.DataFrame]:
    """The finalist that is best with its measured loss, first in the table; and all of them."""
    import pandas as pd

    from search.bitwidth.accuracy import confirm
    from search.bitwidth.target import Tradeoff

    named = {f"{own.cost} prices": own for own in searched.found}
    if isinstance(searched.target, Tradeoff):
        alpha = searched.target.alpha
        named |= {f"alpha {f * alpha:g}": searched.at(f * alpha) for f in _NEIGHBOURS}
    choices = tuple(own.choice.formats for own in named.values())
    deciding = (searched.space, choices, searched.target, searched.objective, len(trained.images))

    def measured() -> object:
        with progress_bar("evaluating finalists", len(named)) as done:
            frame = confirm(trained.model, trained.images, searched, named, done)
        return frame.to_dict(orient="records")

    frame = pd.DataFrame(stages.kept("finalists", deciding, measured))
    if cost != "simulated":
        frame = frame.sort_values("choice", key=lambda c: c != f"{cost} prices", kind="stable")
    else:
        frame = frame.sort_values("value", kind="stable")
    frame = frame.reset_index(drop=True)
    return named[frame["choice"].iloc[0]], frame


def _tuned(
    name: str,
    searched: Searched,
    chosen: Found,
    trained: _Trained,
    finalists: pd.DataFrame,
    steps: int,
    training: Dataset,
    seed: int,
    store: Path | None,
) -> pd.DataFrame:
    """The finalists, and behind them the choice after training."""
    import pandas as pd

    from quant.fine_tuning import fine_tune
    from search.bitwidth.accuracy import confirm

    model, before = (
        trained.model,
        float(finalists["top1"].iloc[0] + finalists["accuracy_loss"].iloc[0]),
    )
    checkpoint = None if store is None else store.with_suffix(".checkpoint.safetensors")
    model.choose(searched.formats(chosen), tied=False)
    with progress_bar(f"training {name}", steps) as done:
        fine_tune(model, training, steps, seed=seed, checkpoint=checkpoint, progress=done,
                  name=f"{name} {model.described()}")  # fmt: skip
    label = f"{finalists['choice'].iloc[0]} +QAT"
    again = confirm(model, trained.images, searched, {label: chosen})
    again["accuracy_loss"] = before - again["top1"]
    scale = searched.by("simulated").dm_max
    again["value"] = [
        searched.target.value(float(loss), chosen.simulated, scale)
        for loss in again["accuracy_loss"]
    ]
    return pd.concat([finalists, again], ignore_index=True)
