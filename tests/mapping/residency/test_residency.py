"""The allocation against every residency and every mapping of small programs."""

import math
import random

import pytest

from bfpsim.mapping.mapper import find_mapping
from bfpsim.mapping.nest import MappingError
from bfpsim.mapping.residency import allocate, frontier, integer
from bfpsim.mapping.residency.frontier import InfeasibleError, Problem, Stage, cost_of, subsets
from bfpsim.mapping.residency.stairs import Stairs
from bfpsim.mapping.stored import activation_formats
from bfpsim.quant.formats import BFP, LayerFormats
from bfpsim.workloads import NetworkBuilder
from bfpsim.workloads.program import program_of
from tests.long import often
from tests.mapping.residency.every import Every, small_machine, small_network, with_capacity

FORMATS = LayerFormats.uniform(BFP(8, 3, 2))


@pytest.mark.parametrize("seed", often(12, range(300)))
def test_the_least_of_all_residencies_and_mappings(seed: int) -> None:
    rng = random.Random(seed)
    network, arch = small_network(rng), small_machine(rng)
    program = program_of(network, vector=arch.vector is not None, block=2)
    every = Every(program, arch, FORMATS, activation_formats(program, FORMATS))
    before = math.inf
    for capacity in every.capacities(rng, 4):
        machine = with_capacity(arch, capacity)
        least = every.best(capacity)
        if math.isinf(least):
            with pytest.raises(MappingError, match="fit"):
                allocate(program, machine, FORMATS)
            continue
        found = allocate(program, machine, FORMATS)
        assert found.total_bits == least
        assert found.proven
        assert found.total_bits == every.cost(capacity, frozenset(found.residents))
        assert found.total_bits <= before  # monotone
        before = found.total_bits
        nothing = every.cost(capacity, frozenset())
        if math.isfinite(nothing):
            assert allocate(program, machine, FORMATS, keep=()).total_bits == nothing


@pytest.mark.parametrize("seed", often(8, range(200)))
def test_the_integer_program_equals_the_dynamic_one(seed: int) -> None:
    rng = random.Random(seed)
    problem = made_problem(rng)
    least = min(cost_of(problem, chosen) for chosen in range(1 << len(problem.sizes)))
    for solve in (frontier.solve, integer.solve):
        if math.isinf(least):
            with pytest.raises(InfeasibleError):
                solve(problem)
            continue
        found = solve(problem)
        assert found.cost == found.bound == least
        assert cost_of(problem, found.residents) == least


def made_problem(rng: random.Random) -> Problem:
    """Operations that read some of what is alive, with any falling costs."""
    count = rng.randint(2, 9)
    sizes = [rng.randint(1, 40) for _ in range(count)]
    ends = [rng.randint(n + 1, min(count, n + 4)) for n in range(count)]
    stages = []
    for place in range(count + 1):
        alive = [n for n in range(min(place, count)) if ends[n] >= place]
        uses = {n for n in alive if ends[n] == place or rng.random() < 0.3}
        begins = place if place < count else None
        replaces = None
        dying = [n for n in uses if ends[n] == place]
        if begins is not None:
            uses.add(begins)
            if dying and rng.random() < 0.5:
                replaces = dying[0], begins
                sizes[begins] = sizes[dying[0]]
        tables = {key: made_stairs(rng) for key in subsets(sum(1 << n for n in uses))}
        stages.append(
            Stage(
                begins,
                sum(1 << n for n in range(count) if ends[n] == place),
                sum(1 << n for n in uses),
                replaces,
                None if rng.random() < 0.1 else tables.__getitem__,
            )
        )
    return Problem(stages, sizes, rng.randint(20, 150))


def made_stairs(rng: random.Random) -> Stairs:
    """Some steps, from any room on."""
    rooms = sorted(rng.sample(range(70), rng.randint(1, 5)))
    costs = sorted(rng.sample(range(1, 1000), len(rooms)), reverse=True)
    return Stairs(tuple(rooms), tuple(costs))


@pytest.mark.parametrize("seed", often(6, range(80)))
def test_with_bursts_what_is_promised_is_what_steps_move(seed: int) -> None:
    rng = random.Random(seed)
    network, arch = small_network(rng), small_machine(rng, burst="3 B")
    program = program_of(network, vector=arch.vector is not None, block=2)
    every = Every(program, arch, FORMATS, activation_formats(program, FORMATS))
    before = math.inf
    for capacity in every.capacities(rng, 3):
        machine = with_capacity(arch, capacity)
        try:
            found = allocate(program, machine, FORMATS)
        except MappingError:
            assert math.isinf(every.best(capacity))
            continue
        on_chip = frozenset(found.residents)
        for place, operation in enumerate(program.operations):
            if operation.layer is not None:
                mapping = found.mappings[operation.name]
                assert found.dram_bits[operation.name] == every.moves(place, mapping, on_chip)
        # a size left out for equal payload may pad less, so all mappings may do better
        assert every.best(capacity) <= found.total_bits <= before
        before = found.total_bits
        given = allocate(program, machine, FORMATS, mappings=found.mappings)
        assert given.mappings == found.mappings
        assert given.total_bits == found.total_bits


@pytest.mark.parametrize("seed", often(6, range(60)))
def test_without_residents_the_mapping_is_the_mappers(seed: int) -> None:
    rng = random.Random(seed)
    arch = small_machine(rng, burst=rng.choice(["1 bit", "4 B"]))
    build = NetworkBuilder("one", (1, rng.randint(2, 6), rng.randint(2, 6), 4))
    build.conv("conv", "input", 2 * rng.randint(1, 5), 2, padding=1)
    program = program_of(build.network())
    (layer,) = build.network().layers
    need = FORMATS.O.bits * 60 * rng.randint(2, 6)
    machine = with_capacity(arch, need)
    try:
        mapping = find_mapping(layer, machine, FORMATS, model="full")
    except MappingError:
        return
    assert allocate(program, machine, FORMATS).mappings == {"conv": mapping}
