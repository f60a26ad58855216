"""Validation reports what the models and the simulator say, and notices when they disagree."""

import random
from dataclasses import replace
from fractions import Fraction

import pytest

from bfpsim.arch import load_arch
from bfpsim.mapping.cycles import ArrayCycles
from bfpsim.mapping.nest import Mapping, MappingError
from bfpsim.quant.formats import BFP, LayerFormats, Plain
from bfpsim.sim.validate import CYCLE_RUNGS, Validation, validate
from bfpsim.workloads import Network, NetworkBuilder, Node, load_workload
from tests.generate import (
    deep_arch,
    random_formats,
    random_layer,
    random_machine,
    random_nested_mapping,
)
from tests.long import often

FORMATS = LayerFormats.uniform(BFP(8, 3, 16))


def test_resnet18_agrees_on_every_shipped_architecture_but_one_bit_would_show() -> None:
    validation = validate(load_workload("resnet18-fashion"), load_arch("ideal-64k-split"), FORMATS)
    assert validation.agrees
    assert [v.layer for v in validation.layers] == [
        layer.name for layer in load_workload("resnet18-fashion").layers
    ]
    for v in validation.layers:
        assert v.paper + sum(v.rungs.values()) == v.simulated
        assert replace(v, simulated=v.simulated + 1).agrees is False
        inside = {"SRAM": v.simulated_inside["SRAM"] - 1}
        assert replace(v, simulated_inside=inside).agrees is False
        assert replace(v, exact=v.exact + 1).agrees is False


def test_the_total_row_is_the_sum_of_the_layers() -> None:
    validation = validate(load_workload("resnet18-fashion"), load_arch("ideal-16k"), FORMATS)
    frame = validation.to_frame()
    layers, total = frame.iloc[:-1], frame.iloc[-1]
    for column in ("exact_bits", "simulated_bits", "simulated_sram_bits"):
        assert layers[column].sum() == total[column]
    assert float(sum((v.paper for v in validation.layers), Fraction(0))) == total["paper_bits"]
    assert total["energy_pj"] == validation.simulated.energy_pj


def test_a_given_mapping_is_used_and_an_illegal_one_named() -> None:
    network = load_workload("resnet18-fashion")
    given = {"fc": Mapping("C", {"C": 32})}
    validation = validate(network, load_arch("ideal-64k"), FORMATS, given)
    assert validation.simulated.layers[-1].mapping == given["fc"]
    with pytest.raises(MappingError, match="fc: tile C=999"):
        validate(network, load_arch("ideal-64k"), FORMATS, {"fc": Mapping("C", {"C": 999})})


# --- cycles, and levels inside SRAM -------------------------------------------------------------


@pytest.fixture(scope="module")
def deep() -> Validation:
    build = NetworkBuilder("tiny", input_shape=(1, 12, 12, 12))
    x = build.conv("conv1", "input", 32, kernel=3, padding=1)
    build.conv("conv2", x, 32, kernel=3, padding=1, stride=2)
    inner = {
        "in": Mapping("CP", {"C": 8, "P": 2}),
        "acc": Mapping("RPQ", {"P": 1, "Q": 5, "R": 1}),
    }
    mappings = {
        "conv1": Mapping("KP", {"K": 16, "P": 5}, inner),
        "conv2": Mapping("CKP", {"K": 16, "P": 4, "C": 16}),
    }
    return validate(build.network(), deep_arch(), FORMATS, mappings)


def test_every_level_and_every_cycle_agree_and_one_more_would_show(deep: Validation) -> None:
    assert deep.agrees
    for v in (*deep.layers, deep.total):
        assert [*v.simulated_inside] == ["SRAM", "in", "acc"]
        for level, bits in v.simulated_inside.items():
            off = v.simulated_inside | {level: bits + 1}
            assert not replace(v, simulated_inside=off).agrees
        ladder = v.cycles
        for name in ArrayCycles._fields:
            more = getattr(ladder.counted, name) + 1
            assert not replace(ladder, counted=ladder.counted._replace(**{name: more})).agrees
        wrong = replace(ladder, simulated=ladder.simulated + 1)
        assert not replace(v, cycles=wrong).agrees
        assert replace(v, cycles=wrong).bits_agree


def test_rungs_lead_from_multiplications_to_the_simulated_cycles(deep: Validation) -> None:
    for v, result in zip(deep.layers, deep.simulated.layers, strict=True):
        rungs = v.cycles.rungs
        assert tuple(rungs) == CYCLE_RUNGS
        assert v.cycles.ideal == Fraction(result.layer.macs, 256)
        assert v.cycles.ideal + sum(rungs.values()) == result.cycles
        assert rungs["fill"] == result.fill_cycles > 0
        assert rungs["port"] == result.port_cycles > 0
        assert rungs["stall"] == sum(result.stalls.values())
    # conv1 multiplies 8 and 4 of its 12 channels at once, on 16 rows; conv2 takes 16 and 16.
    first, second = (v.cycles for v in deep.layers)
    assert first.rungs["folds"] == 2 * 9 * 144 * 2 - first.ideal
    assert second.rungs["folds"] == 0


def test_the_frame_has_a_column_per_level_and_per_rung(deep: Validation) -> None:
    frame = deep.to_frame()
    layers, total = frame.iloc[:-1], frame.iloc[-1]
    for column in ("exact_acc_bits", "simulated_in_bits", "cycles", "port_cycles", "ideal_cycles"):
        assert layers[column].sum() == total[column] > 0
    rungs = [f"{name}_cycles" for name in CYCLE_RUNGS]
    assert (frame["ideal_cycles"] + frame[rungs].sum(axis=1) == frame["cycles"]).all()
    assert (frame["exact_in_bits"] == frame["simulated_in_bits"]).all()


def test_wide_operands_are_a_rung_of_their_own() -> None:
    network = load_workload("resnet18-fashion")
    wide = LayerFormats(Plain(16), Plain(8), Plain(8))  # 11 bits of significand: two passes
    validation = validate(network, load_arch("ideal-64k"), wide)
    assert validation.agrees
    assert all(v.cycles.rungs["passes"] == v.cycles.ideal for v in validation.layers)


@pytest.mark.parametrize("seed", often(40, range(1000)))
def test_random_machines_of_two_to_five_levels_agree(seed: int) -> None:
    """Bits of every level and every rung of cycles; mappings that are not legal are drawn again."""
    rng = random.Random(seed)
    while True:
        layer, formats = random_layer(rng), random_formats(rng)
        arch = random_machine(rng, rng.choice(["1 bit", "32 B"]))
        mapping = random_nested_mapping(rng, layer, formats, arch)
        nodes = (
            Node("input", "input", input_shape=layer.input_shape),
            Node("random", "conv", ("input",), layer=layer),
        )
        try:
            validation = validate(Network("one", nodes), arch, formats, {"random": mapping})
        except MappingError:
            continue
        break
    assert validation.agrees
    (v,) = validation.layers
    assert v.cycles.ideal + sum(v.cycles.rungs.values()) == validation.simulated.cycles
