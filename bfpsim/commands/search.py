"""The `search` command: BitQ's search for formats and mappings, with simulated costs."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from bfpsim.commands.arguments import (
    ArchName,
    Csv,
    Json,
    NetworkName,
    Out,
    ShapeOption,
    UsageError,
    one_of,
)
from bfpsim.commands.emit import Report, emit
from bfpsim.commands.progress import progress_bar
from bfpsim.commands.searching import (
    Trained,
    find_losses,
    run_search,
    searched_network,
    stages_in,
    trained_model,
    training_images,
    tuned,
)
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
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    import pandas as pd

    from bfpsim.quant.study.datasets import Dataset
    from bfpsim.search.bitwidth.search import Proposal, SearchResult
    from bfpsim.search.bitwidth.target import Target
    from bfpsim.search.store import Stages
    from bfpsim.workloads import Network

_MISSED = "measured_loss_above_budget_by_points"
"""In the summary of a search whose every finalist loses more than allowed."""


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
    resize: Resize = None,
    crop: Crop = None,
    grey: Grey = False,
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
    how = Preparation(normalise, resize, crop, grey)
    training = training_images(qat, train, train_labels, how)
    target = _target(alpha, most_loss, most_cost)
    from bfpsim.arch import load_arch
    from bfpsim.quant.formats import candidates
    from bfpsim.search.bitwidth.space import make_space

    spec = load_arch(arch)
    trained = trained_model(network, weights, data, labels, how, count, sensitivity_images)
    if trained is None and qat is not None:
        raise UsageError(
            f"--qat: {network} has no weights to train here; allowed: a shipped trained network, a "
            ".safetensors file, or a module with --data"
        )
    net = searched_network(network, shape, trained)
    space = make_space(net, candidates(bits), tied=not free)
    with stages_in(store) as stages:
        losses, about = find_losses(space, trained, sensitivity, nat, stages)
        found = run_search(space, spec, losses, target, perf, workers, stages, between)
        report = _report(
            network, net, found, cost, trained, about, stages, qat, training, seed, store
        )
    emit(report, as_json, as_csv, out)
    if _MISSED in report.summary:
        raise typer.Exit(1)


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


def _report(
    name: str,
    net: Network,
    searched: SearchResult,
    cost: Any,
    trained: Trained | None,
    about: Mapping[str, Any],
    stages: Stages,
    steps: int | None,
    training: Dataset | None,
    seed: int,
    store: Path | None,
) -> Report:
    import pandas as pd
    from rich.console import Group

    from bfpsim.reports import search as show
    from bfpsim.search.bitwidth.target import LossBudget

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
        "gap": searched.gap(chosen),
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
            label = f"{finalists['choice'].iloc[0]} +QAT"
            again = tuned(
                label, chosen, searched, trained, training, steps, seed=seed, checkpoints=store
            )
            finalists = pd.concat([finalists, again], ignore_index=True)
        frames["finalists"] = finalists
        if searched.objective == "energy":
            frames["accuracy"] = show.accuracy_frame(finalists)
        tables.append(show.finalists_table(finalists, searched))
        last = finalists.iloc[-1 if steps else 0]
        summary["accuracy_loss"] = float(last["accuracy_loss"])
        if isinstance(searched.target, LossBudget) and math.isinf(last["value"]):
            summary[_MISSED] = 100 * (summary["accuracy_loss"] - searched.target.most)
    shown = Group(*(part for table in tables for part in (table, "")))
    figures = {
        "front": lambda path: show.plot_front(searched, f"{name}, {searched.arch.name}", path)
    }
    notes = tuple(key for key in summary if key not in ("network", "arch", "perf", "cost"))
    return Report(shown, frames, summary, notes, figures)


def _confirmed(
    searched: SearchResult, cost: Any, trained: Trained, stages: Stages
) -> tuple[Proposal, pd.DataFrame]:
    """The finalist that is best with its measured loss, first in the table; and all of them."""
    import pandas as pd

    from bfpsim.search.bitwidth.accuracy import confirm
    from bfpsim.search.bitwidth.target import NEIGHBOURS, SHARES, LossBudget, Tradeoff

    named = {f"{own.cost} prices": own for own in searched.proposals}
    if isinstance(searched.target, Tradeoff):
        alpha = searched.target.alpha
        named |= {f"alpha {f * alpha:g}": searched.at(f * alpha) for f in NEIGHBOURS}
    if isinstance(searched.target, LossBudget):  # what is measured may be above what is predicted
        for share in SHARES:
            most = share * searched.target.most
            if cheaper := [own for own in searched.front if own.loss <= most]:
                named[f"{100 * most:g} points"] = min(cheaper, key=lambda own: own.simulated)
    deciding = (trained.digest, searched.space, named, searched.target, searched.objective)

    def measured() -> object:
        with progress_bar("evaluating finalists", len(named)) as done:
            frame = confirm(trained.model, trained.images, searched, named, done)
        return frame.to_dict(orient="records")

    frame = pd.DataFrame(stages.once("finalists", deciding, measured))
    if cost != "simulated":
        frame = frame.sort_values("choice", key=lambda c: c != f"{cost} prices", kind="stable")
    else:
        frame = frame.sort_values("value", kind="stable")
    frame = frame.reset_index(drop=True)
    return named[frame["choice"].iloc[0]], frame
