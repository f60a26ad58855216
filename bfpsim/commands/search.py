"""The `search` command: BitQ's search for formats and mappings, with simulated costs."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from bfpsim.commands.arguments import (
    ArchName,
    NetworkName,
    ShapeOption,
    UsageError,
    ValueOption,
    check_place,
    check_writable,
    shapes,
    with_groups,
)
from bfpsim.commands.emit import Output, kept
from bfpsim.commands.images import ImageOptions, TrainData, TrainLabels, check_training
from bfpsim.commands.progress import progress

if TYPE_CHECKING:
    from bfpsim.search.bitwidth.target import Target
    from bfpsim.workloads import Network


@with_groups
def search(
    network: NetworkName,
    *,
    arch: ArchName = "ideal-64k",
    bits: Annotated[
        int, typer.Option(help="16 or 8: the formats of BitQ's table 2 to choose from.")
    ] = 8,
    also: Annotated[
        list[str] | None,
        typer.Option(
            help="A format to choose from beside those, as mxfp4; may be given several times."
        ),
    ] = None,
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
    value: ValueOption = None,
    images: ImageOptions,
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
    train: TrainData = None,
    train_labels: TrainLabels = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the order of training images.")] = 0,
    between: Annotated[
        int,
        typer.Option(min=0, help="Choices of the front where no alpha leads; minutes for each."),
    ] = 0,
    store: Annotated[
        Path | None, typer.Option(help="File of finished stages, to go on from after a stop.")
    ] = None,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Processes (default: one per core).")
    ] = None,
    output: Output,
) -> None:
    """Choose a format for every stored tensor and a mapping for every layer (BitQ, Eq. 1).

    Makes Acc_loss + alpha x DM_sum / DM_max least, or one for a budget of the other. The simulator
    prices what is chosen until the choice is stable; what the exact and the paper's model would
    have chosen is simulated beside it. A trained network's choice is confirmed on real images; of
    any other network the movement alone is searched, with an Acc_loss of 0.
    """
    output.check()
    if store is not None:
        check_place(f"--store {store}", store.parent)
    if sensitivity is not None and not sensitivity.exists():
        check_writable("--sensitivity", sensitivity)
    check_training(qat, train)
    training = None if train is None else images.training(train, train_labels)
    target = _target(alpha, most_loss, most_cost)
    from bfpsim.arch import load_arch
    from bfpsim.quant.formats import parse_format
    from bfpsim.reports.search import search_report
    from bfpsim.search.experiments.answer import choose_formats

    spec = load_arch(arch)
    onnx = network.lower().endswith(".onnx")
    given = shapes(shape, value)
    classifier = images.classifier(network, sensitivity_images, given if onnx else None)
    if classifier is None and qat is not None:
        raise UsageError(
            f"--qat: {network} has no weights to train here; allowed: a shipped trained network, a "
            ".safetensors file, or a module with --data"
        )
    if classifier is not None and shape and not onnx:
        raise UsageError("--shape: the images fix the shapes of a trained network; leave it out")
    with kept(_kept(store)):
        answer = choose_formats(
            classifier or _workload(network, shape, value, sensitivity, nat),
            spec,
            bits=bits,
            also=[parse_format(name) for name in also or ()],
            target=target,
            objective=perf,
            cost=cost,
            tied=not free,
            table=sensitivity,
            loss_per_nat=nat,
            training=training,
            steps=qat or 0,
            seed=seed,
            between=between,
            store=store,
            workers=workers or os.cpu_count() or 1,
            progress=progress,
        )
    output.emit(search_report(replace(answer, name=network)))
    if answer.points_above_budget is not None:
        raise typer.Exit(1)


def _kept(store: Path | None) -> str:
    """What an interruption leaves."""
    if store is None:
        return "no stage was kept; with --store FILE the same command goes on from what is finished"
    return f"finished stages are in {store}; the same command goes on from there"


def _workload(
    network: str,
    shape: list[str] | None,
    value: list[str] | None,
    sensitivity: Path | None,
    nat: float | None,
) -> Network:
    """A network without trained weights; raises UsageError for options that need some."""
    from bfpsim.workloads import load_workload

    workload = load_workload(network, shapes(shape, value))
    if sensitivity is not None or nat is not None:
        raise UsageError(
            f"--sensitivity and --nat need a trained network; {workload.name} has no weights "
            "here; allowed: a shipped trained one, a .safetensors file, or --weights"
        )
    return workload


def _target(alpha: float | None, most_loss: float | None, most_cost: float | None) -> Target:
    from bfpsim.search.bitwidth.target import CostBudget, LossBudget, Tradeoff

    if sum(value is not None for value in (alpha, most_loss, most_cost)) > 1:
        raise UsageError("--alpha, --most-loss and --most-cost exclude each other; give one")
    for name, value in (("--alpha", alpha), ("--most-loss", most_loss), ("--most-cost", most_cost)):
        if value is not None and not 0 <= value < float("inf"):
            raise UsageError(f"{name} {value}; allowed: a number from 0")
    if most_loss is not None:
        return LossBudget(most_loss / 100)
    if most_cost is not None:
        return CostBudget(most_cost)
    return Tradeoff() if alpha is None else Tradeoff(alpha)
