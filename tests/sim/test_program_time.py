"""The time of programs against an oracle made from the rules alone."""

import random
from collections import defaultdict

import pytest

from bfpsim.arch import Arch
from bfpsim.sim.machine import Machine, StageTally
from bfpsim.sim.stage import Stage
from bfpsim.sim.staging import stages_of
from tests.long import often
from tests.programs import (
    FORMATS,
    least_capacities,
    random_branches,
    random_machine,
    random_plan,
    with_room,
)
from tests.sim.program_oracle import Account, Oracle, Request


def _made(seed: int) -> tuple[Arch, list[Stage]]:
    """A random program on a machine that just holds it, or a little more, or much."""
    rng = random.Random(seed)
    formats = rng.choice(FORMATS)
    network = random_branches(rng, rng.choice([4, 8]), formats.O.block_size)
    arch = random_machine(rng, rng.random() < 0.85)
    plan = random_plan(rng, network, arch, formats, rng.choice([0, 0.6, 1]))
    stages = stages_of(plan, arch)
    room = {
        name: int(bits * rng.choice([1, 1, 1.2, 2, 100]))
        for name, bits in least_capacities(plan, stages, arch).items()
    }
    return with_room(arch, room), stages


@pytest.mark.parametrize("seed", often(60, [2410, 2990, *range(6000)]))
def test_programs_take_the_time_that_the_rules_say(seed: int) -> None:
    """To the cycle: every transfer, every piece of work, every stall, and room in SRAM.

    The rules leave open who is first of those that ask in the same cycle; the oracle lets those go
    first that did.
    """
    arch, stages = _made(seed)
    machine = Machine(stages, arch)
    runs = machine.run()
    first = _first(runs)
    oracle = Oracle(stages, arch, lambda request: first[request])
    for run, account in zip(runs, oracle.run(), strict=True):
        assert _simulated(run) == _due(account)
    assert sorted((c.cycle, *c.owner, c.bits) for c in machine.room.changes if c.bits) == sorted(
        oracle.changes
    )


def _first(runs: list[StageTally]) -> dict[Request, int]:
    """When channel or vector unit came to each request."""
    began: dict[tuple[int, str], list[int]] = defaultdict(list)
    for place, run in enumerate(runs):
        for own in run.timeline:
            if own.unit == "dram":
                began[place, f"{own.stream} {own.activity}"].append(own.start)
            elif own.unit == "vector" and own.activity == "compute":
                kind = "steps" if own.stream == "steps" else "drain"
                began[place, kind].append(own.start)
    return {
        Request(*key, number): start
        for key, starts in began.items()
        for number, start in enumerate(sorted(starts))
    }


def _simulated(run: StageTally) -> tuple[object, ...]:
    slices = list(run.timeline)
    return (
        run.start,
        run.end,
        {tensor: cycles for tensor, cycles in run.stalls.items() if cycles},
        sorted((s.stream, s.activity, s.start, s.end, s.bits) for s in slices if s.unit == "dram"),
        sorted((s.unit, s.activity, s.start, s.end) for s in slices if s.unit.startswith("dma")),
        sorted((s.unit, s.start, s.end) for s in slices if s.activity == "compute"),
    )


def _due(account: Account) -> tuple[object, ...]:
    moves = account.transfers
    return (
        account.turn,
        account.end,
        dict(account.stalls),
        sorted((*t.request.kind.split(), t.began, t.left, sum(t.moved)) for t in moves),
        sorted((f"dma {t.tensor}", t.direction, t.asked, t.there) for t in moves),
        sorted(account.units),
    )
