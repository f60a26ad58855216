"""Rule 7: whether resident tiles fit their buffers."""

from __future__ import annotations

from collections.abc import Mapping
from functools import reduce
from operator import and_
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bfpsim.arch import Arch, Level
from bfpsim.mapping.nest import TENSORS, Tensor


class Claim(NamedTuple):
    """What resident tiles take of a buffer, and what it has for them [bit].

    buffer: the tensor, or the level's name where the tensors share a buffer
    """

    buffer: str
    taken: Any
    usable: int


def claims(arch: Arch, room: Mapping[Tensor, Any]) -> list[Claim]:
    """A claim per buffer of SRAM.

    room: of the largest tile of each tensor: whole numbers, arrays, or a solver's sums [bit]
    """
    if arch.shared:
        together = room["I"] + room["W"] + room["O"]
        return [Claim(arch.levels[1].name, together, arch.usable_bits("I"))]
    return [Claim(tensor, room[tensor], arch.usable_bits(tensor)) for tensor in TENSORS]


def inner_claims(level: Level, room: Mapping[Tensor, Any]) -> list[Claim]:
    """A claim per memory of a level inside SRAM: one that its tensors share, or one for each.

    room: of the largest tile of each tensor; in registers, of the fullest PE's share of it
    """
    taken: dict[str, Any] = {}
    for tensor, memory in level.memories.items():
        taken[memory] = taken.get(memory, 0) + room[tensor]
    usable = {level.memories[tensor]: own.usable_bits for tensor, own in level.buffers.items()}
    return [Claim(memory, bits, usable[memory]) for memory, bits in taken.items()]


def fits(arch: Arch, room: Mapping[Tensor, Any]) -> NDArray[np.bool_]:
    """Whether tiles of such room fit; of arrays, where."""
    return reduce(and_, (np.asarray(claim.taken) <= claim.usable for claim in claims(arch, room)))
