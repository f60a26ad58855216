"""The allocation against every residency and every mapping of small programs."""

import math
import random

import pytest

from bfpsim.mapping.nest import MappingError
from bfpsim.mapping.residency import allocate
from bfpsim.mapping.stored import activation_formats
from bfpsim.quant.formats import BFP, LayerFormats
from bfpsim.workloads.program import program_of
from tests.long import often
from tests.mapping.residency.every import Every, small_machine, small_network, with_capacity

FORMATS = LayerFormats.uniform(BFP(8, 3, 2))


@pytest.mark.parametrize("seed", often(12, range(400)))
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
