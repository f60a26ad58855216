"""Points of a sweep that run as programs, beside the same layers alone."""

from dataclasses import replace as changed
from math import fsum

import pytest

from bfpsim.arch import load_arch, replace
from bfpsim.reports.store.findings import read_findings
from bfpsim.reports.store.write import write_report
from bfpsim.search.sweep.evaluate import evaluate
from bfpsim.search.sweep.plan import plan
from bfpsim.search.sweep.record import Record, RecordError
from bfpsim.search.sweep.run import sweep
from bfpsim.search.sweep.spec import SweepError, load_spec
from bfpsim.sim.program import plan_program
from bfpsim.workloads import save_workload
from tests.programs import small_branches


@pytest.fixture(scope="module")
def branches():
    return small_branches()


@pytest.fixture(scope="module")
def arch():
    return replace(load_arch("ideal-16k"), "vector", {"lanes": 4, "energy": "1 pJ"})


@pytest.fixture(scope="module")
def spec(branches, arch):
    axes = {"layers": ["alone", "program"], "sram.capacity": ["3 KiB", "8 KiB"]}
    return {"arch": arch, "networks": [branches], "formats": ["bfp8"], "axes": axes}


@pytest.fixture(scope="module")
def results(spec, tmp_path_factory):
    return sweep(spec, tmp_path_factory.mktemp("programs") / "store", workers=1)


def test_a_point_is_what_the_program_does(results):
    for _, point, record, error in results:
        assert error is None
        if point.layers == "alone":
            assert record.residency is None
            continue
        result = plan_program(point.network, point.arch, point.formats_by_layer).run()
        assert record.cycles == result.cycles
        assert record.energy_pj() == pytest.approx(result.energy_pj, rel=1e-12)
        assert record.energy.all_pj == pytest.approx(result.energy.all_pj, rel=1e-12)
        for kept, own in zip(record.layers, result.operations, strict=True):
            assert (kept.layer, kept.traffic) == (own.name, own.counts)
            assert kept.vector.cycles == own.vector_cycles
        assert record.residency.stay == len(result.allocation.sizes)
        assert record.residency.activations == len(result.program.activations)


def test_tables_of_both_stand_in_one(results):
    points, layers, traffic = results.tables()
    assert list(points["layers"]) == ["alone", "alone", "program", "program"]
    moved = traffic[traffic["level"] == "DRAM"].groupby("point")["bits"].sum()
    assert list(moved) == list(points["dram_bits"])
    by_point = layers.groupby("point")
    for name in ("cycles", "dram_bits", "compulsory_bits", "vector_cycles"):
        assert list(by_point[name].sum()) == list(points[name]), name
    for point, own in by_point:
        assert fsum(own["all_energy_pj"]) == pytest.approx(points["all_energy_pj"][point])
    program = points[points["layers"] == "program"]
    assert (program["compulsory_bits"] <= program["least_dram_bits"]).all()
    assert (program["least_dram_bits"] <= program["dram_bits"]).all()
    assert program["dram_bits"].is_monotonic_decreasing
    assert program["exact_bits"].isna().all()
    alone = points[points["layers"] == "alone"]
    assert alone["stay_on_chip"].isna().all()
    assert (alone["vector_cycles"] == 0).all()
    assert (alone["exact_bits"] == alone["dram_payload_bits"]).all()


def test_a_second_run_evaluates_nothing_again(spec, results):
    seen = []
    again = sweep(spec, results.store, workers=1, progress=seen.append)
    assert {(one.done, one.total) for one in seen} == {(4, 4)}
    assert again.points_table().equals(results.points_table())


def test_a_record_comes_back_from_its_json(results):
    for _, _, record, _ in results:
        assert Record.from_json(record.to_json()) == record
    text = record.to_json()
    assert record.residency is not None
    for part, wrong in ((f'"stay":{record.residency.stay}', '"stay":-1'), ('"vector":{', '"x":{')):
        assert part in text
        with pytest.raises(RecordError):
            Record.from_json(text.replace(part, wrong))


def test_what_stands_between_the_layers_is_in_the_key_of_a_program(branches, arch, results):
    point = next(own for own in results.points if own.layers == "program")
    nodes = tuple(
        changed(node, op="relu", inputs=node.inputs[:1]) if node.name == "sum" else node
        for node in branches.nodes
    )
    other = changed(point, network=changed(branches, nodes=nodes))
    assert other.key != point.key
    assert changed(other, layers="alone").key == changed(point, layers="alone").key


def test_a_report_shows_both(results, spec, tmp_path):
    findings = read_findings(results.store)
    assert sorted(findings.points["layers"]) == ["alone", "alone", "program", "program"]
    table = results.points_table().sort_values("dram_bits")
    found = findings.points.sort_values("dram_bits")
    for name in ("dram_bits", "cycles", "compulsory_bits", "compulsory_energy_pj", "all_energy_pj"):
        assert list(found[name]) == pytest.approx(list(table[name])), name
    report = write_report(results.store, tmp_path)
    page = (tmp_path / "report.html").read_text()
    assert report.points == 4
    assert "stay on chip" in page
    assert "vector unit" in page


@pytest.mark.parametrize(
    ("more", "where"),
    [
        ("layers: together", "layers: 'together' is refused; allowed: 'program' or 'alone'"),
        (
            "layers: program\nobjective: energy",
            "objective: 'energy' is of layers alone; allowed with layers: program: dram",
        ),
        (
            "layers: program\nmodel: exact",
            "model: 'exact' is of layers alone; allowed with layers: program: full",
        ),
        ("axes: {layers: [alone, 1]}", "axes.layers.1: 1 is refused; allowed: program, alone"),
    ],
)
def test_what_makes_no_program_is_one_line(more, where, tmp_path, branches):
    save_workload(branches, tmp_path / "net.yaml")
    path = tmp_path / "sweep.yaml"
    path.write_text(f"arch: edge-16k\nnetworks: [{tmp_path}/net.yaml]\nformats: [bfp8]\n{more}\n")
    with pytest.raises(SweepError) as caught:
        plan(load_spec(path))
    assert str(caught.value).endswith(where)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_program_that_does_not_fit_is_an_error_of_its_point(spec, tmp_path):
    tiny = spec | {"axes": {"layers": ["program"], "sram.capacity": ["64 B", "8 KiB"]}}
    first, second = sweep(tiny, tmp_path / "store", workers=1)
    assert first.record is None
    assert "\n" not in first.error
    assert "stem" in first.error
    assert second.error is None


def test_alone_is_the_default(branches, arch):
    (point,) = plan(load_spec({"arch": arch, "networks": [branches], "formats": ["bfp8"]}))
    assert point.layers == "alone"
    assert evaluate(point).how == "alone"
