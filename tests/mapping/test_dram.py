"""DRAM devices: clocks by hand from the standards' rows, and against a cycle-accurate simulator.

The table is that of DRAMsim3 (2981759), one x16 LPDDR4-3200 channel, eight commands queued for each
bank and 32 before them, everything requested at once; `jedec` has the timing of the shipped
device, `lp4-3200` that of DRAMsim3's own LPDDR4_8Gb_x16_2400 in ns.
"""

import importlib.util
import random
from fractions import Fraction
from itertools import pairwise
from math import ceil, isclose
from typing import NamedTuple

import numpy as np
import pytest
import simpy

from bfpsim.arch import Arch, devices, load_arch, replace
from bfpsim.arch.device import Device, read_device
from bfpsim.mapping.channel import Timing
from bfpsim.mapping.counts import Direction
from bfpsim.mapping.models import FULL, outer_counts, stored
from bfpsim.mapping.nest import Mapping, make_nest
from bfpsim.mapping.steps import banks
from bfpsim.mapping.steps.dram import Place, banks_of
from bfpsim.mapping.steps.price import streams_of
from bfpsim.quant.formats import BFP, LayerFormats
from bfpsim.quant.formats.layout import Runs
from bfpsim.sim.channel import Channel
from bfpsim.workloads import ConvLayer, load_workload
from tests.dram import Transfer, saturated, transfers_of
from tests.generate import random_arch, random_device, random_formats, random_layer, random_mapping
from tests.long import often

LPDDR4 = devices()["lpddr4-3200-x16"]
BURST = LPDDR4.burst
ARCH = replace(load_arch("ideal-64k"), "dram", {"device": "lpddr4-3200-x16"})
FORMATS = LayerFormats(*(BFP(8, 3, 16),) * 3)


def runs(bursts, length: int = 1) -> Runs:
    """Runs of some bursts each, from the bursts at which they begin."""
    starts = np.asarray(bursts, np.int64)
    return Runs(starts * BURST, (starts + length) * BURST)


# --- by hand ------------------------------------------------------------------------------------

ROW = 2048 // 32  # bursts of a row; rows of eight banks follow each other
BANKS = 8


@pytest.mark.parametrize(
    ("bursts", "clocks", "activates"),
    [
        ([0], 8, 1),
        (range(ROW), 8 * ROW, 1),
        (range(8 * ROW), 8 * 8 * ROW, 8),  # the next bank's row opens meanwhile
        ([0, ROW], 16 + 8, 2),  # tRRD after the first activate
        ([0, ROW, 2 * ROW, 3 * ROW], 3 * 16 + 8, 4),
        ([0, ROW, 2 * ROW, 3 * ROW, 4 * ROW], 64 + 8, 5),  # tFAW
        ([0, BANKS * ROW], 68 + 29 + 8, 2),  # one bank: tRAS and tRP
        ([0, 1, *range(BANKS * ROW, BANKS * ROW + 9)], 68 + 29 + 9 * 8, 2),
        ([*range(12), BANKS * ROW], (29 + 11 * 8 + 12 + 29 + 29) + 8 - 29, 2),  # tRTP
        ([0, BANKS * ROW, 1], 68 + 29 + 8, 2),  # what the open row holds goes before
    ],
)
def test_a_transfer_alone_takes_what_the_rows_of_the_standard_say(
    bursts, clocks: int, activates: int
) -> None:
    assert banks_of(LPDDR4).alone(runs([*bursts])) == (clocks, activates)


def test_bursts_of_one_group_are_further_apart_unless_groups_are_interleaved() -> None:
    """DDR4: tCCD_L 8 inside a group, and 4 clocks of data."""
    ddr4 = devices()["ddr4-3200-x64"]
    many = Runs(np.array([0]), np.array([512 * 64]))
    assert banks_of(ddr4).alone(many).clocks == pytest.approx(64 * 4, abs=3 * 4)
    apart = ("row", "group", "bank", "column", "channel")
    assert banks_of(ddr4, order=apart).alone(many).clocks == 63 * 8 + 4


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_channels_share_a_transfer_burst_by_burst(channels: int) -> None:
    own = banks_of(LPDDR4, channels).alone(Runs(np.array([0]), np.array([120 * BURST])))
    assert own.clocks == 120 // channels * 8
    assert own.activates == channels * ceil(120 / channels / ROW)


def test_a_burst_that_two_runs_share_is_moved_twice() -> None:
    """As the counts have it (rule 6): a DMA engine keeps no burst from one run to the next."""
    half = BURST // 2
    shared = Runs(np.array([0, half]), np.array([half - 8, BURST]))
    assert banks_of(LPDDR4).alone(shared) == (16, 1)


@pytest.mark.parametrize(
    ("name", "published"),  # ns, GB/s, bytes
    [
        ("lpddr4-3200-x16", (17.5, 18, 18, 42, 280, 3904, 6.4, 2048, 8, 32)),
        ("lpddr4-2400-x16", (20.0, 18, 18, 42, 280, 3904, 4.8, 2048, 8, 32)),
        ("lpddr5-6400-x16", (21.25, 18.75, 18.75, 42.5, 210, 3906, 12.8, 2048, 16, 32)),
        ("ddr4-3200-x64", (12.5, 12.5, 12.5, 32.5, 360, 7800, 25.6, 8192, 16, 64)),
    ],
)
def test_devices_are_as_published(name: str, published: tuple[float, ...]) -> None:
    own = devices()[name]
    ns = float(10**9 / own.clock)
    times = (
        own.read_latency,
        own.clocks("bank", "ACT", "RD"),
        own.clocks("bank", "PRE", "ACT"),
        own.clocks("bank", "ACT", "PRE"),
        own.refresh,
        own.refresh_every,
    )
    for clocks, wanted in zip(times, published, strict=False):
        assert clocks * ns == pytest.approx(wanted, abs=ns), (name, wanted)
    sizes = (float(own.bandwidth) / 8e9, own.page // 8, own.banks * own.groups, own.burst // 8)
    assert sizes == published[6:]


def test_refresh_and_turnaround_by_hand() -> None:
    assert LPDDR4.busy_refreshing == Fraction(6246, 6246 - 448 - 29 - 29)
    assert LPDDR4.turnarounds == (1, 14 + 8 + 16 + 28 - 14 - 8)
    timing = Timing.of(ARCH)  # 500 MHz, and 1.6 GHz of the device
    assert (timing.to_write, timing.to_read) == (1, ceil(44 * 5 / 16))
    channel = Channel(simpy.Environment(), timing)
    each = ceil(80 * Fraction(5, 16) * LPDDR4.busy_refreshing)
    bits = 10 * BURST
    assert channel.request(bits, 0, 80, "read") == (0, each)
    assert channel.request(bits, 0, 80, "write") == (each + 1, 2 * each + 1)
    assert channel.request(bits, 0, 80, "write") == (2 * each + 1, 3 * each + 1)
    assert channel.request(bits, 0, 80, "read") == (3 * each + 15, 4 * each + 15)


def test_the_rungs_of_a_devices_time_by_hand() -> None:
    """1,000,000 bit on a machine of 500 MHz: 6.4 GB/s are 102.4 bit a cycle. The banks take 40,000
    clocks of 1.6 GHz for them, where the pins alone would take 31,250. Of 6,246 clocks refresh and
    the rows around it take 448 + 29 + 29.
    """
    factor = Fraction(6246, 6246 - 448 - 29 - 29)
    times = {name: own.cycles(1_000_000, 0, 40_000) for name, own in Timing.of(ARCH).ladder.items()}
    assert times == {
        "stall": ceil(Fraction(1_000_000 * 10, 1024)),
        "refresh": ceil(Fraction(1_000_000 * 10, 1024) * factor),
        "turnaround": ceil(Fraction(1_000_000 * 10, 1024) * factor),
        "rows": ceil(Fraction(40_000 * 5, 16) * factor),
    }


def test_who_waits_long_enough_does_not_feel_the_turnaround() -> None:
    env = simpy.Environment()
    channel = Channel(env, Timing.of(ARCH))
    _, end = channel.request(BURST, 0, 8, "write")
    env.run(until=end + 5)
    assert channel.state == (9, 0)
    assert channel.request(BURST, 0, 8, "read")[0] == end + 14
    env.run(until=1000)
    assert channel.state == (0, 0)


# --- against DRAMsim3 ---------------------------------------------------------------------------


def own_file() -> Device:
    """DRAMsim3's LPDDR4_8Gb_x16_2400, its times kept in ns at 1.6 GHz: two groups of four banks."""
    clocks = {
        "CL": 17, "CWL": 14, "RCD": 15, "RP": 15, "RAS": 32, "RRD": 8, "FAW": 32, "WR": 30,
        "RTP": 12, "WTR_S": 8, "WTR_L": 16, "RFC": 392, "REFI": 8660,
    }  # fmt: skip
    scaled = {name: ceil(Fraction("0.83") * own * 8 / 5) for name, own in clocks.items()}
    return read_device(
        "lp4-3200",
        {
            "standard": "LPDDR4",
            "order": ["row", "bank", "group", "column", "channel"],
            "between": [
                ["bank", "ACT", "ACT", "RAS + RP"],
                ["bank", "ACT", "PRE", "RAS"],
                ["bank", "ACT", "RD", "RCD"],
                ["bank", "ACT", "WR", "RCD"],
                ["bank", "RD", "PRE", "RTP"],
                ["bank", "WR", "PRE", "CWL + BURST + WR"],
                ["bank", "PRE", "ACT", "RP"],
                ["group", "WR", "RD", "CWL + BURST + WTR_L"],
                ["rank", "ACT", "ACT", "RRD"],
                ["rank", "ACT", "ACT", "FAW", 4],
                ["rank", "RD", "RD", "BURST"],
                ["rank", "RD", "WR", "CL + BURST - CWL + 1"],
                ["rank", "WR", "WR", "BURST"],
                ["rank", "WR", "RD", "CWL + BURST + WTR_S"],
                ["rank", "PRE", "REF", "RP"],
                ["rank", "REF", "ACT", "RFC"],
                ["rank", "REF", "REF", "REFI"],
            ],
            "devices": {
                "lp4-3200": {
                    "organisation": {
                        "clock": "1600 MHz", "width": 16, "burst_length": 16, "groups": 2,
                        "banks": 4, "page": "2 KiB",
                    },
                    "clocks": scaled | {"BURST": 8},
                }
            },
        },
    )  # fmt: skip


class Row(NamedTuple):
    """Of the table: bursts, cycles on lp4-3200, row hits, and cycles on jedec over the FIFO's."""

    bursts: int
    lp4: float | None
    hits: float | None
    jedec: float | None


LAYERS = {
    ("resnet18", "conv1", "P"): ({"P": 1}, Row(20_120, 174_091, 0.974, 1.130)),
    ("resnet18", "layer1.0.conv1", "P"): ({"P": 2}, Row(8_905, 76_254, 0.971, 1.113)),
    ("resnet18", "layer2.0.downsample", "P"): ({"P": 1}, Row(4_247, 36_766, 0.963, 1.132)),
    ("resnet18", "layer4.0.conv2", "KC"): (
        {"K": 64, "C": 128}, Row(54_734, 460_538, 0.938, 1.092)
    ),
    ("resnet18", "fc", "K"): ({"K": 176}, Row(10_412, 87_142, 0.983, 1.086)),
    ("mobilenetv2-eca", "blocks.2.depthwise", "P"): (
        {"P": 1}, Row(18_435, 156_560, 0.981, 1.105)
    ),
    ("resnet18", "layer4.0.conv2", "KC "): (
        {"K": 64, "C": 16}, Row(80_046, 680_686, 0.757, None)
    ),
    ("resnet18", "layer1.0.conv1", "KCPQ"): (
        {"K": 16, "C": 16, "P": 14, "Q": 14}, Row(241_412, 2_043_815, 0.910, None)
    ),
}  # fmt: skip


def layer_of(network: str, name: str) -> ConvLayer:
    return next(layer for layer in load_workload(network).layers if layer.name == name)


@pytest.mark.parametrize(("network", "name", "order"), often(6, LAYERS))
def test_layers_are_those_of_dramsim3(network: str, name: str, order: str) -> None:
    """Bytes equal; banked within 5 % of cycles and 2 % of row hits; priced within 10 %."""

    tile, row = LAYERS[network, name, order]
    layer, mapping = layer_of(network, name), Mapping(order.strip(), tile)
    moved = list(transfers_of(layer, ARCH, mapping, FORMATS))
    transfers = [(place, direction) for place, direction, _ in moved]
    banked = saturated(LPDDR4, transfers)
    bits = outer_counts(make_nest(layer, mapping), ARCH, FORMATS, FULL).total("DRAM")
    assert banked.bursts == row.bursts == bits / BURST
    theirs = saturated(own_file(), transfers)
    assert row.lp4 is not None
    assert row.hits is not None
    assert theirs.clocks == pytest.approx(row.lp4, rel=0.05)
    assert theirs.hits == pytest.approx(row.hits, rel=0.02)
    if row.jedec is not None:
        assert banked.clocks == pytest.approx(row.jedec * row.bursts * 8, rel=0.05)
        assert banked.hits == pytest.approx(row.hits, rel=0.02)
    channel = Channel(simpy.Environment(), Timing.of(replace(ARCH, "clock", "1.6 GHz")))
    for _, direction, stay in moved:
        bits_of, service = (
            (stay.arrives, stay.arriving) if direction == "read" else (stay.leaves, stay.leaving)
        )
        _, end = channel.request(bits_of.payload, bits_of.burst, service.clocks, direction)
    priced = banked.clocks if row.jedec is None else row.jedec * row.bursts * 8
    assert end == pytest.approx(priced, rel=0.10)


def reads(bursts, length: int = 1) -> list[Transfer]:
    return [(Place(0, runs(bursts, length)), "read")]


def copy(size: int, bursts: int = 8192) -> list[Transfer]:
    """Blocks that are read and written in turn, in banks apart [B]."""
    each, far = size // 32, (1 << 21) + 4 * ROW
    ways: tuple[tuple[Direction, int], ...] = (("read", 0), ("write", far))
    return [
        (Place(0, runs([base + at * each], each)), way)
        for at in range(bursts // (2 * each))
        for way, base in ways
    ]


def streams(bases: list[int], bursts: int = 12288) -> list[Transfer]:
    """Streams that are read in turn, 256 B each time."""
    starts = [base + at * 8 for at in range(bursts // 8 // len(bases)) for base in bases]
    return reads(starts, 8)


def scattered(bursts: int, length: int) -> list[Transfer]:
    rng = random.Random(1)
    return reads([rng.randrange(1 << 25) * length for _ in range(bursts // length)], length)


PATTERNS = {
    "sequential": (reads([0], 65_536), Row(65_536, 1.051, 0.983, 1.091)),
    "single": (scattered(4_096, 1), Row(4_096, 1.478, 0, 2.24)),
    "random 128 B": (scattered(16_384, 4), Row(16_384, 1.067, 0.748, None)),
    "pitch 576 B": (reads(np.arange(4_096) * 18), Row(4_096, 1.050, 0.718, None)),
    "pitch 16 KiB": (reads(np.arange(2_048) * 512), Row(2_048, 8.27, 0, 13.1)),
    "copy 1 KiB": (copy(1024), Row(8_192, 1.124, 0.983, 1.19)),
    "copy 4 KiB": (copy(4096), Row(8_192, 1.073, 0.983, 1.11)),
    "copy 16 KiB": (copy(16384), Row(8_192, 1.050, 0.982, 1.10)),
    "one bank": (streams([0, 1 << 20, 2 << 20]), Row(12_288, 1.583, 0.874, 1.83)),
    "banks apart": (
        streams([0, (1 << 20) + 2 * ROW, (2 << 20) + 4 * ROW]), Row(12_288, 1.047, 0.982, 1.09)
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", PATTERNS)
def test_patterns_are_those_of_dramsim3(name: str) -> None:
    """Banked within 5 % of cycles and 2 % of row hits."""
    transfers, row = PATTERNS[name]
    for device, factor in ((LPDDR4, row.jedec), (own_file(), row.lp4)):
        own = saturated(device, transfers)
        assert own.bursts == row.bursts
        assert row.hits is not None
        if factor is not None:
            assert own.clocks == pytest.approx(factor * row.bursts * 8, rel=0.05), device.name
            assert own.hits == pytest.approx(row.hits, rel=0.02, abs=0.001), device.name


@pytest.mark.parametrize("seed", often(30, range(600)))
def test_no_transfer_takes_less_than_its_bursts_and_all_of_them_are_moved(seed: int) -> None:
    """Any nest on any device: prices are of whole bursts, as the counts have them."""
    rng = random.Random(seed)
    layer, formats = random_layer(rng), random_formats(rng)
    mapping = random_mapping(rng, layer, formats)
    arch: Arch = random_device(rng, random_arch(rng))
    kept, own = stored(layer, arch), devices()[arch.model_dump()["dram"]["device"]]
    timing = Timing.of(arch)
    stays = streams_of(make_nest(kept, mapping), arch, formats).stays
    for priced in stays.values():
        for stay in priced.prices:
            for moved, service in ((stay.arrives, stay.arriving), (stay.leaves, stay.leaving)):
                bursts, left = divmod(moved.payload + moved.burst, own.burst)
                assert left == 0
                assert service.clocks * arch.dram.bandwidth >= bursts * own.burst * own.clock
                assert (service.activates > 0) == (bursts > 0)
                assert service.activates <= bursts
                cycles = timing.cycles(moved.payload, moved.burst, service.clocks)
                least = service.clocks * arch.clock / own.clock * own.busy_refreshing
                assert cycles >= least or isclose(cycles, least)


def run_one_by_one(rng: random.Random, loops=banks):
    """Single bursts of any banks and rows, read and written, all requested at once.

    Each one's bank, row, direction, and the clock of its command.
    """
    count = 60
    segments = np.zeros((count, loops.SEGMENT_COLUMNS), np.int64)
    segments[:, loops.BANK] = [rng.randrange(BANKS) for _ in range(count)]
    segments[:, loops.ROW] = [rng.randrange(3) for _ in range(count)]
    segments[:, loops.WRITES] = [rng.random() < 0.3 for _ in range(count)]
    segments[:, loops.LEFT], segments[:, loops.TRANSFER] = 1, np.arange(count)
    own, done = banks_of(LPDDR4), np.zeros(count, np.int64)
    every, groups, rank, queues = loops.at_rest(BANKS, 1)
    rank[loops.NEXT_REFRESH] = rng.choice([loops.NEVER, 700])
    asked = segments[:, [loops.BANK, loops.ROW, loops.WRITES]].copy()
    loops.serve(
        *(own.between, own.constants, every, groups, rank, queues, segments, done, loops.NEVER)
    )
    return [(*row, clock) for row, clock in zip(asked.tolist(), done.tolist(), strict=True)]


@pytest.mark.parametrize("seed", range(20))
def test_no_command_comes_too_soon_behind_another(seed: int) -> None:
    """Data pins hold one burst at a time, and turn round; another row of a bank takes a while."""
    served = sorted(run_one_by_one(random.Random(seed)), key=lambda own: own[3])
    after = {(0, 0): 8, (1, 1): 8, (0, 1): 28 + 8 - 14 + 1, (1, 0): 14 + 8 + 16}
    for before, own in pairwise(served):
        assert own[3] - before[3] >= after[before[2], own[2]]
    for bank in range(BANKS):
        of_bank = [own for own in served if own[0] == bank]
        for (_, row, writes, clock), (_, other, _, later) in pairwise(of_bank):
            if row != other:
                closes = clock + (14 + 8 + 29 if writes else 12)
                assert later >= closes + 29 + 29
    assert served[0][3] >= 29


def test_without_numba_the_same_loops_run_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    source = importlib.util.spec_from_file_location("plain_banks", banks.__file__)
    assert source is not None
    plain = importlib.util.module_from_spec(source)
    assert source.loader is not None
    source.loader.exec_module(plain)
    assert not hasattr(plain.serve, "py_func")
    for seed in range(4):
        found = run_one_by_one(random.Random(seed), plain)
        assert found == run_one_by_one(random.Random(seed))
    own, many = banks_of(devices()["ddr4-3200-x64"], 2), runs([0, 3, 70, 1000, 5000], 9)
    given = (own.between, own.constants, many.starts, many.ends, own.radices, own.burst)
    assert plain.alone(*given) == banks.alone(*given)
