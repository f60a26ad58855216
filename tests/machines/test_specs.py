"""The specs of known machines: each takes a small layer as its array says.

The layer has 64 channels, 64 filters, 8 x 8 outputs and 3 x 3 taps.
"""

import pytest

import bfpsim as bs
from bfpsim.mapping.inner import InnerMapper
from bfpsim.mapping.nest import Mapping, make_nest

LAYER = bs.ConvLayer("small", K=64, C=64, P=8, Q=8, R=3, S=3, padding=1)

CASES = {
    # 4 x 4 folds x 9 taps, 64 pixels each; once the preload of 16 rows, and skew and drain.
    "gemmini-16": (Mapping(), 4 * 4 * 9 * 64 + 16 + 30),
    # Each tap is one load: 64 pixels for 64 rows to preload.
    "tpu-edge-64x64": (Mapping(), 9 * 64 + 64 + 126),
    "nvdla-small": (Mapping(inner={"acc": Mapping("PK", {"P": 2, "K": 8})}), 8 * 8 * 9 * 64),
    # Half of the columns idle; 32 pixels x 64 sums fit.
    "nvdla-large": (Mapping(inner={"acc": Mapping("P", {"P": 4})}), 4 * 1 * 9 * 64),
    # 16 micro-blocks x 8 x 8 x 9, and what SRAM's port of 8 B takes longer than the first 64
    # cycles of each of the 4 blocks of I, 8 x 8 x 32 beside 256 weights, and than the last 64 of
    # the 2 of O.
    "ethos-u55-256": (
        Mapping(
            inner={
                "shram": Mapping("KC", {"K": 32, "C": 32}),
                "weights": Mapping("KRS", {"K": 8, "R": 1, "S": 1}),
            }
        ),
        16 * 8 * 8 * 9 + 4 * ((2048 + 256) // 8 - 64) + 2 * (2048 // 8 - 64),
    ),
    # Twice as wide, and so are its ports.
    "ethos-u65-512": (
        Mapping(
            inner={
                "shram": Mapping("KC", {"K": 32, "C": 32}),
                "weights": Mapping("KRS", {"K": 16, "R": 1, "S": 1}),
            }
        ),
        16 * 8 * 4 * 9 + 4 * ((2048 + 512) // 16 - 64) + 2 * (2048 // 16 - 64),
    ),
    # 3 rows of a filter take 3 of 12 PEs, so 4 channels at once; 8 of 14 columns.
    "eyeriss-v1": (
        Mapping(inner={"registers": Mapping("KCQ", {"K": 16, "C": 16, "Q": 1})}),
        64 * 16 * 3 * 8,
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_a_small_layer_takes_the_cycles_counted_by_hand(name: str) -> None:
    arch = bs.load_arch(name)
    mapping, cycles = CASES[name]
    formats = bs.LayerFormats.uniform(bs.Plain(arch.pe_array.mac_bits))
    assert bs.simulate(LAYER, arch, mapping, formats).compute_cycles == cycles


@pytest.mark.parametrize(("name", "filters"), [("ethos-u55-256", 8), ("ethos-u65-512", 16)])
def test_the_mapper_cuts_taps_where_a_fold_of_all_does_not_fit(name: str, filters: int) -> None:
    """A fold of 8 channels has 9 x 8 weights a filter, the decoder's buffer room for 32.

    Cut so, all lanes work all the time: 16 micro-blocks of 2 x 2, 8 folds of C, 9 taps.
    """
    int8 = bs.LayerFormats.uniform(bs.Plain(8))
    inner = InnerMapper(bs.load_arch(name), int8).best(make_nest(LAYER, Mapping()), "latency", 6)
    assert inner is not None
    assert inner.cost == inner.bound == 16 * 8 * 9 * (64 // filters)


def test_the_mapper_does_not_fetch_weights_for_each_pixel() -> None:
    """1 x 1 on every other pixel: a tile of one pixel would fetch 8 KiB at 8 B a cycle."""
    layer = bs.ConvLayer("down", K=128, C=64, P=28, Q=28, R=1, S=1, stride=2)
    int8 = bs.LayerFormats.uniform(bs.Plain(8))
    ethos = InnerMapper(bs.load_arch("ethos-u55-256"), int8)
    inner = ethos.best(make_nest(layer, Mapping()), "latency", 6)
    assert inner is not None
    assert inner.cost < 2 * layer.macs / 256


@pytest.mark.parametrize(
    ("name", "macs"),
    [
        ("nvdla-large", 2048),
        ("nvdla-small", 64),
        ("gemmini-16", 256),
        ("ethos-u55-256", 256),
        ("ethos-u65-512", 512),
        ("tpu-edge-64x64", 4096),
        ("eyeriss-v1", 168),
    ],
)
def test_machines_have_the_multipliers_that_their_makers_name(name: str, macs: int) -> None:
    assert bs.load_arch(name).pe_array.size == macs


def test_peak_rates_are_the_published_ones() -> None:
    """Of the Edge TPU 4 TOPS, of NVDLA's sheet 4.096 at 1 GHz, of the Ethos-U65 1.024."""

    def tops(name: str) -> float:
        arch = bs.load_arch(name)
        return float(2 * arch.pe_array.size * arch.clock / 10**12)

    assert tops("tpu-edge-64x64") == pytest.approx(4, rel=0.02)
    assert tops("nvdla-large") == 4.096
    assert tops("ethos-u65-512") == 1.024
