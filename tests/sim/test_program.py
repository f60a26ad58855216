"""Programs on one clock: against layers alone, every step, and whole tensors."""

import random
from collections.abc import Mapping

import numpy as np
import pytest

from bfpsim.arch import Arch, replace
from bfpsim.arch.spec import Vector
from bfpsim.mapping.counts import Direction, Flow
from bfpsim.mapping.nest import Mapping as Tiling
from bfpsim.mapping.nest import MappingError
from bfpsim.quant.formats import ActivationLayout, LayerFormats
from bfpsim.sim.accelerator import Accelerator
from bfpsim.sim.contents import Contents
from bfpsim.sim.machine import Machine, StageTally
from bfpsim.sim.stage import Stage
from bfpsim.sim.staging import Plan, stages_of
from bfpsim.workloads import Network, NetworkBuilder, Node
from bfpsim.workloads.program import program_of
from tests.generate import make_arch, random_device, random_formats, random_layer, random_mapping
from tests.long import often
from tests.programs import (
    FORMATS,
    evaluator,
    least_capacities,
    random_branches,
    random_machine,
    random_plan,
    random_weights,
    reference,
    with_room,
)


@pytest.mark.parametrize("seed", often(60, range(1500)))
def test_a_program_of_one_layer_is_the_layer_alone(seed: int) -> None:
    rng = random.Random(seed)
    layer, formats = random_layer(rng), random_formats(rng)
    arch = make_arch(
        sram={
            "capacity": "16 MiB", "width": "128 bit", "double_buffered": rng.random() < 0.5
        },
        burst=rng.choice(["1 bit", "32 B"]),
        latency=rng.choice(["100 ns", "0 ns"]),
        bandwidth=rng.choice(["6.4 GB/s", "0.4 GB/s", "50 GB/s"]),
        padding=rng.choice(["skip", "fetch"]),
        halo=rng.choice(["sliding", "none"]),
    )  # fmt: skip
    mapping = random_mapping(rng, layer, formats)
    if rng.random() < 0.3:
        arch = random_device(rng, arch)
    try:
        alone = Accelerator(layer, arch, mapping, formats).run()
    except MappingError:
        return
    source = Node("input", "input", input_shape=layer.input_shape)
    network = Network("one", (source, Node(layer.name, "conv", ("input",), layer=layer)))
    plan = Plan(
        program_of(network, vector=False),
        {layer.name: formats},
        {"input": formats.I, layer.name: formats.O},
        {layer.name: mapping},
        {},
    )
    for every_step in (False, True):
        (run,) = Machine(stages_of(plan, arch), arch, every_step=every_step).run()
        assert (run.end, run.counts) == (alone.cycles, alone.counts)
        assert (run.steady_cycles, run.fill_cycles, run.port_cycles, run.dram_busy) == (
            alone.steady_cycles, alone.fill_cycles, alone.port_cycles, alone.dram_busy,
        )  # fmt: skip
        assert (run.steps, run.transfers) == (alone.steps, alone.transfers)


def _made(
    seed: int, largest: int = 8
) -> tuple[random.Random, Network, LayerFormats, Arch, Plan, list[Stage]]:
    """A random program on a machine that just holds it, or a little more."""
    rng = random.Random(seed)
    formats = rng.choice(FORMATS)
    network = random_branches(rng, largest, formats.O.block_size)
    arch = random_machine(rng, rng.random() < 0.8)
    plan = random_plan(rng, network, arch, formats)
    stages = stages_of(plan, arch)
    spare = rng.choice([1, 1, 1.2, 2])
    room = {name: int(bits * spare) for name, bits in least_capacities(plan, stages, arch).items()}
    return rng, network, formats, with_room(arch, room), plan, stages


@pytest.mark.parametrize("seed", often(60, range(3000)))
def test_what_is_skipped_is_what_every_step_would_have_done(seed: int) -> None:
    """And nothing waits for ever, though nothing is left of the room."""
    _, _, _, arch, _, stages = _made(seed)
    skipping, running = Machine(stages, arch), Machine(stages, arch, every_step=True)
    for own, other in zip(skipping.run(), running.run(), strict=True):
        assert _figures(own) == _figures(other)
        assert sorted(own.timeline) == sorted(other.timeline)
    assert _held(skipping) == _held(running) == {}


def _figures(run: StageTally) -> tuple[object, ...]:
    return (
        run.counts, run.start, run.end, run.steady_cycles, run.fill_cycles, run.port_cycles,
        run.vector_cycles, run.stalls, run.dram_busy, run.steps, run.transfers,
    )  # fmt: skip


def _held(machine: Machine) -> Mapping[tuple[str, str], int]:
    """What is still held at the end."""
    held: dict[tuple[str, str], int] = {}
    for change in machine.room.changes:
        held[change.owner] = held.get(change.owner, 0) + change.bits
    return {owner: bits for owner, bits in held.items() if bits}


@pytest.mark.parametrize("seed", often(40, range(1000)))
def test_products_move_what_they_move_alone_but_for_what_stays(seed: int) -> None:
    _, network, formats, arch, plan, stages = _made(seed)
    roomy = with_room(arch, dict.fromkeys(arch.levels[1].memories.values(), 1 << 29))
    layers = {layer.name: layer for layer in network.layers}
    for stage, run in zip(stages, Machine(stages, arch).run(), strict=True):
        if stage.unit != "array":
            continue
        operation = plan.program.operations[stage.place]
        alone = Accelerator(layers[stage.name], roomy, plan.mappings[stage.name], formats).run()
        names: dict[str, str | None] = {
            "I": operation.reads[0].activation,
            "W": operation.reads[1].activation if len(operation.reads) > 1 else None,
            "O": operation.writes.activation,
        }
        for tensor in ("I", "W", "O"):
            if tensor == "O" and operation.mean:  # of which only unfinished sums leave
                assert run.counts.total("DRAM", "O", kind="mantissa") == 0
                assert run.counts.total("DRAM", "O", kind="psum") == alone.counts.total(
                    "DRAM", "O", kind="psum"
                )
                continue
            stays = names[tensor] in plan.resident
            expected = 0 if stays else alone.counts.total("DRAM", tensor) * operation.repeats
            assert run.counts.total("DRAM", tensor) == expected
        assert run.steady_cycles == alone.steady_cycles * operation.repeats


@pytest.mark.parametrize("seed", often(40, range(1000)))
def test_each_activation_is_moved_as_often_as_it_must_be(seed: int) -> None:
    """What the vector unit reads and writes crosses the channel once, or not at all if it stays."""
    _, _, _, arch, plan, stages = _made(seed)
    program = plan.program
    for stage, run in zip(stages, Machine(stages, arch).run(), strict=True):
        operation = program.operations[stage.place]
        written = 0
        if (operation.unit == "vector" or operation.mean) and (
            operation.writes.activation not in plan.resident
        ):
            view = operation.writes
            written = ActivationLayout(view.shape, plan.stored[view.activation]).bits
        moved = run.counts.total("DRAM", "V", "write") - run.counts.get(_burst("write"), 0)
        assert moved == written
        if operation.unit == "array":
            read = sum(
                ActivationLayout(view.shape, plan.stored[view.activation]).bits
                for view in operation.addends
                if view.activation not in plan.resident
            )
            moved = run.counts.total("DRAM", "V", "read") - run.counts.get(_burst("read"), 0)
            assert moved == read


def _burst(direction: Direction) -> Flow:
    return Flow("DRAM", "V", direction, "burst")


@pytest.mark.parametrize("seed", often(60, range(2000)))
def test_data_comes_out_as_from_whole_tensors_and_counts_as_without(seed: int) -> None:
    _, network, formats, arch, plan, stages = _made(seed, largest=6)
    numbers = np.random.default_rng(seed)
    weights = random_weights(numbers, network)
    images = numbers.normal(size=network.shape("input"))
    tops: dict[str, int] = {}
    expected = reference(plan.program, formats, weights, images, tops)
    contents = Contents(plan, arch, weights, {"input": images}, tops, evaluator(network))
    runs = Machine(stages, arch, contents).run()
    for name, values in expected.items():
        np.testing.assert_array_equal(contents.output(name), values, err_msg=name)
    for own, sizes in zip(runs, Machine(stages, arch).run(), strict=True):
        assert _figures(own) == _figures(sizes)


def test_the_vector_unit_takes_whole_cycles_for_every_tile() -> None:
    """Tiles of 2 and 1 rows of 3 pixels of 4 channels: 24 and 12 elements. Each has a bias, a ReLU,
    a sum and requantisation: 96 and 48 operations, in 5 lanes 20 and 10 cycles; with 7, 14 and 7.
    """
    build = NetworkBuilder("small", (1, 3, 3, 4))
    first = build.conv("first", "input", 4, 1)
    x = build.relu("relu", build.conv("second", first, 4, 1))
    build.add("sum", x, first)
    formats = FORMATS[0]
    network = build.network()
    for lanes, cycles in ((5, 20 + 10), (7, 14 + 7), (11, 9 + 5)):
        arch = replace(make_arch(), "vector", Vector(lanes=lanes))
        program = program_of(network)
        plan = Plan(
            program,
            {layer.name: formats for layer in network.layers},
            dict.fromkeys(program.activations, formats.O),
            {layer.name: Tiling("P", {"P": 2}) for layer in network.layers},
            {},
        )
        _, second = Machine(stages_of(plan, arch), arch).run()
        assert second.vector_cycles == cycles
