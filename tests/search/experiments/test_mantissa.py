"""Energy at each width of the weights, by hand and by the simulator; studies of mantissas."""

import pandas as pd
import pytest

from bfpsim.arch import replace
from bfpsim.mapping.nest import MappingError
from bfpsim.quant.formats import LayerFormats, Plain
from bfpsim.quant.mantissa.minifloat import BF16, FP16, MiniFloat
from bfpsim.search.experiments import mantissa
from bfpsim.search.experiments.mantissa import (
    distinct_widths,
    measure_energy,
    study_mantissa,
    study_tolerance,
    study_weights,
)
from bfpsim.sim.simulate import simulate_layers
from bfpsim.workloads import NetworkBuilder, load_with_weights

FORMATS = [BF16, FP16, MiniFloat(8, 23), MiniFloat(8, 0), MiniFloat(2, 6), MiniFloat(2, 0)]
WIDTHS = [16, 16, 32, 9, 9, 3]


@pytest.fixture(scope="module")
def linear():
    """8 outputs of 6 inputs: one tile, one fold of the array, no partial sum."""
    build = NetworkBuilder("one", input_shape=(1, 1, 1, 6))
    build.conv("fc", "input", 8, kernel=1)
    return build.network()


@pytest.fixture(scope="module")
def network():
    build = NetworkBuilder("tiny", input_shape=(1, 12, 12, 8))
    x = build.conv("conv1", "input", 16, kernel=3, padding=1)
    x = build.conv("conv2", x, 32, kernel=3, stride=2, padding=1)
    build.conv("fc", build.avgpool("pool", x), 10, kernel=1)
    return build.network()


@pytest.mark.parametrize("activations", [False, True])
def test_a_layer_by_hand(linear, edge, activations) -> None:
    """Each element crosses the DRAM channel once, and is written to the SRAM and read once."""
    exact = replace(edge, "dram.burst", "1 bit")
    frame = measure_energy(linear, exact, FORMATS, activations=activations)
    assert list(frame["format"]) == list(map(str, FORMATS))
    assert list(frame["bits"]) == WIDTHS
    original = (6 + 48 + 8) * 32 * (20 + 2 * 0.16)
    for row, width in zip(frame.to_dict(orient="records"), WIDTHS, strict=True):
        weights, others = 48 * width, (6 + 8) * (width if activations else 32)
        assert (row["dram_weight_bits"], row["dram_bits"]) == (weights, weights + others)
        assert row["dram_energy_pj"] == pytest.approx(20 * (weights + others))
        assert row["sram_energy_pj"] == pytest.approx(0.16 * 2 * (weights + others))
        energy = row["dram_energy_pj"] + row["sram_energy_pj"]
        assert row["energy_pj"] == pytest.approx(energy)
        assert row["energy_saved"] == pytest.approx(1 - energy / original)
    assert list(frame["energy_saved"] == 0) == [width == 32 for width in WIDTHS]


def test_bursts_and_partial_sums_are_the_simulators(network, edge) -> None:
    (row,) = measure_energy(network, edge, [MiniFloat(5, 2)]).to_dict(orient="records")
    counts = [
        layer.counts
        for layer in simulate_layers(
            network, edge, LayerFormats(Plain(32), Plain(8), Plain(32))
        ).layers
    ]
    bursts, sums = (sum(c.total(kind=kind) for c in counts) for kind in ("burst", "psum"))
    assert bursts > 0
    assert sums > 0
    dram, sram = (sum(c.total(level) for c in counts) for level in ("DRAM", "SRAM"))
    assert row["dram_bits"] == dram
    assert row["dram_weight_bits"] == sum(c.total("DRAM", "W") for c in counts)
    assert row["energy_pj"] == pytest.approx(20 * dram + 0.16 * sram)


@pytest.mark.parametrize("activations", [False, True])
def test_a_product_of_activations_has_no_weights(edge, activations) -> None:
    """Keys stand where weights do, but are as wide as the activations that they are."""
    build = NetworkBuilder("attention", input_shape=(1, 1, 4, 6))
    queries, keys = build.linear("q", "input", 6), build.linear("k", "input", 6)
    build.matmul("scores", queries, keys, 4)
    exact = replace(edge, "dram.burst", "1 bit")
    (row,) = measure_energy(
        build.network(), exact, [MiniFloat(2, 1)], activations=activations
    ).to_dict(orient="records")
    weights, others = 2 * 36 * 4, (4 * (4 * 6) + 2 * (4 * 6) + 4 * 4) * (4 if activations else 32)
    assert (row["dram_weight_bits"], row["dram_bits"]) == (weights, weights + others)


def test_each_width_is_simulated_once(network, edge, monkeypatch) -> None:
    ran = []

    def counted(network, arch, formats):
        ran.append(formats["fc"].W.bits)
        return simulate_layers(network, arch, formats)

    monkeypatch.setattr(mantissa, "simulate_layers", counted)
    done = []
    formats = [*FORMATS[3:], *FORMATS]  # float32 is run first, to compare with
    measure_energy(network, edge, formats, progress=done.append)
    assert ran == [32, 9, 3, 16]
    assert done == ["32 bit", "9 bit", "3 bit", "16 bit"]
    assert distinct_widths(formats) == distinct_widths([BF16, *FORMATS[3:]]) == len(ran)


def test_a_buffer_that_is_too_small_names_the_layer(network, edge) -> None:
    with pytest.raises(MappingError, match="conv1"):
        measure_energy(network, replace(edge, "sram.capacity", "256 bit"), FORMATS)


def test_a_study_has_accuracy_energy_and_errors_of_each_format(module, images, edge) -> None:
    study = study_mantissa(module, images, edge, name="net", within=1.0)
    assert len(study.accuracy) == len(study.weights.energy) == 7 * 24
    assert list(study.weights.energy["top1"]) == list(study.accuracy["top1"])
    assert study.top1_fp32 == 1
    # With all to lose, no bit is needed.
    assert (study.fewest_mantissa_bits, study.fewest_exponent_bits) == (0, 2)
    saved = study.weights.energy.set_index("format")["energy_saved"]
    assert study.energy_saved(2, 0) == saved["e2m0"] > study.energy_saved(8, 0) > 0
    assert study.energy_saved(8, None) is None
    assert study.errors["format"].unique().tolist() == ["e8m3"]
    assert study.weights.size == 4 * 49 + 64 * 10


def test_weights_alone_are_those_of_the_module(module, images, edge) -> None:
    network, weights = load_with_weights(module, {"input": (1, 1, 28, 28)})
    alone = study_weights(network, weights, edge)
    assert alone.name == "Sequential"
    assert alone.layers["layer"].tolist() == ["0", "3"]
    whole = study_mantissa(module, images, edge).weights
    assert (alone.size, alone.kurtosis) == (whole.size, pytest.approx(whole.kurtosis))
    pd.testing.assert_frame_equal(alone.energy, whole.energy[[*alone.energy]])


def test_several_networks_stand_side_by_side(module, images) -> None:
    study = study_tolerance({"one": module, "other": module}, images, within=0.0)
    assert study.networks["model"].tolist() == ["one", "other"]
    assert study.accuracy["model"].tolist() == ["one"] * 9 + ["other"] * 9
    own = [rows.drop(columns="model") for _, rows in study.accuracy.groupby("model")]
    assert own[0].reset_index(drop=True).equals(own[1].reset_index(drop=True))
