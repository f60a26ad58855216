"""Solvers side by side: two proofs of one optimum, and the paper's relaxation."""

from dataclasses import replace

import pytest

from bfpsim.arch import ArchError, load_arch
from bfpsim.quant.formats import BFP, LayerFormats
from bfpsim.search.solvers import compare_solvers
from bfpsim.workloads import Network, Node, load_workload


def test_enumeration_and_scip_prove_the_same_optimum() -> None:
    layer = replace(load_workload("resnet18").layers[20], name="fc")
    source = Node("input", "input", input_shape=layer.input_shape)
    network = Network("one", (source, Node("fc", "conv", ("input",), layer=layer)))
    seen: list[str] = []
    frame = compare_solvers(
        network,
        load_arch("ideal-64k"),
        LayerFormats.uniform(BFP(8, 3, 16)),
        ("enumerate", "scip", "relaxed"),
        20.0,
        seen.append,
    )
    assert seen == ["fc: enumerate", "fc: scip", "fc: relaxed"]
    enumerated, scip, relaxed = frame.to_dict(orient="records")
    assert enumerated["dram_bits"] == scip["dram_bits"] == scip["objective"]
    assert scip["status"] == "optimal"
    assert scip["bound"] == pytest.approx(scip["objective"], rel=1e-5)
    assert relaxed["dram_bits"] >= enumerated["dram_bits"]
    assert relaxed["bound"] <= relaxed["objective"]


def test_solvers_of_two_levels_refuse_more() -> None:
    network, formats = load_workload("resnet18-fashion"), LayerFormats.uniform(BFP(8, 3, 16))
    with pytest.raises(ArchError, match=r"\(ibuf, acc\), which scip and relaxed know"):
        compare_solvers(
            network, load_arch("edge-64k"), formats, ("enumerate", "scip", "relaxed"), 1.0
        )
