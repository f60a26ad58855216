"""Row stationary, as Eyeriss has it (JSSC 2017): rows of filters over rows of PEs, of outputs over
columns, registers of 12 words for I, 224 for W, 24 for O."""

import pytest

from bfpsim.arch import Arch, parse_arch
from bfpsim.mapping.closed.levels import inner_counts, steady_cycles
from bfpsim.mapping.fit import check
from bfpsim.mapping.inner import InnerMapper
from bfpsim.mapping.nest import Mapping, Nest, make_nest
from bfpsim.quant.formats import LayerFormats, Plain
from bfpsim.workloads import ConvLayer

WORDS = LayerFormats.uniform(Plain(16))

CONV2 = ConvLayer("CONV2", N=4, G=2, K=128, C=48, P=27, Q=27, R=5, S=5, padding=2)
CONV3 = ConvLayer("CONV3", N=4, K=384, C=256, P=13, Q=13, R=3, S=3, padding=1)
CONV4 = ConvLayer("CONV4", N=4, G=2, K=192, C=192, P=13, Q=13, R=3, S=3, padding=1)
CONV5 = ConvLayer("CONV5", N=4, G=2, K=128, C=192, P=13, Q=13, R=3, S=3, padding=1)


def eyeriss(over: str = "K") -> Arch:
    return parse_arch(
        f"""
        name: eyeriss
        clock: 200 MHz
        dram: {{bandwidth: 1 GB/s, latency: 100 ns, burst: 8 B, energy: 12 pJ/bit}}
        sram: {{capacity: 108 KiB, width: 64 bit, energy: 0.36 pJ/bit}}
        pe_array:
          rows: {{size: 12, dim: R, over: {over}}}
          cols: {{size: 14, dim: P}}
          stationary: weight
          mac_bits: 16
          accumulator_bits: 16
          registers:
            input: {{capacity: 24 B, energy: 0.06 pJ/bit}}
            weight: {{capacity: 448 B, energy: 0.06 pJ/bit}}
            output: {{capacity: 48 B, energy: 0.06 pJ/bit}}
        """,
        "eyeriss.yaml",
    )


def mapped(layer: ConvLayer, outer: Mapping, arch: Arch) -> tuple[Nest, Mapping]:
    """The fastest way to cut what the buffer holds for registers, and of these the thriftiest."""
    got = InnerMapper(arch, WORDS).best(make_nest(layer, outer), "latency")
    assert got is not None
    nest = check(layer, arch, Mapping(outer.order, outer.tile, got.mappings), WORDS)
    return nest, got.mappings["registers"]


@pytest.mark.parametrize(
    ("layer", "tile", "published"),
    [
        (CONV2, {"N": 1, "G": 1, "K": 32, "C": 8}, 135),
        (CONV3, {"K": 64, "C": 8}, 156),
        (CONV4, {"G": 1, "K": 64, "C": 8}, 156),
        (CONV5, {"G": 1, "K": 64, "C": 8}, 156),
    ],
)
def test_as_many_pes_work_as_published(
    layer: ConvLayer, tile: dict[str, int], published: int
) -> None:
    arch = eyeriss()
    nest, inner = mapped(layer, Mapping("NGKC", tile), arch)
    assert layer.macs / steady_cycles(nest, arch, WORDS) == published
    # A row of I slides by in each PE under a whole row of a filter, which stays.
    assert inner.order[-1] == "Q"
    assert inner.tile["Q"] == 1
    assert not set(inner.tile) & {"R", "S"}


def test_what_moves_in_one_layer_by_hand() -> None:
    """CONV3, one image: 4 channels and 64 filters at a time, 16 in each of 4 sets of 3 x 13 PEs."""
    layer = ConvLayer("CONV3", K=384, C=256, P=13, Q=13, R=3, S=3, padding=1)
    arch = eyeriss()
    inner = Mapping("CQ", {"C": 4, "Q": 1})
    nest = check(layer, arch, Mapping("KC", {"K": 64, "C": 32}, {"registers": inner}), WORDS)
    counts, cycles = inner_counts(nest, arch, WORDS)

    def words(level: str, tensor: str, direction: str) -> float:
        return float(counts.total(level, tensor, direction)) / 16  # type: ignore[arg-type]

    pixels, filters, outputs = 13 * 13 * 256, 384 * 256 * 9, 384 * 13 * 13
    assert words("SRAM", "I", "read") == 6 * pixels  # again for every 64 filters
    assert words("SRAM", "W", "read") == filters
    assert words("SRAM", "O", "read") == 63 * outputs  # 64 times 4 channels
    assert words("SRAM", "O", "write") == 64 * outputs
    # A row of I goes to each output that it is for, by 3 taps less the 2 rows of padding.
    assert words("registers", "I", "write") == 6 * 256 * 13 * (13 * 3 - 2) * 4
    assert words("registers", "W", "write") == filters * 13
    assert words("registers", "W", "read") == layer.macs
    inputs = 384 * 256 * (13 * 3 - 2) * (13 * 3 - 2)
    assert words("registers", "I", "read") == inputs
    # Three PEs, one for each row of a filter, share a sum.
    sums = layer.macs - 3 * 64 * outputs + 63 * outputs
    assert words("registers", "O", "read") == sums + 3 * 64 * outputs
    assert words("registers", "O", "write") == layer.macs + 63 * outputs
    assert cycles == layer.macs / 156


def test_sets_of_pes_that_share_sums_read_fewer_of_them() -> None:
    """Rows of R over C add four channels where over K they hold four filters."""
    outer = Mapping("KC", {"K": 64, "C": 8})
    reads = []
    for over in "KC":
        arch = eyeriss(over)
        nest, _ = mapped(CONV3, outer, arch)
        reads.append(float(inner_counts(nest, arch, WORDS)[0].total("SRAM", "O", "read")))
    assert reads[0] == 2 * reads[1] + 384 * 13 * 13 * 4 * 16  # 63 times, and 31
