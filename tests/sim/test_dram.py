"""Machines with a DRAM device: networks bank by bank and with prices, and where energy goes."""

import random
from dataclasses import replace as with_fields
from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest

from bfpsim.arch import devices, load_arch, replace, replace_all
from bfpsim.mapping.energy import energy_of
from bfpsim.mapping.nest import Mapping
from bfpsim.quant.formats import BFP, LayerFormats
from bfpsim.sim.accelerator import Accelerator
from bfpsim.sim.result import NetworkResult
from bfpsim.sim.simulate import simulate, simulate_layers
from bfpsim.sim.validate import validate
from bfpsim.workloads import load_workload
from tests.dram import transfers_of
from tests.generate import (
    random_arch,
    random_device,
    random_formats,
    random_layer,
    random_mapping,
)
from tests.long import often

FORMATS = LayerFormats.uniform(BFP(8, 3, 16))
LPDDR4 = {"device": "lpddr4-3200-x16"}
WIDE = {"pe_array.rows.size": 64, "pe_array.cols.size": 64}


@pytest.fixture(scope="module")
def ideal() -> NetworkResult:
    """ResNet-18 on a machine with an ideal DRAM, which tests put a device in place of."""
    return simulate_layers("resnet18", load_arch("ideal-64k"), FORMATS)


def mappings(result: NetworkResult) -> dict[str, Mapping]:
    return {own.layer.name: own.mapping for own in result.layers}


def timed(result: NetworkResult, timing: str) -> NetworkResult:
    """The same mappings with a device in place of the ideal DRAM, behind the same 100 ns."""
    dram = LPDDR4 | {"timing": timing, "controller": "64.375 ns"}
    arch = replace(result.arch, "dram", dram)
    assert arch.dram_latency_cycles == 50
    return simulate_layers("resnet18", arch, FORMATS, mappings(result))


def assert_slower_by(result: NetworkResult, factor: float) -> None:
    """Within 2 % of what DRAMsim3 in place of the channel takes, and no bit more or less."""
    for timing in ("priced", "banked"):
        own = timed(result, timing)
        assert own.cycles / result.cycles == pytest.approx(factor, rel=0.02)
        assert [layer.counts for layer in own.layers] == [layer.counts for layer in result.layers]


def test_whole_resnet18_is_within_two_percent_of_dramsim3(ideal: NetworkResult) -> None:
    assert_slower_by(ideal, 1.008)


@pytest.mark.long
@pytest.mark.parametrize(("changes", "factor"), [({}, 1.001), (WIDE, 1.038)])
def test_whole_resnet18_with_two_slots(changes: dict[str, object], factor: float) -> None:
    arch = replace_all(load_arch("ideal-64k-double"), changes)
    assert_slower_by(simulate_layers("resnet18", arch, FORMATS), factor)


@pytest.mark.parametrize("seed", often(12, range(300)))
def test_bank_by_bank_moves_the_same_and_never_faster_than_the_data_pins(seed: int) -> None:
    """Any nest on any device; with data, too."""
    rng = random.Random(seed)
    layer, formats = random_layer(rng), random_formats(rng)
    mapping = random_mapping(rng, layer, formats)
    arch = random_device(rng, random_arch(rng))
    banked = Accelerator(layer, replace(arch, "dram.timing", "banked"), mapping, formats).run()
    priced = Accelerator(layer, arch, mapping, formats).run()
    assert banked.counts == priced.counts
    assert banked.transfers == priced.transfers
    assert banked.cycles >= banked.counts.total("DRAM") / arch.dram_bits_per_cycle
    begun = [piece for piece in banked.timeline if piece.unit == "dram"]
    assert all(before.end <= after.start for before, after in pairwise(begun))
    assert banked.activates > 0


def test_a_device_changes_no_bit_of_the_output() -> None:
    layer = next(own for own in load_workload("resnet18-fashion").layers if own.name == "fc")
    rng = np.random.default_rng(0)
    data = rng.normal(size=layer.input_shape), rng.normal(size=layer.weight_shape)
    arch = load_arch("ideal-16k")
    ideal = simulate(layer, arch, Mapping(), FORMATS, data)
    for timing in ("priced", "banked"):
        own = simulate(
            layer, replace(arch, "dram", LPDDR4 | {"timing": timing}), Mapping(), FORMATS, data
        )
        assert own.traffic[["tensor", "bits"]].equals(ideal.traffic[["tensor", "bits"]])
        assert own.output is not None
        assert np.array_equal(own.output, ideal.output)


def test_energy_by_hand() -> None:
    """mA x V x ns = pJ: activates, bursts, refreshes, and time with a row open and without."""
    arch = replace_all(
        load_arch("ideal-64k"),
        {"dram": LPDDR4 | {"io": "2 pJ/bit"}, "sram.energy": "0 pJ/bit"},
    )
    layer = next(own for own in load_workload("resnet18").layers if own.name == "fc")
    result = simulate(layer, arch, None, FORMATS)
    read, write = (result.counts.total("DRAM", direction=way) for way in ("read", "write"))
    seconds, busy = result.cycles * 2e-9, result.dram_busy_cycles * 2e-9
    clock = 0.625
    expected = {
        ("movement", "read"): read / 256 * 1.2 * (243 - 47) * 8 * clock,
        ("io", "read"): 2 * read,
        ("movement", "write"): write / 256 * 1.2 * (228 - 47) * 8 * clock,
        ("io", "write"): 2 * write,
        ("activate", ""): result.activates * (1.2 * 80 * 97 - 1.2 * (47 * 68 + 34 * 29)) * clock,
        ("refresh", ""): seconds * 1e9 / (6246 * clock) * 1.2 * (280 - 47) * 448 * clock,
        ("background", ""): 1.2 * (47 * busy + 34 * (seconds - busy)) * 1e9,
    }
    parts = {(p.part, p.direction): p.energy_pj for p in result.energy.parts if p.where == "DRAM"}
    assert parts == pytest.approx(expected, rel=1e-12)
    assert result.energy_pj == pytest.approx(
        sum(pj for (part, _), pj in expected.items() if part in ("movement", "io")), rel=1e-12
    )
    assert result.energy.all_pj == pytest.approx(sum(expected.values()), rel=1e-12)
    asleep = energy_of(replace(arch, "dram.idle", "power-down"), [result.work])
    parts = {p.part: p.energy_pj for p in asleep.parts if not p.direction and p.where == "DRAM"}
    assert parts["background"] == pytest.approx(1.2 * 47 * busy * 1e9)
    assert parts["power-down"] == pytest.approx(1.2 * 25 * (seconds - busy) * 1e9)


def test_resnet18_spends_most_of_its_dram_energy_on_time(ideal: NetworkResult) -> None:
    """DRAMsim3: 0.50 mJ of activate, read and write, and 1.29 mJ of background and refresh."""
    own = timed(ideal, "priced")
    dram = [part for part in own.energy.parts if part.where == "DRAM"]
    of_time = sum(p.energy_pj for p in dram if p.part in ("refresh", "background"))
    of_bits = sum(p.energy_pj for p in dram) - of_time
    assert of_bits == pytest.approx(0.50e9, rel=0.02)
    assert of_time == pytest.approx(1.29e9, rel=0.02)


@pytest.mark.parametrize(
    ("name", "mapping", "bursts", "twice"),
    [
        ("layer2.0.downsample", Mapping("PQKC", {"K": 32, "C": 16, "P": 4, "Q": 4}), 89_033, 1_428),
        ("layer4.0.conv2", Mapping("KC", {"K": 64, "C": 128}), 54_734, 0),
    ],
)
def test_bursts_that_runs_of_one_transfer_share_are_few(name, mapping, bursts, twice) -> None:
    """What an engine that merged them would save."""
    layer = next(own for own in load_workload("resnet18").layers if own.name == name)
    arch, moved, different = replace(load_arch("ideal-64k"), "dram", LPDDR4), 0, 0
    for place, _, _ in transfers_of(layer, arch, mapping, FORMATS):
        first, end = place.runs.starts // 256, -(-place.runs.ends // 256)
        moved += int((end - first).sum())
        different += len(set().union(*map(range, first.tolist(), end.tolist())))
    assert (moved, moved - different) == (bursts, twice)


def test_devices_without_currents_price_bits_alone() -> None:
    arch = replace(load_arch("ideal-64k"), "dram", {"device": "lpddr5-6400-x16"})
    assert (arch.dram.read_pj, arch.dram.write_pj) == (20.0, 20.0)
    assert not arch.prices_more
    given = replace(arch, "dram.energy", {"read": "4 pJ/bit", "write": "5 pJ/bit"})
    given = replace(given, "dram.io", "1 pJ/bit")
    assert (given.dram.read_pj, given.dram.write_pj) == (5.0, 6.0)
    own = replace(load_arch("ideal-64k"), "dram", LPDDR4)
    energies = devices()["lpddr4-3200-x16"].energies
    assert energies is not None
    assert own.dram.read_pj == float(energies.read / 256)
    assert own.prices_more
    assert not replace(own, "dram.energy", "20 pJ/bit").prices_more


def test_validation_climbs_from_full_bandwidth_to_rows_and_names_what_is_apart(
    ideal: NetworkResult,
) -> None:
    arch = replace(ideal.arch, "dram", LPDDR4)
    validation = validate("resnet18", arch, FORMATS, mappings(ideal))
    assert validation.agrees
    assert set(validation.apart) == {"layer2.0.downsample", "layer3.0.downsample"}
    for own in (*validation.layers, validation.total):
        ladder = own.cycles
        assert list(ladder.rungs)[-4:] == ["stall", "refresh", "turnaround", "rows"]
        assert ladder.ideal + sum(ladder.rungs.values()) == ladder.simulated
        assert ladder.apart == (
            abs(Fraction(ladder.simulated, ladder.banked) - 1) > Fraction(1, 20)
        )
    first = validation.layers[0].cycles
    assert not with_fields(first, simulated=first.simulated + 1).agrees
    waits = {**first.waits, "rows": first.waits["rows"] + 1}
    assert not with_fields(first, waits=waits).agrees
    frame = validation.to_frame()
    assert frame["banked_cycles"].iloc[-1] == validation.total.cycles.banked
    # At full bandwidth the wait is what the ideal DRAM's is, behind the same latency.
    latency = f"{float(arch.dram.latency * 10**9)} ns"
    nearer = replace(ideal.arch, "dram.latency", latency)
    same = simulate_layers("resnet18", nearer, FORMATS, mappings(ideal))
    stalls = [sum(own.stalls.values()) for own in same.layers]
    assert [own.cycles.waits["stall"] for own in validation.layers] == stalls
