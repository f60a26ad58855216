"""What no buffer avoids, against what programs move on a machine with all the room there is."""

import random

import pytest

from bfpsim.arch import replace
from bfpsim.arch.spec import Vector
from bfpsim.mapping.floor import program_floor
from bfpsim.quant.formats import BFP, LayerFormats, Plain
from bfpsim.sim.program import plan_program
from bfpsim.workloads import NetworkBuilder
from bfpsim.workloads.program import program_of
from tests.generate import make_arch
from tests.long import often
from tests.programs import random_branches


def roomy(burst: str = "1 bit", vector: bool = True):
    sram = {"capacity": "64 MiB", "width": "128 bit", "double_buffered": False}
    arch = make_arch(sram=sram, burst=burst)
    return replace(arch, "vector", Vector(lanes=4)) if vector else arch


@pytest.mark.parametrize("seed", often(6, range(60)))
def test_with_room_for_all_the_floor_is_what_moves(seed):
    rng = random.Random(seed)
    network, arch = random_branches(rng), roomy(vector=rng.random() < 0.8)
    formats = rng.choice([LayerFormats.uniform(Plain(8)), LayerFormats.uniform(BFP(8, 3, 4))])
    result = plan_program(network, arch, formats).run()
    floors = program_floor(result.program, arch, formats)
    for own in result.operations:
        for tensor in ("I", "W", "O", "V"):
            for direction in ("read", "write"):
                moved = own.counts.total("DRAM", tensor, direction)
                assert moved == floors[own.name].total("DRAM", tensor, direction), own.name


def test_by_hand():
    """A map of 4 x 4 pixels and 8 channels, 3 x 3 to 8 channels, pooled, averaged, to 10."""
    build = NetworkBuilder("small", input_shape=(1, 4, 4, 8))
    x = build.maxpool("pool", build.conv("conv", "input", 8, kernel=3, padding=1), 2, stride=2)
    build.conv("fc", build.avgpool("mean", x), 10, kernel=1)
    network, formats = build.network(), LayerFormats.uniform(Plain(8))
    floor = program_floor(program_of(network, vector=True, block=1), roomy(), formats)
    total = {tensor: sum(own.total("DRAM", tensor) for own in floor.values()) for tensor in "IWOV"}
    assert total == {
        "I": 8 * 4 * 4 * 8,
        "W": 8 * (8 * 8 * 9 + 10 * 8),
        "O": 8 * 10,
        "V": 0,
    }
