"""An operation of a program made ready to run: its tiles in order, and what each waits for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

from bfpsim.arch import Traffic
from bfpsim.mapping.counts import Flow
from bfpsim.mapping.steps.price import Priced, Stay, Step
from bfpsim.mapping.steps.tiles import Mask, Vector

Sink = Literal["off chip", "beside", "in place", "mean"]
"""Where an output tile goes as it is finished: off chip; from its slot into the activation that
stays; nowhere, since the array writes where it stays; into the running sums of a mean."""


class Slot(NamedTuple):
    """Room of one tensor of one operation.

    memory: its name
    bits: of its largest tile, for all of its tiles at once
    """

    memory: str
    bits: int
    tiles: int


@dataclass(frozen=True, eq=False)
class Wait:
    """What tiles wait for: so many finished tiles of the operation at a place, one number each."""

    place: int
    tiles: Vector


@dataclass(frozen=True, eq=False)
class Feed:
    """An operand on its way to a unit.

    tensor: I, W, or V for what the vector unit reads
    stays: its tiles in order; `arrives` is nothing where the operand lies in SRAM already
    slot: None if it does
    waits: for its writers
    begins: the first step, or finished visit, that uses each tile: in this order they are brought
    """

    tensor: Traffic
    stays: Priced[Stay]
    slot: Slot | None
    waits: tuple[Wait, ...]
    begins: Vector


class Turn(NamedTuple):
    """A tile step of a unit: how long it lasts, and whose tiles it is the first or last to use.

    begins, ends: names of feeds, and "O"
    """

    lasting: int
    begins: tuple[str, ...]
    ends: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Output:
    """The output on its way out.

    tensor: O of a product; V of what the vector unit makes
    stays: visits in order; finished: which of them leave as results
    sink: of finished tiles
    work: cycles of the vector unit for each visit as it drains
    addends: names of the feeds whose next tile each finished visit needs
    mean_bits: of the mean, sent off chip in the end; 0 if it stays
    """

    tensor: Literal["O", "V"]
    stays: Priced[Stay]
    finished: Mask
    sink: Sink
    slot: Slot
    work: Vector
    addends: tuple[str, ...] = ()
    mean: Stay | None = None


class Kept(NamedTuple):
    """An activation that stays in SRAM.

    in_place: it takes over the room of this one, which ends here
    """

    name: str
    memory: str
    bits: int
    in_place: str | None


@dataclass(frozen=True, eq=False)
class Stage:
    """One operation of the program.

    feeds: by name: "I", "W", and addends or a vector operation's operands "V0", "V1", ...
    turns: the unit's tile steps
    steps: of the array: what each kind of them costs, by the kinds of `turns`
    flows: of the bits of these
    keeps: the activation that begins to stay with this operation's output
    frees: activations that stay, of which it is one of the readers
    waits: of the host, for whole writers
    loops: steps in a whole turn of each loop of the nest, the shortest first
    """

    place: int
    name: str
    unit: Literal["array", "vector", "host"]
    feeds: Mapping[str, Feed]
    turns: Priced[Turn]
    steps: tuple[Step, ...]
    flows: tuple[Flow, ...]
    output: Output | None
    keeps: Kept | None
    frees: tuple[str, ...]
    waits: tuple[Wait, ...] = ()
    loops: tuple[int, ...] = (1,)
