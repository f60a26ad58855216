"""The search against other ways to choose: ``python -m benchmarks.search --help``.

One network at its final simulated prices, Eq. 1 with energy. Every rival may evaluate as many whole
configurations: random choices, and greedy descent (the best single change, again and again, from
random choices). The best format for all tensors stands beside them.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

import bfpsim as bs
from bfpsim.quant.formats import candidates
from bfpsim.quant.study.sensitivity import Sensitivity
from bfpsim.search.bitwidth.allocation import allocate
from bfpsim.search.bitwidth.costs import Costs
from bfpsim.search.bitwidth.problem import Problem, make_losses, no_losses
from bfpsim.search.bitwidth.refinement import Simulations, refine
from bfpsim.search.bitwidth.search import search_formats
from bfpsim.search.bitwidth.space import Space, make_space
from bfpsim.search.bitwidth.target import Tradeoff
from bfpsim.search.crew import workers
from bfpsim.search.store import Stages

ALPHA = 0.2
NAT = 0.75
"""Top-1 per nat: the slope for ResNet-18 in docs/quantization.md."""


def main() -> None:
    """Search, then let the others search."""
    parser = argparse.ArgumentParser(prog="benchmarks.search", description=__doc__)
    parser.add_argument("--network", default="resnet18-fashion")
    parser.add_argument("--bits", type=int, default=8)
    parser.add_argument("--sensitivity", type=Path, help="table of `bfpsim quantize`; none: energy")
    parser.add_argument("--evaluations", type=int, default=20_000, help="of each rival")
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    space = make_space(bs.load_workload(options.network), candidates(options.bits))
    losses = no_losses(space)
    if options.sensitivity is not None:
        losses = make_losses(space, Sensitivity.load(options.sensitivity), NAT)
    arch = bs.load_arch("ideal-64k")
    start = time.perf_counter()

    def said(what: str) -> None:
        print(f"  {time.perf_counter() - start:5.1f} s: {what}", flush=True)

    with workers(options.workers) as run:
        found = search_formats(space, arch, losses, Tradeoff(ALPHA), "energy", run, Stages(), said)
        print(f"{options.network}, {options.bits} bits, {options.workers} workers: "
              f"{time.perf_counter() - start:.0f} s, {found.rounds} rounds, "
              f"{found.simulations} simulations")  # fmt: skip
        best, choices = found.by("simulated"), (*found.proposals, *found.front)
        pools = [[] for _ in space.kinds]
        for own in choices:
            for product in space.products:
                pools[product.kind].append(own.choice.mappings[product.name])
        refined = refine(
            space, arch, "energy", losses, pools,
            lambda problem: allocate(problem, ALPHA, best.dm_max),
            Simulations(space, arch, "energy"), run,
        )  # fmt: skip
    print(found.comparison().to_string(index=False))
    rival = _Rivals(refined.problem, best.dm_max, options.evaluations)
    uniform = min(_uniform(space, refined.costs, losses, f, best.dm_max)
                  for f in range(len(space.formats)))  # fmt: skip
    rows = [("search", best.value), ("one format for all", uniform),
            ("random", rival.random()), ("greedy", rival.greedy())]  # fmt: skip
    for name, value in rows:
        print(f"{name:20s} {value:.9f}  {100 * (value / best.value - 1):+.4f} %")
    print(f"floor over all formats and mappings: {found.floor:.6f}")


def _uniform(
    space: Space, costs: Sequence[Costs], losses: np.ndarray, fmt: int, scale: float
) -> float:
    """One format for all tensors; infinite if no mapping of the pool is legal then."""
    try:
        cost = sum(costs[p.kind].best(fmt, fmt, fmt)[0] * p.repeats for p in space.products)
    except bs.MappingError:
        return float("inf")
    return float(losses[:, fmt].sum()) + ALPHA * cost / scale


class _Rivals:
    """Other searches of the same problem, with so many evaluations each."""

    def __init__(self, problem: Problem, scale: float, evaluations: int) -> None:
        self._problem, self._scale, self._evaluations = problem, scale, evaluations
        self._rng = np.random.default_rng(0)
        self._sizes = [len(own) for own in problem.candidates]

    def _value(self, choice: list[int]) -> float:
        return self._problem.loss(choice) + ALPHA * self._problem.cost(choice) / self._scale

    def random(self) -> float:
        """The best of random choices."""
        return min(self._value(self._draw()) for _ in range(self._evaluations))

    def greedy(self) -> float:
        """The best local optimum."""
        best, used = float("inf"), 0
        while used < self._evaluations:
            choice = self._draw()
            value = self._value(choice)
            while used < self._evaluations:
                moves = []
                for tensor, size in enumerate(self._sizes):
                    for pick in range(size):
                        if pick != choice[tensor]:
                            moved = [*choice[:tensor], pick, *choice[tensor + 1 :]]
                            moves.append((self._value(moved), moved))
                used += len(moves)
                least, moved = min(moves)
                if least >= value:
                    break
                value, choice = least, moved
            best = min(best, value)
        return best

    def _draw(self) -> list[int]:
        return [int(self._rng.integers(size)) for size in self._sizes]


if __name__ == "__main__":
    main()
