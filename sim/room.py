"""Room in SRAM: who holds how many bits of it, and since when."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import groupby
from typing import Literal, NamedTuple, get_args

import simpy

Owner = tuple[str, str]
"""An operation and the name of one of its streams; or an activation that stays, and nothing."""


class Change(NamedTuple):
    """At a cycle, an owner takes bits of a memory, or gives them back (fewer than 0)."""

    cycle: int
    memory: str
    owner: Owner
    bits: int


Share = Literal["stays", "W", "I", "O", "V"]
"""Whose the room is: activations that stay, or slots of a tensor."""
SHARES: tuple[Share, ...] = get_args(Share)
# By the first letter of an owner's stream: "V0" and "V1" are slots of V.
_SHARE_OF: dict[str, Share] = {"": "stays", "W": "W", "I": "I", "O": "O", "V": "V"}


class Held(NamedTuple):
    """What is held of a memory from a cycle on [bit]."""

    cycle: int
    memory: str
    bits: dict[Share, int]


def held(changes: Iterable[Change]) -> Iterator[Held]:
    """What slots of each tensor and what stays take, at each cycle at whose end it is another.

    changes: in the order of their cycles
    """
    every: dict[str, dict[Share, int]] = {}
    for cycle, own in groupby(changes, lambda change: change.cycle):
        before = {memory: dict(bits) for memory, bits in every.items()}
        for change in own:
            bits = every.setdefault(change.memory, dict.fromkeys(SHARES, 0))
            bits[_SHARE_OF[change.owner[1][:1]]] += change.bits
        for memory, bits in every.items():
            if bits != before.get(memory):
                yield Held(cycle, memory, dict(bits))


class Room:
    """Bits of SRAM's memories. Holding more than there is, is a defect of the model: it raises.

    capacities: by memory [bit]
    cycle: tells the time
    """

    def __init__(
        self, env: simpy.Environment, capacities: Mapping[str, int], cycle: Callable[[], int]
    ) -> None:
        self._env, self._cycle = env, cycle
        self._free = dict(capacities)
        self._held: dict[Owner, tuple[str, int]] = {}
        self._freed: simpy.Event | None = None
        self.changes: list[Change] = []
        """Everything that was taken and given back, in order."""

    def has(self, memory: str, bits: int) -> bool:
        """Whether so many bits are free."""
        return self._free[memory] >= bits

    def freed(self) -> simpy.Event:
        """The event of any room coming free."""
        self._freed = self._freed or self._env.event()
        return self._freed

    def take(self, memory: str, owner: Owner, bits: int) -> None:
        """Hold bits."""
        self._free[memory] -= bits
        if self._free[memory] < 0:
            raise RuntimeError(f"{memory} is short by {-self._free[memory]} bit for {owner}")
        self._held[owner] = memory, bits
        self.changes.append(Change(self._cycle(), memory, owner, bits))

    def give(self, owner: Owner) -> None:
        """Hold them no longer."""
        memory, bits = self._held.pop(owner)
        self._free[memory] += bits
        self.changes.append(Change(self._cycle(), memory, owner, -bits))
        if self._freed is not None:
            event, self._freed = self._freed, None
            event.succeed()

    def hand_over(self, owner: Owner, heir: Owner) -> None:
        """What an owner holds is another's from now on."""
        memory, bits = self._held.pop(owner)
        self._held[heir] = memory, bits
        now = self._cycle()
        self.changes += [Change(now, memory, owner, -bits), Change(now, memory, heir, bits)]

    def holds(self, owner: Owner) -> bool:
        """Whether an owner holds any."""
        return owner in self._held
