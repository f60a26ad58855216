"""The rules of movement: what each tile step must fetch, keep, evict and read back.

One tile per tensor is resident. The simulator runs these rules transfer by transfer; the exact
model sums them in closed form without running them (burst padding of I apart, see
`mapping.bursts`).
"""

from collections.abc import Iterator
from typing import Literal, NamedTuple

from bfpsim.mapping.boxes import (
    ActivationBox,
    Interval,
    WeightBox,
    input_box,
    output_box,
    weight_box,
)
from bfpsim.mapping.nest import RELEVANT, Nest

Halo = Literal["sliding", "none"]


class InputFetch(NamedTuple):
    """At `step`, `box` becomes resident; only `new` of it is fetched, the rest was there."""

    step: int
    box: ActivationBox
    new: ActivationBox


class WeightFetch(NamedTuple):
    """At `step`, `box` becomes resident and is fetched whole."""

    step: int
    box: WeightBox


class OutputVisit(NamedTuple):
    """`box` is resident during steps `begin .. end`.

    resumed: its reduction began at an earlier visit, so its partial sums are read back first
    finished: its reduction ends with this visit, so it leaves as a result, not as partial sums
    """

    begin: int
    end: int
    box: ActivationBox
    resumed: bool
    finished: bool


def input_fetches(nest: Nest, halo: Halo) -> Iterator[InputFetch]:
    """Every change of I's loop indices, in step order."""
    return (input_fetch(nest, halo, tile) for tile in range(nest.steps // nest.period("I")))


def input_fetch(nest: Nest, halo: Halo, tile: int) -> InputFetch:
    """What change number `tile` of I's loop indices fetches.

    If exactly one index of I changed, it is P or Q, and it advanced by one tile, then the overlap
    with the resident box stays (`sliding`); every other change fetches the box whole. A box that
    clipping leaves unchanged is not fetched at all.
    """
    period = nest.period("I")
    at = nest.indices(tile * period)
    box = new = input_box(nest, at)
    if tile > 0:
        before = nest.indices((tile - 1) * period)
        resident = input_box(nest, before)
        changed = [dim for dim in RELEVANT["I"] if at[dim] != before[dim]]
        if box == resident:
            new = box._replace(h=(0, 0))
        elif halo == "sliding" and len(changed) == 1 and at[changed[0]] == before[changed[0]] + 1:
            if changed[0] == "P":
                new = box._replace(h=_beyond(box.h, resident.h))
            elif changed[0] == "Q":
                new = box._replace(w=_beyond(box.w, resident.w))
    return InputFetch(tile * period, box, new)


def weight_fetches(nest: Nest) -> Iterator[WeightFetch]:
    """Every change of W's loop indices, in step order."""
    return (weight_fetch(nest, tile) for tile in range(nest.steps // nest.period("W")))


def weight_fetch(nest: Nest, tile: int) -> WeightFetch:
    """What change number `tile` of W's loop indices fetches."""
    step = tile * nest.period("W")
    return WeightFetch(step, weight_box(nest, nest.indices(step)))


def output_visits(nest: Nest) -> Iterator[OutputVisit]:
    """Every stay of an O tile, in step order."""
    return (output_visit(nest, tile) for tile in range(nest.steps // nest.period("O")))


def output_visit(nest: Nest, tile: int) -> OutputVisit:
    """Stay number `tile` of an O tile."""
    period = nest.period("O")
    at = nest.indices(tile * period)
    return OutputVisit(
        tile * period,
        (tile + 1) * period,
        output_box(nest, at),
        resumed=at["C"] > 0,
        finished=_reduces_inside(nest) or at["C"] == nest.trips["C"] - 1,
    )


def _reduces_inside(nest: Nest) -> bool:
    """Whether the whole C loop runs during one visit of an O tile."""
    for loop in reversed(nest.loops):
        if loop.dim == "C":
            return True
        if loop.dim in RELEVANT["O"]:
            return False
    return False


def _beyond(new: Interval, old: Interval) -> Interval:
    """The part of `new` past the end of `old`."""
    low = max(new[0], old[1])
    return (low, new[1]) if low < new[1] else (0, 0)
