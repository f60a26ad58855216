import pytest

from bfpsim.arch import Arch, ArchError, load_arch
from bfpsim.mapping.mapper import find_mapping
from bfpsim.mapping.models import EXACT, compulsory_counts, model_counts
from bfpsim.mapping.nest import MappingError
from bfpsim.quant.formats import BFP, LayerFormats, Plain
from bfpsim.search.buffers import sweep_capacity
from bfpsim.sim.simulate import simulate_layers
from bfpsim.workloads import ConvLayer, Network, NetworkBuilder

CAPACITIES = ("1 KiB", "2 KiB", "4 KiB", "8 KiB", "32 KiB")
BFP8 = LayerFormats.uniform(BFP(8, 3, 16))


@pytest.fixture(scope="module")
def network() -> Network:
    build = NetworkBuilder("tiny", input_shape=(1, 12, 12, 8))
    x = build.conv("conv1", "input", 16, kernel=3, padding=1)
    left = build.conv("conv2", x, 32, kernel=3, stride=2, padding=1)
    right = build.conv("downsample", x, 32, kernel=1, stride=2)
    x = build.add("add", left, right)
    x = build.conv("conv3", x, 32, kernel=3, padding=1)
    x = build.conv("conv4", x, 32, kernel=3, padding=1)
    build.conv("fc", build.avgpool("pool", x), 10, kernel=1)
    return build.network()


@pytest.fixture(scope="module")
def edge() -> Arch:
    return load_arch("ideal-64k")


def test_a_larger_buffer_never_moves_more_and_no_buffer_less_than_compulsory(network, edge):
    steps = []
    sweep = sweep_capacity(network, edge, BFP8, CAPACITIES, steps.append)

    assert sweep["capacity_bits"].tolist() == [8192, 16384, 32768, 65536, 262144]
    assert sweep["dram_bits"].is_monotonic_decreasing
    assert sweep["dram_bits"].iloc[0] > sweep["dram_bits"].iloc[-1]
    assert (sweep["exact_bits"] == sweep["dram_payload_bits"]).all()
    assert (sweep["dram_payload_bits"] >= sweep["compulsory_bits"]).all()
    assert (sweep["dram_bits"] >= sweep["dram_payload_bits"]).all()
    waits = sweep[["stall_I_cycles", "stall_W_cycles", "stall_O_cycles"]].sum(axis=1)
    assert (sweep["cycles"] == sweep["compute_cycles"] + waits).all()
    assert steps[:2] == ["1 KiB: conv1", "1 KiB: conv2"]
    assert len(steps) == len(CAPACITIES) * len(network.layers)


def test_a_row_is_the_simulation_at_that_capacity(network, edge):
    row = sweep_capacity(network, edge, BFP8, ["64 KiB"]).iloc[0]
    result = simulate_layers(network, edge, BFP8)

    by_level = result.traffic.groupby("level")
    assert row["dram_bits"] == by_level["bits"].sum()["DRAM"]
    assert row["energy_pj"] == result.energy_pj
    assert row["dram_energy_pj"] == row["dram_bits"] * 20
    assert row["sram_energy_pj"] == pytest.approx(by_level["energy_pj"].sum()["SRAM"])
    assert row["compulsory_energy_pj"] == row["compulsory_bits"] * 20
    assert row["cycles"] == result.cycles
    assert (row["network"], row["arch"], row["formats"]) == ("tiny", "ideal-64k", "bfp8e3b16")


def test_formats_by_layer(network, edge):
    by_layer = {layer.name: BFP8 for layer in network.layers}
    same = sweep_capacity(network, edge, by_layer, ["4 KiB"])
    wider = sweep_capacity(
        network, edge, by_layer | {"conv3": LayerFormats.uniform(Plain(16))}, ["4 KiB"]
    )

    assert same["formats"].tolist() == ["by layer"]
    assert same["dram_bits"][0] == sweep_capacity(network, edge, BFP8, ["4 KiB"])["dram_bits"][0]
    assert wider["compulsory_bits"][0] > same["compulsory_bits"][0]


def test_a_capacity_without_a_legal_mapping_is_named_with_its_layer(network, edge):
    with pytest.raises(MappingError, match=r"^capacity 64 B: conv1: no mapping fits ideal-64k"):
        sweep_capacity(network, edge, BFP8, ["64 KiB", "64 B"])


def test_what_is_refused_before_anything_runs(network, edge):
    steps = []
    with pytest.raises(ArchError, match=r"has a buffer per tensor.*one shared buffer"):
        sweep_capacity(network, load_arch("ideal-64k-split"), BFP8, CAPACITIES, steps.append)
    with pytest.raises(ArchError, match="'64' has no unit"):
        sweep_capacity(network, edge, BFP8, ["64 KiB", "64"], steps.append)
    assert steps == []


def test_compulsory_input_leaves_out_what_strides_step_over(edge):
    # 1x1, stride 2: of 8 x 8 stored pixels, rows and columns 0, 2, 4, 6 are needed.
    layer = ConvLayer("down", K=16, C=16, P=4, Q=4, R=1, S=1, stride=2, H=8, W=8)
    counts = compulsory_counts(layer, edge, BFP8)
    assert counts.total("DRAM", "I") == 4 * 4 * (16 * 5 + 3)
    assert counts.total("DRAM", "W") == 16 * (16 * 5 + 3)
    assert counts.total("DRAM", "O") == 4 * 4 * (16 * 5 + 3)

    mapping = find_mapping(layer, edge, BFP8)
    assert model_counts(layer, edge, mapping, BFP8, EXACT).total("DRAM") == counts.total()
