"""The search's answer for a network: formats and mappings, of a classifier on real images."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from bfpsim.arch import ArchSource, load_arch
from bfpsim.mapping.objective import Objective
from bfpsim.objects import brief
from bfpsim.quant.formats import Format, candidates
from bfpsim.search.bitwidth.problem import Losses, no_losses
from bfpsim.search.bitwidth.search import Cost, Proposal, SearchResult, search_formats
from bfpsim.search.bitwidth.space import make_space
from bfpsim.search.bitwidth.target import NEIGHBOURS, SHARES, LossBudget, Target, Tradeoff
from bfpsim.search.crew import workers as processes
from bfpsim.search.phases import Phases, silent
from bfpsim.search.store import Stages, open_stages
from bfpsim.sim.result import NetworkResult
from bfpsim.sim.simulate import simulate_layers
from bfpsim.workloads import Network, WorkloadError, load_workload

if TYPE_CHECKING:
    import pandas as pd

    from bfpsim.quant.study.datasets import Dataset
    from bfpsim.search.experiments.classifier import Classifier

STEPS = 1000
"""Steps of training, the paper's."""


@brief
@dataclass(frozen=True, eq=False)
class Answer:
    """The formats and mappings that a search answers with.

    name: what tables call the network
    search: what each kind of price leads to, and the front
    cost: whose prices decide
    choice: the answer; simulation: the network in it
    losses: what formats lose, and how that is known
    finalists: of a classifier, the choices confirmed on real images (`confirm_choices`), the
        answer first; last, if it was trained for `steps`, the answer trained
    """

    name: str
    search: SearchResult
    cost: Cost
    choice: Proposal
    simulation: NetworkResult
    losses: Losses
    finalists: pd.DataFrame | None = None
    steps: int | None = None

    @property
    def accuracy_loss(self) -> float | None:
        """Top-1 that the answer loses on real images, trained if it was; None if not known."""
        if self.finalists is None:
            return None
        return float(self._last("accuracy_loss"))

    @property
    def points_above_budget(self) -> float | None:
        """The points by which every finalist is above a budget of loss; None if one is not.

        Of the answer, trained if it was.
        """
        target = self.search.target
        if self.accuracy_loss is None or not isinstance(target, LossBudget):
            return None
        missed = math.isinf(self._last("value"))
        return 100 * (self.accuracy_loss - target.most) if missed else None

    def _last(self, column: str) -> float:
        assert self.finalists is not None
        return float(self.finalists[column].iloc[0 if self.steps is None else -1])


def choose_formats(
    source: Network | str | Path | Classifier,
    arch: ArchSource,
    *,
    bits: int = 8,
    also: Sequence[Format] = (),
    target: Target | None = None,
    objective: Objective = "energy",
    cost: Cost = "simulated",
    tied: bool = True,
    table: str | Path | None = None,
    loss_per_nat: float | None = None,
    training: Dataset | None = None,
    steps: int = STEPS,
    seed: int = 0,
    between: int = 0,
    store: str | Path | None = None,
    workers: int = 1,
    progress: Phases = silent,
) -> Answer:
    """Choose a format for every stored tensor and a mapping for every layer (BitQ, Eq. 1).

    The simulator prices what is chosen until the choice is stable. A classifier's finalists are
    evaluated on its images, and the best of them by its measured loss is the answer; of a network
    alone the movement is searched, with an Acc_loss of 0.

    bits, also, target, objective, tied, between: as in `search_network`
    cost: whose prices decide: "simulated", or those of the "exact" or the "paper" model
    table: file of a sensitivity table, measured and written if it does not exist
    loss_per_nat: top-1 lost per nat of divergence; None: measured on 20 random mixed choices
    training: images on which the answer is trained for `steps`, in the order of `seed`
    store: file of finished stages, to go on from after a stop; checkpoints stand beside it
    workers: processes

    Raises as `search_network`, `measure_losses` and `fine_tune`; WorkloadError for what needs a
    classifier and got a network.
    """
    arch = load_arch(arch)
    source = load_workload(source) if isinstance(source, str | Path) else source
    if isinstance(source, Network):
        network, classifier = source, None
        if table is not None or loss_per_nat is not None or training is not None:
            raise WorkloadError(
                f"{network.name} is no classifier; allowed: no sensitivity table, loss per nat or "
                "training"
            )
    else:
        network, classifier = source.network, source
    space = make_space(network, tuple(dict.fromkeys((*candidates(bits), *also))), tied=tied)
    aim = target or Tradeoff()
    with open_stages(store) as stages:
        losses = Losses(no_losses(space))
        if classifier is not None:
            from bfpsim.search.experiments.accuracy import measure_losses, train_choice

            losses = measure_losses(
                space, classifier, table=table, per_nat=loss_per_nat, stages=stages,
                progress=progress,
            )  # fmt: skip
        with (
            processes(workers) as run,
            progress(f"searching {network.name} on {arch.name}", None) as step,
        ):
            result = search_formats(
                space, arch, losses.matrix, aim, objective, run, stages, step, between
            )
        choice, finalists = result.by(cost), None
        if classifier is not None:
            choice, finalists = _confirm(result, cost, classifier, stages, progress)
        simulation = simulate_layers(
            network, arch, result.formats(choice), dict(choice.choice.mappings)
        )
        if classifier is not None and finalists is not None and training is not None:
            import pandas as pd

            label = f"{finalists['choice'].iloc[0]} +QAT"
            row = train_choice(
                label, choice, result, classifier, training, steps, seed=seed, checkpoints=store,
                progress=progress,
            )  # fmt: skip
            finalists = pd.concat([finalists, row], ignore_index=True)
    name = network.name if classifier is None else classifier.name
    trained = None if training is None else steps
    return Answer(name, result, cost, choice, simulation, losses, finalists, trained)


def _confirm(
    search: SearchResult, cost: Cost, classifier: Classifier, stages: Stages, progress: Phases
) -> tuple[Proposal, pd.DataFrame]:
    """The finalist that is best with its measured loss, first in the table; and all of them."""
    import pandas as pd

    from bfpsim.search.experiments.accuracy import confirm_choices

    finalists = _finalists(search)
    deciding = (classifier.digest, search.space, finalists, search.target, search.objective)

    def confirm() -> object:
        with progress("evaluating finalists", len(finalists)) as step:
            frame = confirm_choices(classifier, search, finalists, step)
        return frame.to_dict(orient="records")

    frame = pd.DataFrame(stages.once("finalists", deciding, confirm))
    if cost != "simulated":
        frame = frame.sort_values("choice", key=lambda c: c != f"{cost} prices", kind="stable")
    else:
        frame = frame.sort_values("value", kind="stable")
    frame = frame.reset_index(drop=True)
    return finalists[frame["choice"].iloc[0]], frame


def _finalists(search: SearchResult) -> dict[str, Proposal]:
    """The choices that real images may find better than predicted losses do, by name."""
    finalists = {f"{own.cost} prices": own for own in search.proposals}
    if isinstance(search.target, Tradeoff):
        alpha = search.target.alpha
        finalists |= {f"alpha {f * alpha:g}": search.at(f * alpha) for f in NEIGHBOURS}
    if isinstance(search.target, LossBudget):  # what is measured may be above what is predicted
        for share in SHARES:
            most = share * search.target.most
            if cheaper := [own for own in search.front if own.loss <= most]:
                finalists[f"{100 * most:g} points"] = min(cheaper, key=lambda own: own.simulated)
    return finalists
