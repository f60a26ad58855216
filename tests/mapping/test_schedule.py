"""Cycles from arrays against SimPy's, which does it process by process."""

import random

import numpy as np
import pytest

from bfpsim.arch import Arch, replace
from bfpsim.mapping.models import stored
from bfpsim.mapping.nest import Mapping, make_nest
from bfpsim.mapping.runs import run_of
from bfpsim.mapping.steps import schedule
from bfpsim.mapping.steps.events import events
from bfpsim.mapping.steps.price import streams_of
from bfpsim.mapping.steps.schedule import Schedule
from bfpsim.quant.formats import LayerFormats
from bfpsim.sim.accelerator import Accelerator
from bfpsim.sim.simulate import simulate
from bfpsim.workloads import ConvLayer
from tests.generate import (
    random_arch,
    random_device,
    random_formats,
    random_layer,
    random_mapping,
)
from tests.long import often

Case = tuple[ConvLayer, Arch, Mapping, LayerFormats]


def case(seed: int) -> Case:
    """Any nest on any machine: slots, buffers, bursts, latencies, odd rates, narrow DMA, ports,
    DRAM devices.
    """
    rng = random.Random(seed)
    layer, formats = random_layer(rng), random_formats(rng)
    mapping = random_mapping(rng, layer, formats)
    arch = random_arch(rng, rng.choice(["1 bit", "32 B"]))
    if rng.random() < 0.4:
        arch = replace(arch, "dma.width", rng.choice(["3 bit", "16 bit", "100 bit"]))
    if arch.shared and rng.random() < 0.3:
        arch = replace(arch, "sram.ports", {"read": rng.choice(["7 bit", "64 bit"])})
    if not arch.shared and rng.random() < 0.4:  # one slot for some, two for others
        for part in ("input", "weight", "output"):
            arch = replace(arch, f"sram.{part}.double_buffered", rng.random() < 0.5)
    if rng.random() < 0.4:
        arch = random_device(rng, arch)
    return layer, arch, mapping, formats


def schedule_of(layer: ConvLayer, arch: Arch, mapping: Mapping, formats: LayerFormats) -> Schedule:
    return Schedule.of(streams_of(make_nest(stored(layer, arch), mapping), arch, formats), arch)


@pytest.mark.parametrize("part", often(1, range(10)))
def test_cycles_and_stalls_are_those_of_the_processes(part: int) -> None:
    for seed in range(part * 400, (part + 1) * 400):
        layer, arch, mapping, formats = case(seed)
        tally = Accelerator(layer, arch, mapping, formats).run()
        own = schedule_of(layer, arch, mapping, formats)
        assert (own.cycles, own.stalls) == (tally.cycles, tally.stalls), seed


def test_without_numba_the_same_function_runs_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    cases = [case(seed) for seed in range(30)]
    compiled = [schedule_of(*one).stalls for one in cases]
    monkeypatch.setattr(schedule, "_compiled", lambda: events)
    assert [schedule_of(*one).stalls for one in cases] == compiled


@pytest.mark.parametrize("part", often(1, range(5)))
def test_a_run_is_what_the_simulator_reports(part: int) -> None:
    """With the array alone, and with ports that last longer than it computes."""
    for seed in range(part * 100, (part + 1) * 100):
        layer, arch, mapping, formats = case(seed)
        run = run_of(stored(layer, arch), arch, mapping, formats)
        result = simulate(layer, arch, mapping, formats)
        bits = result.counts.total("DRAM")
        assert (run.cycles, run.dram_bits, run.energy_pj) == (
            result.cycles, bits, result.energy_pj,
        ), seed  # fmt: skip


def test_what_is_due_at_one_time_happens_in_the_order_it_was_scheduled() -> None:
    """By hand, one slot each: I and W are asked for before O drains."""
    one = np.ones(2, np.int64)
    found = events(
        0, np.zeros(2, np.int64), np.array([1, 1, 1]), np.array([2, 2, 2]),
        np.array([2, 2, 2, 2, -1, -1]), 3 * one, 2 * one, 7 * one, 7 * one,
    )  # fmt: skip
    # I 0-2, W 2-4, compute 4-6, I 6-8, W 8-10, drain 10-13, compute 13-15, drain 15-18.
    assert found.tolist() == [18, 0, 4, 10]
