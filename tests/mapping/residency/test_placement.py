"""Addresses: nothing that lives at one time overlaps; small cases are as low as can be."""

import random
from itertools import combinations, permutations

import pytest

from bfpsim.mapping.nest import MappingError
from bfpsim.mapping.residency.placement import Piece, allocate_placed, lay_out
from bfpsim.mapping.stored import activation_formats
from bfpsim.quant.formats import BFP, LayerFormats
from bfpsim.workloads.program import program_of
from tests.long import often
from tests.mapping.residency.every import Every, small_machine, small_network, with_capacity

FORMATS = LayerFormats.uniform(BFP(8, 3, 2))


def some_pieces(rng: random.Random, count: int) -> list[Piece]:
    """Pieces of any sizes and times."""
    starts = [rng.randrange(5) for _ in range(count)]
    return [Piece(rng.randint(1, 9), first, first + rng.randrange(3)) for first in starts]


def clash(pieces: list[Piece], addresses: list[int]) -> bool:
    """Whether two pieces have a bit at one time in common."""
    held = [
        {(bit, time) for bit in range(at, at + own.bits) for time in range(own.first, own.last + 1)}
        for own, at in zip(pieces, addresses, strict=True)
    ]
    return any(a & b for a, b in combinations(held, 2))


def least_height(pieces: list[Piece]) -> int:
    """By dropping the pieces in every order: each rests on what is below it."""
    best = sum(own.bits for own in pieces)
    for order in permutations(pieces):
        tops = dict.fromkeys(range(9), 0)
        for own in order:
            times = range(own.first, own.last + 1)
            top = max(tops[time] for time in times) + own.bits
            tops |= dict.fromkeys(times, top)
        best = min(best, max(tops.values()))
    return best


@pytest.mark.parametrize("seed", often(10, range(150)))
def test_pieces_are_laid_out_as_low_as_can_be(seed: int) -> None:
    rng = random.Random(seed)
    pieces = some_pieces(rng, rng.randint(1, 6))
    least = least_height(pieces)
    addresses = lay_out(pieces, least)
    assert not clash(pieces, addresses)
    assert max(at + own.bits for own, at in zip(pieces, addresses, strict=True)) == least


@pytest.mark.parametrize("seed", often(10, range(150)))
def test_pieces_that_cannot_fit_do_not_clash_either(seed: int) -> None:
    rng = random.Random(seed)
    pieces = some_pieces(rng, 12)
    assert not clash(pieces, lay_out(pieces, rng.randint(5, 20), tries=20))


@pytest.mark.parametrize("seed", often(10, range(200)))
def test_nothing_of_an_allocation_overlaps(seed: int) -> None:
    rng = random.Random(seed)
    network, arch = small_network(rng), small_machine(rng)
    program = program_of(network, vector=arch.vector is not None, block=2)
    every = Every(program, arch, FORMATS, activation_formats(program, FORMATS))
    for capacity in every.capacities(rng, 2):
        try:
            found, placed = allocate_placed(program, with_capacity(arch, capacity), FORMATS)
        except MappingError:
            continue
        places = {block.owner: block for block in placed.blocks}
        for place, operation in enumerate(program.operations):
            held: dict[tuple[str, int], str] = {}
            owners = [
                owner for owner in placed.addresses
                if owner.tensor == "" and every.life(owner.name)[0] <= place
                and place <= every.life(owner.name)[1]
            ]  # fmt: skip
            owners += [own for own in places if own.tensor and own.name == operation.name]
            over = found.overwrites.get(operation.name)
            for owner in owners:
                at = placed.addresses[owner]
                block = places.get(owner)
                bits = every.size(owner.name) if owner.tensor == "" else block.bits  # type: ignore[union-attr]
                memory = arch.levels[1].memories["I"] if block is None else block.memory
                name = operation.writes.activation if owner.name == over else owner.name
                for bit in range(at, at + bits):
                    assert held.setdefault((memory, bit), f"{name} {owner[1:]}") == (
                        f"{name} {owner[1:]}"
                    )
                assert at + bits <= placed.needs[memory]
