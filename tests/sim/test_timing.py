"""Time as stories that end in one exact log, and laws that every run obeys."""

import random
from itertools import pairwise

import pytest
import simpy

from bfpsim.arch import Arch, replace
from bfpsim.mapping.channel import Timing
from bfpsim.mapping.nest import Mapping
from bfpsim.quant.formats import BFP, LayerFormats, Plain
from bfpsim.sim.accelerator import Accelerator
from bfpsim.sim.buffer import Memory, TileBuffer
from bfpsim.sim.channel import Channel
from bfpsim.sim.simulate import simulate
from bfpsim.workloads import ConvLayer
from tests.generate import make_arch, random_arch, random_formats, random_layer, random_mapping
from tests.long import often


def tiny_arch(double_buffered: bool = False, **dram: str) -> Arch:
    """One PE at 1 GHz; DRAM moves 8 bit a cycle and answers after 10 cycles."""
    return Arch.model_validate(
        {
            "name": "tiny",
            "clock": "1 GHz",
            "dram": {"bandwidth": "1 GB/s", "latency": "10 ns", "burst": "1 bit"} | dram,
            "sram": {
                "capacity": "16 KiB",
                "width": "64 bit",
                "double_buffered": double_buffered,
            },
            "pe_array": {
                "rows": {"size": 1, "dim": "C"},
                "cols": {"size": 1, "dim": "K"},
                "stationary": "output",
                "mac_bits": 8,
                "accumulator_bits": 16,
            },
        }
    )


def log(layer: ConvLayer, arch: Arch, mapping: Mapping, unit: str) -> list[tuple]:
    result = simulate(layer, arch, mapping, LayerFormats.uniform(Plain(8)))
    return [(s.activity, s.start, s.end) for s in result.timeline if s.unit == unit]


TWO_FILTERS = ConvLayer("two", K=2, C=1, P=1, Q=1)
ONE_BY_ONE = Mapping("K", {"K": 1})


def test_one_buffer_loads_computes_and_drains_in_turn() -> None:
    """I and the first W queue on the channel; the second W waits until the first is used up."""
    assert log(TWO_FILTERS, tiny_arch(), ONE_BY_ONE, "array") == [
        ("wait W", 0, 12),
        ("compute", 12, 13),
        ("wait W", 13, 24),
        ("compute", 24, 25),
        ("wait O", 25, 26),
    ]
    assert log(TWO_FILTERS, tiny_arch(), ONE_BY_ONE, "dram") == [
        ("read", 0, 1),  # I
        ("read", 1, 2),  # W of the first filter, arriving at 12
        ("read", 13, 14),  # W of the second
        ("write", 14, 15),  # O of the first
        ("write", 25, 26),
    ]


def test_two_buffers_load_the_next_tile_meanwhile() -> None:
    """The second W is asked for when the first has arrived, not when it has been used."""
    assert log(TWO_FILTERS, tiny_arch(double_buffered=True), ONE_BY_ONE, "array") == [
        ("wait W", 0, 12),
        ("compute", 12, 13),
        ("wait W", 13, 23),
        ("compute", 23, 24),
        ("wait O", 24, 25),
    ]


def test_partial_sums_leave_and_come_back_in_order() -> None:
    """C outside K: each O tile is visited twice, and read back after its sums were written."""
    layer = ConvLayer("spill", K=2, C=2, P=1, Q=1)
    mapping = Mapping("CK", {"C": 1, "K": 1})
    moves = [
        (s.activity, s.bits, s.tile)
        for s in simulate(layer, tiny_arch(), mapping, LayerFormats.uniform(Plain(8))).timeline
        if s.unit == "dma O"
    ]
    assert moves == [
        ("write", 16, 0),
        ("write", 16, 1),
        ("read", 16, 2),
        ("write", 8, 2),
        ("read", 16, 3),
        ("write", 8, 3),
    ]


def test_a_wide_mantissa_takes_more_passes() -> None:
    """13-bit mantissas on 8-bit multipliers: two pieces each, four products."""
    layer = ConvLayer("wide", K=3, C=5, P=2, Q=2)

    def cycles(fmt: BFP) -> int:
        formats = LayerFormats(fmt, fmt, Plain(8))
        return simulate(layer, tiny_arch(), Mapping(), formats).compute_cycles

    assert cycles(BFP(8, 3, 4)) == 3 * 5 * 4
    assert cycles(BFP(16, 3, 4)) == 4 * 3 * 5 * 4


def test_the_channel_serves_in_order_and_rounds_each_transfer_up() -> None:
    env = simpy.Environment()
    channel = Channel(env, Timing.of(make_arch()))  # 102.4 bit per cycle
    assert channel.request(1) == (0, 1)
    assert channel.request(103) == (1, 3)
    assert channel.request(1024) == (3, 13)
    env.run(until=20)
    assert channel.request(1025) == (20, 31)


def test_the_narrower_of_dram_and_dma_sets_the_pace() -> None:
    """Bursts are rounded out in DRAM alone; the payload passes the DMA engine."""
    env = simpy.Environment()
    channel = Channel(env, Timing.of(replace(make_arch(), "dma.width", "64 bit")))
    assert channel.request(128) == (0, 2)
    assert channel.request(129) == (2, 5)
    assert channel.request(64, padding=448) == (5, 10)  # 5 bursts' cycles, one of payload


def test_the_state_is_what_the_channel_has_yet_to_serve() -> None:
    env = simpy.Environment()
    channel = Channel(env, Timing.of(make_arch(bandwidth="6.25 GB/s")))  # 100 bit per cycle
    assert channel.state == (0, 0)
    channel.request(1000)
    channel.request(1)
    assert channel.state == (11, 11)
    env.run(until=4)
    assert channel.state == (7, 7)
    env.run(until=11)
    assert channel.state == (0, 0)
    env.run(until=20)
    assert channel.state == (0, 0)  # idle is idle, for however long
    channel.request(100)
    assert channel.state == (1, 1)


def test_a_buffer_lends_as_many_slots_as_it_has() -> None:
    env = simpy.Environment()
    memory = Memory("SRAM", 100)
    buffer = TileBuffer(env, memory, slots=2)
    story = []

    def dma():
        for size in (60, 40, 50):
            if buffer.full:
                yield buffer.vacancy()
            buffer.reserve(size)
            story.append((env.now, "reserve", size, memory.held))
            yield env.timeout(5)
            buffer.deliver()

    def array():
        for _ in range(3):
            while not buffer.ready:
                yield buffer.arrival()
            story.append((env.now, "use", buffer.begin_use()))
            yield env.timeout(7)
            buffer.release()

    env.process(dma())
    env.process(array())
    env.run()
    assert story == [
        (0, "reserve", 60, 60),
        (5, "reserve", 40, 100),
        (5, "use", 5),
        (12, "use", 10),
        (12, "reserve", 50, 90),
        (19, "use", 17),
    ]
    assert (memory.peak, memory.held) == (100, 0)


def test_holding_more_than_the_capacity_is_a_defect() -> None:
    memory = Memory("SRAM", 100)
    memory.take(100)
    with pytest.raises(RuntimeError, match="SRAM holds 101 bit of 100 bit"):
        memory.take(1)


@pytest.mark.parametrize("seed", often(150, range(400)))
def test_laws_of_time(seed: int) -> None:
    rng = random.Random(seed)
    layer, formats = random_layer(rng), random_formats(rng)
    mapping = random_mapping(rng, layer, formats)
    arch = random_arch(rng, "32 B")
    result = simulate(layer, arch, mapping, formats)
    slices = list(result.timeline)
    by_unit = {unit: [s for s in slices if s.unit == unit] for unit in {s.unit for s in slices}}

    assert result.cycles == result.compute_cycles + sum(result.stalls.values())
    array = by_unit["array"]
    assert array[0].start == 0
    assert array[-1].end == result.cycles
    assert all(a.end == b.start for a, b in pairwise(array))
    for tensor in "IWO":
        waits = sum(s.end - s.start for s in array if s.activity == f"wait {tensor}")
        assert waits == result.stalls[tensor]

    for unit in ("dram", "dma I", "dma W", "dma O"):  # one transfer at a time
        assert all(a.end <= b.start for a, b in pairwise(by_unit[unit]))
    assert sum(s.end - s.start for s in by_unit["dram"]) == result.dram_busy_cycles
    assert sum(s.bits for s in by_unit["dram"]) == result.counts.total("DRAM")

    latency = arch.dram_latency_cycles * len(by_unit["dram"])
    assert result.cycles >= max(result.compute_cycles, result.dram_busy_cycles)
    assert result.cycles <= result.compute_cycles + result.dram_busy_cycles + latency
    for name, peak in result.peak_bits.items():
        assert 0 < peak <= arch.buffer("I" if arch.shared else name[-1]).capacity


def test_more_bandwidth_is_never_slower_here_and_stalls_move_to_compute() -> None:
    layer = ConvLayer("bound", K=16, C=16, P=8, Q=8, R=3, S=3, padding=1)
    formats, mapping = LayerFormats.uniform(Plain(8)), Mapping("KP", {"K": 4, "P": 2})
    slow, fast = (
        simulate(layer, tiny_arch(True, bandwidth=rate), mapping, formats)
        for rate in ("0.1 GB/s", "100 GB/s")
    )
    assert slow.compute_cycles == fast.compute_cycles == layer.macs
    assert sum(slow.stalls.values()) > 5 * sum(fast.stalls.values())


def test_the_same_run_twice_is_the_same_run() -> None:
    rng = random.Random(5)
    layer, formats = random_layer(rng), random_formats(rng)
    mapping, arch = random_mapping(rng, layer, formats), random_arch(rng, "32 B")
    first, second = (Accelerator(layer, arch, mapping, formats).run() for _ in range(2))
    assert first.counts == second.counts
    assert list(first.timeline) == list(second.timeline)
