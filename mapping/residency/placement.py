"""Addresses of what stays and of every operation's slots, so that nothing that lives overlaps."""

from __future__ import annotations

import random
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from bfpsim.arch import Arch
from bfpsim.mapping.nest import TENSORS
from bfpsim.mapping.nest import Mapping as Tiling
from bfpsim.mapping.residency.allocation import Allocating, Allocation, Formats, Known
from bfpsim.objects import immutable
from bfpsim.workloads.program import Program

MOST_TRIES = 1_500
"""Reinsertions after first fit."""

_ROUNDS = 8
"""How often tiles are made smaller that find no place."""


class Owner(NamedTuple):
    """Who lies at an address: an activation that stays, or a slot of an operation.

    tensor: I, W, O or V of a slot, else nothing; operand: as `Slot.operand`
    """

    name: str
    tensor: str = ""
    operand: int = 0


class Block(NamedTuple):
    """Bits of a memory that are one owner's, from operation `first` to `last` inclusive."""

    owner: Owner
    memory: str
    bits: int
    first: int
    last: int


@immutable
@dataclass(frozen=True)
class Placement:
    """Where everything lies.

    addresses: [bit]; an output that overwrites an operand lies where that does
    needs: memory -> the capacity that would do [bit]
    capacities: what there is [bit]
    """

    blocks: tuple[Block, ...]
    addresses: Mapping[Owner, int]
    needs: Mapping[str, int]
    capacities: Mapping[str, int]

    @property
    def fits(self) -> bool:
        """Whether everything lies inside its memory."""
        return all(need <= self.capacities[memory] for memory, need in self.needs.items())


def allocate_placed(
    program: Program,
    arch: Arch,
    formats: Formats,
    *,
    mappings: Mapping[str, Tiling] | None = None,
    keep: Collection[str] | None = None,
) -> tuple[Allocation, Placement]:
    """As `allocate`, with tiles that are smaller, at no more traffic, where they find no place."""
    work = Allocating(program, arch, formats, mappings or {}, keep, Known({}, {}))
    most: dict[str, int] = {}
    for _ in range(_ROUNDS):
        allocation = work.allocation(most)
        placed = placement(allocation, program, arch)
        outside = [
            block
            for block in placed.blocks
            if placed.addresses[block.owner] + block.bits > placed.capacities[block.memory]
        ]
        if not outside:
            break
        for place, operation in enumerate(program.operations):
            slots = allocation.slots.get(operation.name, ())
            if any(block.first <= place <= block.last for block in outside):
                most[operation.name] = sum(slot.bits for slot in slots) * 3 // 4
    return allocation, placed


def placement(allocation: Allocation, program: Program, arch: Arch) -> Placement:
    """The addresses of an allocation: by first fit, then with reinsertions.

    The room that an allocation counts is enough at every operation, but need not be in one piece.
    Where no placement is found, `needs` says the capacity that would do.
    """
    memories = arch.levels[1].memories
    capacities = {memories[own]: arch.buffer(own).capacity for own in TENSORS}
    blocks, heirs = _blocks(allocation, program, arch)
    addresses: dict[Owner, int] = {}
    needs = {}
    for memory, capacity in capacities.items():
        own = [block for block in blocks if block.memory == memory]
        found = lay_out([Piece(*block[2:]) for block in own], capacity)
        addresses |= {block.owner: at for block, at in zip(own, found, strict=True)}
        needs[memory] = max((at + b.bits for b, at in zip(own, found, strict=True)), default=0)
    for heir, first in heirs.items():
        addresses[heir] = addresses[first]
    return Placement(tuple(blocks), addresses, needs, capacities)


def _blocks(
    allocation: Allocation, program: Program, arch: Arch
) -> tuple[list[Block], dict[Owner, Owner]]:
    """Everything that takes room; and what lies where another did, by its owner."""
    memories = arch.levels[1].memories
    first_of: dict[str, str] = {}  # of a chain of activations that overwrite each other
    for operation in program.operations:
        if operation.name in allocation.overwrites:
            old = allocation.overwrites[operation.name]
            first_of[operation.writes.activation] = first_of.get(old, old)
    ends = {name: program.lifetime(name)[1] for name in allocation.residents}
    for heir, first in first_of.items():
        ends[first] = max(ends[first], ends[heir])
    blocks = [
        Block(Owner(name), memories["I"], bits, program.lifetime(name)[0], ends[name])
        for name, bits in allocation.sizes.items()
        if name not in first_of
    ]
    for place, operation in enumerate(program.operations):
        for slot in allocation.slots.get(operation.name, ()):
            owner = Owner(operation.name, slot.tensor, slot.operand)
            blocks.append(Block(owner, memories[slot.buffer], slot.bits, place, place))
    return blocks, {Owner(heir): Owner(first) for heir, first in first_of.items()}


class Piece(NamedTuple):
    """Bits that are taken from a time to another, inclusive."""

    bits: int
    first: int
    last: int


def lay_out(pieces: Sequence[Piece], capacity: int, tries: int = MOST_TRIES) -> list[int]:
    """Addresses of pieces, such that none overlap in both.

    By first fit, those that stay longer than one time first, then by size; every other one of those
    that stay from the top. While some end beyond the capacity, one of them or of those in its way
    is put in earlier, or from the other end, and that is kept unless less fits (seldom even then).
    """
    times = range(len(pieces))
    meets = [
        [
            own
            for own in times
            if own != at and pieces[own].first <= last and first <= pieces[own].last
        ]
        for at, (_, first, last) in enumerate(pieces)
    ]
    stays = [own for own in times if pieces[own].last > pieces[own].first]
    order = sorted(times, key=lambda own: (own not in stays, -pieces[own].bits, own))
    upper = set(sorted(stays, key=lambda own: pieces[own].first)[1::2])
    best = found = _first_fit(pieces, order, upper, meets, capacity)
    rng = random.Random(0)
    for _ in range(tries):
        outside = [own for own in times if found[own] + pieces[own].bits > capacity]
        if not outside:
            return found
        own = rng.choice(outside)
        changed, flipped = list(order), set(upper)
        for _ in range(rng.choice([1, 1, 2])):
            moved = rng.choice([own, *meets[own]])
            if rng.random() < 0.5:
                flipped ^= {moved}
            elif meets[moved]:
                changed.remove(moved)
                changed.insert(changed.index(rng.choice(meets[moved])), moved)
        other = _first_fit(pieces, changed, flipped, meets, capacity)
        worse = _outside(pieces, other, capacity) > _outside(pieces, found, capacity)
        if not worse or rng.random() < _SELDOM:
            order, upper, found = changed, flipped, other
        if _height(pieces, found) < _height(pieces, best):
            best = found
    return best


_SELDOM = 0.02
"""How often what is worse is kept, so that the search goes on elsewhere."""


def _height(pieces: Sequence[Piece], addresses: Sequence[int]) -> int:
    return max((at + piece.bits for at, piece in zip(addresses, pieces, strict=True)), default=0)


def _outside(pieces: Sequence[Piece], addresses: Sequence[int], capacity: int) -> int:
    """Bits that lie beyond the capacity, of all pieces."""
    return sum(
        max(0, at + piece.bits - capacity) for at, piece in zip(addresses, pieces, strict=True)
    )


def _first_fit(
    pieces: Sequence[Piece],
    order: Sequence[int],
    upper: Collection[int],
    meets: Sequence[Sequence[int]],
    capacity: int,
) -> list[int]:
    """Each piece at the lowest address that is free all its time, or the highest if it is `upper`.

    Beyond the capacity where there is none below it.
    """
    addresses = [-1] * len(pieces)
    for own in order:
        bits, address = pieces[own].bits, 0
        free = []
        taken = sorted(
            (addresses[other], addresses[other] + pieces[other].bits)
            for other in meets[own]
            if addresses[other] >= 0
        )
        for low, high in (*taken, (capacity, capacity)):
            if address + bits <= low:
                free.append((address, low - bits))
            address = max(address, high)
        if not free:
            end = max((high for _, high in taken), default=0)
            free = [(end, end)]
        addresses[own] = free[-1][1] if own in upper else free[0][0]
    return addresses
