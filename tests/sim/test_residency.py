"""What an allocation promises is what the simulated program moves, operation by operation."""

import random

import pytest

from bfpsim.mapping.nest import MappingError
from bfpsim.mapping.residency import allocate
from bfpsim.mapping.stored import activation_formats
from bfpsim.quant.formats import BFP, LayerFormats
from bfpsim.sim.machine import Machine
from bfpsim.sim.staging import Plan, stages_of
from bfpsim.workloads.program import program_of
from tests.long import often
from tests.mapping.residency.every import Every, small_machine, small_network, with_capacity

FORMATS = LayerFormats.uniform(BFP(8, 3, 2))


@pytest.mark.parametrize("seed", often(6, [16, *(seed for seed in range(100) if seed != 16)]))
def test_each_operation_moves_what_was_allocated(seed: int) -> None:
    rng = random.Random(seed)
    network, arch = small_network(rng), small_machine(rng, burst=rng.choice(["1 bit", "3 B"]))
    program = program_of(network, vector=arch.vector is not None, block=2)
    stored = activation_formats(program, FORMATS)
    formats = {layer.name: FORMATS for layer in network.layers}
    for capacity in Every(program, arch, FORMATS, stored).capacities(rng, 2):
        machine = with_capacity(arch, capacity)
        try:
            found = allocate(program, machine, FORMATS)
        except MappingError:
            continue
        plan = Plan(
            program, formats, stored, found.mappings, found.tilings,
            frozenset(found.residents), found.overwrites,
        )  # fmt: skip
        stages = stages_of(plan, machine)
        for stage in stages:  # what stays never leaves unfinished
            kept = program.operations[stage.place].writes.activation in found.residents
            if kept and stage.output is not None:
                assert stage.output.finished.all()
        tallies = Machine(stages, machine).run()
        moved = {
            operation.name: tally.counts.total("DRAM")
            for operation, tally in zip(program.operations, tallies, strict=True)
            if operation.unit != "host"
        }
        assert moved == found.dram_bits
