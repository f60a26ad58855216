from dataclasses import replace
from fractions import Fraction

import pytest

from bfpsim.arch import load_arch
from bfpsim.arch import replace as with_value
from bfpsim.mapping.mapper import find_mapping
from bfpsim.mapping.models import compulsory_counts
from bfpsim.mapping.nest import MappingError
from bfpsim.quant.formats import BFP, LayerFormats, Plain
from bfpsim.search.sweep.evaluate import attempt, evaluate
from bfpsim.search.sweep.point import Point, program
from bfpsim.search.sweep.record import Models, Record
from bfpsim.sim.simulate import simulate
from bfpsim.sim.validate import validate
from bfpsim.workloads import ConvLayer, Network, Node


def test_a_record_is_the_simulation_of_every_layer(point, network):
    record = evaluate(point)
    assert [layer.layer for layer in record.layers] == ["conv1", "conv2", "fc"]
    for layer, kept in zip(network.layers, record.layers, strict=True):
        formats = point.formats_by_layer[layer.name]
        mapping = find_mapping(layer, point.arch, formats, model="full")
        result = simulate(layer, point.arch, mapping, formats)
        assert kept.mapping == mapping
        assert kept.traffic == result.counts
        assert kept.stalls == result.stalls
        assert (kept.cycles, kept.compute_cycles) == (result.cycles, result.compute_cycles)
        assert kept.steady_cycles == result.steady_cycles
        assert kept.fill_cycles == result.fill_cycles == 0
        assert (kept.steps, kept.transfers) == (result.steps, result.transfers)
        floor = compulsory_counts(layer, point.arch, formats)
        assert kept.compulsory == {tensor: floor.total("DRAM", tensor) for tensor in "IWO"}
        assert kept.macs == layer.macs


def test_its_models_are_those_of_validate(point, network):
    record = evaluate(point)
    assert_models_of_validate(record, point)
    for layer in record.layers:
        models = layer.models
        assert models.paper + sum(models.rungs.values()) == layer.traffic.total("DRAM")
    assert all(layer.models is None for layer in evaluate(replace(point, ladder=False)).layers)


def assert_models_of_validate(record: Record, point: Point) -> None:
    mappings = {one.layer: one.mapping for one in record.layers}
    validation = validate(point.network, point.arch, point.formats_by_layer, mappings)
    for expected, kept in zip(validation.layers, record.layers, strict=True):
        assert kept.models == Models(
            expected.exact,
            expected.paper,
            expected.exact_inside,
            expected.paper_inside,
            expected.rungs,
        )


def test_repeats_are_in_the_sums():
    layer = ConvLayer("scores", K=8, C=4, P=6, Q=1)
    nodes = (
        Node("input", "input", input_shape=(3, 6, 1, 4)),
        Node("keys", "input", input_shape=(3, 8, 4, 1)),
        Node("scores", "matmul", ("input", "keys"), layer=layer, repeats=3),
    )
    formats = (LayerFormats.uniform(BFP(8, 3, 16)),)
    arch = load_arch("ideal-16k")
    point = Point(Network("attention", nodes), arch, formats)
    (kept,) = (record := evaluate(point)).layers
    assert_models_of_validate(record, point)
    once = simulate(layer, arch, find_mapping(layer, arch, formats[0], model="full"), formats[0])
    assert kept.macs == 3 * layer.macs
    assert kept.cycles == 3 * once.cycles
    assert kept.traffic == once.counts.scaled(3)
    assert sum(kept.compulsory.values()) == 3 * int(
        compulsory_counts(layer, arch, formats[0]).total()
    )


@pytest.mark.parametrize("ladder", [True, False])
def test_json_keeps_everything(point, ladder):
    record = evaluate(replace(point, ladder=ladder, formats=(*point.formats[:-1], _PLAIN)))
    text = record.to_json()
    again = Record.from_json(text)
    assert again == record
    assert again.to_json() == text
    assert "\n" not in text
    # conv1 and conv2 are alike: what they have in common is written once.
    assert text.count('"order"') == 2


_PLAIN = LayerFormats.uniform(Plain(16))


def test_fractions_of_bits_are_exact(point):
    record = evaluate(point)
    third = replace(record.layers[0].models, paper=Fraction(1, 3))
    odd = replace(record, layers=(replace(record.layers[0], models=third),))
    assert Record.from_json(odd.to_json()).layers[0].models.paper == Fraction(1, 3)


@pytest.mark.parametrize("objective", ["dram", "energy", "latency"])
def test_what_neighbours_share_is_what_each_would_find(point, network, objective):
    # The first evaluation fills the memory of mappings that the others look into.
    starved = {
        "dram.bandwidth": "100 MB/s",
        "clock": "10 MHz",
        "dram.energy": "0 pJ/bit",
        "sram.energy": "100 pJ/bit",
        "dram.latency": "1 ms",
        "dram.burst": "1 KiB",
        "sram.capacity": "1 KiB",
        "pe_array.rows.size": 2,
        "pe_array.accumulator_bits": 64,
        "dma.halo": "none",
    }
    for path, value in (("name", "first"), *starved.items()):
        arch = with_value(point.arch, path, value)
        record = evaluate(replace(point, arch=arch, objective=objective))
        for layer, kept in zip(network.layers, record.layers, strict=True):
            mapping = find_mapping(layer, arch, point.formats[0], objective=objective, model="full")
            assert kept.mapping == mapping, path
        assert_models_of_validate(record, replace(point, arch=arch))


def test_an_attempt_says_why_there_is_no_record(point):
    small = replace(point, arch=with_value(point.arch, "sram.capacity", "16 B"))
    with pytest.raises(MappingError) as expected:
        find_mapping(point.network.layers[0], small.arch, point.formats[0])
    outcome = attempt(small, program())
    assert outcome.record is None
    assert outcome.error == str(expected.value)
    assert outcome.error.startswith("conv1: no mapping fits ideal-16k")

    # A defect is an outcome too, with its type; the others are still evaluated.
    outcome = attempt(replace(point, objective="speed"), program())
    assert outcome.error.startswith("ValueError: objective='speed'")


def test_an_attempt_reports_the_cost_of_its_objective(point):
    record = evaluate(point)
    traffic = [layer.traffic for layer in record.layers]
    dram, sram = (sum(int(one.total(level)) for one in traffic) for level in ("DRAM", "SRAM"))
    assert attempt(point, program()).cost == dram
    energy = attempt(replace(point, objective="energy"), program()).cost
    assert energy == pytest.approx(20 * dram + 0.16 * sram, rel=0.2)  # of another mapping
    assert record.energy_pj() == pytest.approx(20 * dram + 0.16 * sram)
    latency = replace(point, objective="latency")
    assert attempt(latency, program()).cost == sum(c.cycles for c in evaluate(latency).layers)


def test_the_key_is_of_everything_that_decides_the_result(point, network):
    layers = network.nodes[:-1]
    wide = LayerFormats.uniform(BFP(16, 5, 16))
    others = [
        replace(point, objective="energy"),
        replace(point, model="exact"),
        replace(point, ladder=False),
        replace(point, arch=with_value(point.arch, "dram.latency", "1 ns")),
        replace(point, arch=with_value(point.arch, "name", "other")),
        replace(point, formats=(wide, *point.formats[1:])),
        replace(point, formats=(*point.formats[1:], wide)),
        replace(point, network=replace(network, name="other")),
        replace(point, network=Network("tiny", layers), formats=point.formats[1:]),
        replace(point, network=network.batched(2)),
    ]
    keys = {one.key for one in (point, *others)}
    assert len(keys) == 1 + len(others)
    assert replace(point, axes=(("sram.capacity", "16 KiB"),)).key == point.key
    assert len(point.key) == 64


def test_other_code_makes_other_keys(point, monkeypatch):
    before = point.key
    monkeypatch.setattr("bfpsim.search.sweep.point.program", lambda: "0" * 64)
    assert replace(point).key != before
