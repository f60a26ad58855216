"""The allocation problem: candidates of each stored tensor, what they lose, what layers cost."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from bfpsim.mapping.closed.leaves import Values
from bfpsim.mapping.nest import MappingError
from bfpsim.quant.formats import TENSORS, FormatError
from bfpsim.search.bitwidth.costs import Costs
from bfpsim.search.bitwidth.space import Space, Triple

if TYPE_CHECKING:
    from bfpsim.quant.study.sensitivity import Sensitivity


@dataclass(frozen=True, eq=False)
class Losses:
    """The losses of formats, and how they are known.

    matrix: Acc_loss by stored tensor and format, (tensors, formats), a share of the images
    images: how many the sensitivity was measured on; None if nothing is known: losses of 0
    per_nat: top-1 lost per nat of divergence; None likewise
    below_one_image: whether no choice that was run lost anything, and per_nat is what one image
        lost in each would make
    """

    matrix: Values
    images: int | None = None
    per_nat: float | None = None
    below_one_image: bool = False


def no_losses(space: Space) -> Values:
    """Acc_loss of 0 for everything: the search for the least movement alone."""
    return np.zeros((len(space.tensors), len(space.formats)))


def make_losses(space: Space, sensitivity: Sensitivity, loss_per_nat: float) -> Values:
    """Acc_loss by stored tensor and format: (tensors, formats), a fraction of the images.

    A tensor's divergence is the sum over the operands that it is. Divergences add up over a
    network, and single losses of images do not (docs/quantization.md), so they are what is added.
    loss_per_nat: the top-1 that a network loses per nat of predicted divergence

    Raises FormatError if the table lacks an operand or a format of the space, or loss_per_nat is
    no number above 0.
    """
    check_per_nat(loss_per_nat)
    rows = sensitivity.table
    known = dict(
        zip(
            zip(rows["layer"], rows["tensor"], rows["format"], strict=True),
            rows["kl"],
            strict=True,
        )
    )
    losses = no_losses(space)
    for number, places in enumerate(space.tensors):
        for column, fmt in enumerate(space.formats):
            for layer, tensor in places:
                if (layer, tensor, str(fmt)) not in known:
                    raise FormatError(
                        f"sensitivity table of {sensitivity.network}: has no row for {tensor} of "
                        f"{layer!r} in {fmt}; allowed: a table of {space.network} in all "
                        f"{len(space.formats)} formats"
                    )
                losses[number, column] += known[layer, tensor, str(fmt)] * loss_per_nat
    return losses


def check_per_nat(loss_per_nat: float) -> None:
    """Raise FormatError for a loss per nat that is no finite number above 0."""
    if not 0 < loss_per_nat < math.inf:
        raise FormatError(f"loss_per_nat={loss_per_nat!r}; allowed: a number above 0")


@dataclass(frozen=True, eq=False)
class LayerCosts:
    """A layer, and what it costs in each combination of its tensors' candidates.

    tensors: the stored tensors that I, W and O are
    costs: (candidates of I, of W, of O), all runs together; infinite where no mapping is legal
    """

    name: str
    tensors: tuple[int, int, int]
    costs: Values


@dataclass(frozen=True, eq=False)
class Problem:
    """Minimise over one candidate per stored tensor; a choice is a place in each's candidates.

    candidates: by stored tensor, places in `Space.formats`
    losses: by stored tensor, Acc_loss of each candidate
    """

    candidates: tuple[tuple[int, ...], ...]
    losses: tuple[Values, ...]
    layers: tuple[LayerCosts, ...]

    def loss(self, choice: Sequence[int]) -> float:
        """Acc_loss of a choice."""
        return float(sum(own[at] for own, at in zip(self.losses, choice, strict=True)))

    def cost(self, choice: Sequence[int]) -> float:
        """DM_sum of a choice, or what else its costs are."""
        return float(
            sum(t.costs[tuple(choice[tensor] for tensor in t.tensors)] for t in self.layers)
        )

    def formats(self, choice: Sequence[int]) -> tuple[int, ...]:
        """The places in `Space.formats` of a choice."""
        return tuple(own[at] for own, at in zip(self.candidates, choice, strict=True))


def make_problem(
    space: Space,
    costs: Sequence[Costs],
    losses: Values,
    measured: Mapping[tuple[int, Triple], float] | None = None,
    guess: Callable[[Iterable[float]], float] = max,
) -> Problem:
    """The problem without dominated candidates: nothing is lost by leaving them out.

    costs: by kind of layer
    losses: (stored tensors, formats)
    measured: what replaces the cost of a kind of layer in three formats
    guess: of the factors by which measured costs are above those that they replace, what the kind's
        other costs grow by: `min` makes what was not measured look cheap, `max` dear

    A format of a tensor is dominated if another one loses no more accuracy and, in every layer
    that reads or writes the tensor, costs no more and takes no more room under every mapping: in
    any choice it can be replaced by the other. Raises MappingError if a layer has no legal mapping.
    """
    candidates = tuple(
        _candidates(tensor, space, costs, losses[tensor]) for tensor in range(len(space.tensors))
    )
    known: dict[object, Values] = {}
    layers = []
    for product in space.products:
        picks = tuple(candidates[tensor] for tensor in product.tensors)
        key = (product.kind, picks)
        if key not in known:
            known[key] = costs[product.kind].prices(*picks)
            _correct(known[key], product.kind, picks, measured or {}, guess)
            if not np.isfinite(known[key]).any():
                raise MappingError(
                    f"{product.name}: no mapping fits {costs[product.kind].arch.name} in any of "
                    f"the formats {space.formats[0]} ... {space.formats[-1]}"
                )
        layers.append(LayerCosts(product.name, product.tensors, known[key] * product.repeats))
    return Problem(
        candidates,
        tuple(losses[tensor][list(own)] for tensor, own in enumerate(candidates)),
        tuple(layers),
    )


def _correct(
    prices: Values,
    kind: int,
    picks: Sequence[tuple[int, ...]],
    measured: Mapping[tuple[int, Triple], float],
    guess: Callable[[Iterable[float]], float],
) -> None:
    """Put measured costs in place."""
    places = {
        tuple(own.index(f) for own, f in zip(picks, formats, strict=True)): cost
        for (owner, formats), cost in measured.items()
        if owner == kind and all(f in own for own, f in zip(picks, formats, strict=True))
    }
    if places:
        prices *= max(1.0, guess(cost / prices[place] for place, cost in places.items()))
        for place, cost in places.items():
            prices[place] = cost


def _candidates(
    tensor: int, space: Space, costs: Sequence[Costs], losses: Values
) -> tuple[int, ...]:
    rows = [losses[:, None]]
    seen = set()
    for product in space.products:
        for role, own in zip(TENSORS, product.tensors, strict=True):
            if own == tensor and (product.kind, role) not in seen:
                seen.add((product.kind, role))
                rows += _burdens(costs[product.kind], role)
    burdens = np.hstack(rows)
    kept: list[int] = []
    # Ascending by sum, so that no row beats one before it; of ties the first comes first.
    for row in np.argsort(burdens.sum(axis=1), kind="stable"):
        if not (burdens[kept] <= burdens[row]).all(axis=1).any():
            kept.append(int(row))
    return tuple(sorted(kept))


def _burdens(costs: Costs, role: str) -> list[Values]:
    """Rows of formats, of what a layer bears in each: the smaller the better."""
    parts = [values[role] for values in (costs.moved, costs.room)]  # type: ignore[index]
    if role == "O":
        parts.append((~costs.whole).astype(float))
    elif costs.objective == "latency":  # passes of the array
        parts.append(np.array([[fmt.significand_bits] for fmt in costs.formats], float))
    return parts
