"""The search in one call: a network, an architecture, what is to be least."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from bfpsim.arch import Arch
from bfpsim.mapping.candidates import Objective
from bfpsim.quant.formats import candidates
from bfpsim.search.bitwidth.losses import make_losses, no_losses
from bfpsim.search.bitwidth.search import Searched, search_formats
from bfpsim.search.bitwidth.space import make_space
from bfpsim.search.bitwidth.stages import Stages
from bfpsim.search.bitwidth.target import Target, Tradeoff
from bfpsim.search.bitwidth.tasks import workers as processes
from bfpsim.search.store import Store
from bfpsim.workloads import Network

if TYPE_CHECKING:
    from bfpsim.quant.study.sensitivity import Sensitivity


def search_network(
    network: Network,
    arch: Arch,
    *,
    bits: int = 8,
    target: Target | None = None,
    objective: Objective = "energy",
    sensitivity: Sensitivity | None = None,
    loss_per_nat: float = 1.0,
    tied: bool = True,
    workers: int = 1,
    store: str | Path | None = None,
    progress: Callable[[str], None] | None = None,
    between: int = 0,
) -> Searched:
    """Choose a format of BitQ's Table 2 for every stored tensor, and a mapping for every layer.

    bits: 16 or 8
    target: `Tradeoff(alpha)` (Eq. 1, the default with 0.2), `LossBudget` or `CostBudget`
    objective: what movement is measured in: "dram" bits, "energy" [pJ] or "latency" [cycles]
    sensitivity: what formats cost in accuracy (`measure_sensitivity`); without it movement alone
        is searched
    loss_per_nat: top-1 lost per nat of the table's divergences
    tied: a stored tensor has one format, for whoever reads or writes it
    store: file of finished stages, to go on from after a stop
    between: choices of the front to look for where no alpha leads, each a budget's proof

    Raises FormatError for other bits or a table that lacks a tensor or format, MappingError if a
    layer fits in no format, InfeasibleError for a budget that nothing meets, StoreError.
    """
    space = make_space(network, candidates(bits), tied=tied)
    losses = no_losses(space)
    if sensitivity is not None:
        losses = make_losses(space, sensitivity, loss_per_nat)
    kept = None if store is None else Store(store)
    try:
        with processes(workers) as run:
            return search_formats(
                space,
                arch,
                losses,
                target or Tradeoff(),
                objective,
                run,
                Stages(kept),
                progress,
                between,
            )
    finally:
        if kept is not None:
            kept.close()
