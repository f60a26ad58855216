"""What buffers hold, told from slices, against a record made while the machine ran."""

import random
from itertools import pairwise

import pytest

from bfpsim.arch import Arch
from bfpsim.mapping.nest import Mapping
from bfpsim.quant.formats import LayerFormats, Plain
from bfpsim.sim.accelerator import Accelerator
from bfpsim.sim.occupancy import occupancy
from bfpsim.sim.result import LayerResult
from bfpsim.sim.simulate import simulate
from bfpsim.workloads import ConvLayer
from tests.generate import make_arch, random_arch, random_formats, random_layer, random_mapping
from tests.long import often


def recorded(layer: ConvLayer, arch: Arch, mapping: Mapping, formats: LayerFormats):
    """Every step is run; what each buffer reserves and releases is written down as it happens."""
    machine = Accelerator(layer, arch, mapping, formats, every_step=True)
    held = dict.fromkeys("IWO", 0)
    log = {-1: dict(held)}

    def watch(tensor: str, buffer) -> None:
        reserve, release = buffer.reserve, buffer.release

        def change(bits: int) -> None:
            held[tensor] += bits
            log[int(machine._env.now)] = dict(held)

        def reserving(bits: int) -> None:
            reserve(bits)
            change(bits)

        def releasing() -> None:
            change(-buffer._sizes[0])
            release()

        buffer.reserve, buffer.release = reserving, releasing

    for tensor, buffer in machine._buffers.items():
        watch(tensor, buffer)
    machine.run()
    cycles = sorted(log)
    return [(cycle, log[cycle]) for before, cycle in pairwise(cycles) if log[cycle] != log[before]]


def random_run(seed: int, largest: int):
    rng = random.Random(seed)
    layer, formats = random_layer(rng, largest), random_formats(rng)
    arch = random_arch(rng, rng.choice(["1 bit", "4 B"]))
    return layer, arch, random_mapping(rng, layer, formats), formats


@pytest.mark.parametrize("seed", often(60, range(150)))
def test_equals_what_the_buffers_did(seed: int) -> None:
    run = random_run(seed, largest=12)
    result: LayerResult = simulate(*run)
    assert list(occupancy(result)) == recorded(*run)


def test_never_above_the_peak_and_empty_at_the_end() -> None:
    for seed in range(40):
        layer, arch, mapping, formats = random_run(seed, largest=9)
        result = simulate(layer, arch, mapping, formats)
        *_, (cycle, last) = held = list(occupancy(result))
        assert cycle == result.cycles
        assert not any(last.values())
        for _, bits in held:
            shares = {f"SRAM {tensor}": share for tensor, share in bits.items()}
            if arch.shared:
                shares = {"SRAM": sum(bits.values())}
            assert all(share <= result.peak_bits[name] for name, share in shares.items())


def test_one_buffer_holds_a_tile_of_each_tensor_in_turn() -> None:
    """8 bit a cycle, 10 cycles of latency; I stays, the second W waits for the first's end."""
    arch = make_arch(
        sram={"capacity": "1 KiB", "width": "8 bit"},
        rows=("C", 1),
        cols=("K", 1),
        stationary="output",
        accumulator_bits=16,
        bandwidth="500 MB/s",
        latency="20 ns",
    )
    layer = ConvLayer("three", K=3, C=1, P=1, Q=1)
    result = simulate(layer, arch, Mapping("K", {"K": 2}), LayerFormats.uniform(Plain(8)))
    assert list(occupancy(result)) == [
        (0, {"I": 8, "W": 16, "O": 16}),
        (15, {"I": 8, "W": 8, "O": 16}),  # two filters came from 1 to 13, took 2 cycles
        (18, {"I": 8, "W": 8, "O": 8}),  # drained behind the third filter, 16 to 18
        (27, {"I": 0, "W": 0, "O": 8}),  # which came from 15 to 26
        (28, {"I": 0, "W": 0, "O": 0}),
    ]


def test_part_of_a_timeline_tells_the_first_part() -> None:
    for seed in range(40):
        result = simulate(*random_run(seed, largest=12))
        whole = list(occupancy(result))
        for most in (0, len(result.timeline) // 2, len(result.timeline) - 1):
            some = list(occupancy(result, most))
            assert len(some) < len(whole)
            assert some == whole[: len(some)]
        assert list(occupancy(result, len(result.timeline))) == whole
