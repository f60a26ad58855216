"""Programs of networks at the edge of what a network is."""

import re
from collections import Counter
from itertools import pairwise

import pytest

from bfpsim.arch import Arch, load_arch, replace
from bfpsim.arch.spec import Vector
from bfpsim.mapping.nest import Mapping, MappingError
from bfpsim.quant.formats import layer_formats
from bfpsim.sim.machine import Machine
from bfpsim.sim.program import plan_program
from bfpsim.sim.staging import stages_of
from bfpsim.workloads import Network, NetworkBuilder, WorkloadError

FORMATS = layer_formats("bfp8e3b2")


def network(name: str, samples: int = 1) -> Network:
    """An odd one, of 4 channels."""
    shape = samples, 4, 4, 4
    build = NetworkBuilder(name.replace(" ", "_"), shape)
    x = "input"
    match name:
        case "one relu":
            build.relu("r", x)
        case "input twice":
            build.add("a", x, x)
        case "inputs joined":
            build.conv("c", build.concat("j", x, x), 8, 1)
        case "only a join":
            build.concat("j", x, x)
        case "only a mean":
            build.avgpool("m", x)
        case "two outputs":
            build.conv("c", x, 4, 1)
            build.conv("d", x, 4, 1)
        case "an output that is read":
            build.conv("d", build.relu("r", build.conv("c", x, 4, 1)), 4, 3, padding=1)
            build.relu("beside", "c")
        case "joins of joins":
            build.conv("d", build.conv("c", x, 4, 1), 4, 1)
            build.concat("k", build.concat("j", "c", "d"), "d")
            build.conv("e", "k", 4, 1)
        case "beside itself":
            build.conv("d", build.concat("j", build.conv("c", x, 4, 1), "c"), 8, 1)
        case "join of input and sum":
            build.add("a", build.conv("c", x, 4, 1), x)
            build.conv("e", build.concat("k", "a", x), 4, 1)
        case "a function nobody knows":
            build.conv("c", build.host("h", "mystery", build.host("s", "softmax", x)), 8, 1)
        case "reshaped twice":
            N, H, W, C = shape
            build.host("t", "tokens", build.conv("c", x, C, 1), shape=(N, H * W, 1, C))
            build.add("a", build.host("u", "map", "t", shape=shape), "c")
            build.conv("d", "a", 8, 1)
        case "attention of the input":
            build.host("s", "softmax", build.matmul("qk", x, x, shape[1] * shape[2], heads=1))
            build.matmul("av", "s", x, 4, heads=1)
    return build.network()


NAMES = [
    "one relu", "input twice", "inputs joined", "only a join", "only a mean", "two outputs",
    "an output that is read", "joins of joins", "beside itself", "join of input and sum",
    "a function nobody knows", "reshaped twice", "attention of the input",
]  # fmt: skip


def machine(vector: bool, capacity: str = "64 KiB") -> Arch:
    arch = replace(load_arch("edge-64k"), "sram.capacity", capacity)
    return replace(arch, "vector", Vector(lanes=16) if vector else None)


@pytest.mark.parametrize("vector", [True, False])
@pytest.mark.parametrize("name", NAMES)
def test_odd_networks_run_to_their_end(name: str, vector: bool) -> None:
    """In as few bits and cycles as there is room for, every step as if it were not skipped."""
    net, bits = network(name, samples=2), []
    for capacity in ("256 B", "64 KiB"):
        arch = machine(vector, capacity)
        planned = plan_program(net, arch, FORMATS)
        result = planned.run()
        bits.append(sum(own.counts.total("DRAM") for own in result.operations))
        running = Machine(stages_of(planned.plan, arch), arch, every_step=True)
        assert [own.end for own in running.run()] == [own.end for own in result.operations]
        held: Counter[str] = Counter()
        for change in result.changes:
            held[change.memory] += change.bits
            assert 0 <= held[change.memory] <= arch.buffer("I").capacity
        assert not any(held.values())
        assert sum(own.cycles for own in result.operations) == result.cycles
        assert (result.utilisation.overall > 0) == bool(result.layers)
        assert net.name in repr(result)
        assert result.samples_per_second > 0
    assert all(more >= less for more, less in pairwise(bits))


def test_nothing_to_run_is_said_in_a_line() -> None:
    with pytest.raises(WorkloadError, match="network 'none': has nothing to run"):
        plan_program(network("none"), machine(True), FORMATS)


@pytest.mark.parametrize("name", NAMES)
def test_too_little_room_is_said_in_a_line(name: str) -> None:
    with pytest.raises(MappingError, match=r"^\w+: no tiles .*fit .* room for 8 bit$"):
        plan_program(network(name), machine(True, "8 bit"), FORMATS)


def test_a_given_mapping_that_does_not_fit_is_told_the_room_that_would_do() -> None:
    """Beside the addend, and to the bit."""
    build = NetworkBuilder("added", (1, 8, 8, 16))
    build.add("a", build.conv("c", "input", 16, 1), "input")
    given = {"c": Mapping("K", {"K": 4})}
    line = r"^c: its mapping does not fit .* room for (\d+) bit; allowed: at least (\d+) bit$"

    def shortage(bits: int) -> int:
        with pytest.raises(MappingError, match=line) as error:
            plan_program(build.network(), machine(True, f"{bits} bit"), FORMATS, given)
        found = re.search(line, str(error.value))
        assert found is not None
        assert int(found[1]) == bits
        return int(found[2])

    least = shortage(4096)
    assert shortage(least - 1) == least
    arch = machine(True, f"{least} bit")
    assert plan_program(build.network(), arch, FORMATS, given).run().cycles > 0
