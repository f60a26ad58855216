"""Validation reports what the models and the simulator say, and notices when they disagree."""

from dataclasses import replace
from fractions import Fraction

import pytest

from bfpsim.arch import load_arch
from bfpsim.mapping.nest import Mapping, MappingError
from bfpsim.quant.formats import BFP, LayerFormats
from bfpsim.sim.validate import validate
from bfpsim.workloads import load_workload

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
