"""Reports of sweeps that have levels inside SRAM, beside points that have none."""

import math

import pandas as pd
import pytest

from bfpsim.arch import load_arch
from bfpsim.quant.formats import BFP, LayerFormats
from bfpsim.reports.store.figures import plot_stalls
from bfpsim.reports.store.findings import Findings, read_findings
from bfpsim.reports.store.write import write_report
from bfpsim.search.sweep.point import Point
from bfpsim.search.sweep.results import Results
from bfpsim.workloads import NetworkBuilder
from tests.generate import deep_arch
from tests.reports.store.conftest import fill


@pytest.fixture(scope="module")
def points() -> tuple[Point, ...]:
    build = NetworkBuilder("tiny", input_shape=(1, 8, 8, 3))
    x = build.conv("conv1", "input", 16, kernel=3, padding=1)
    build.conv("conv2", x, 24, kernel=3, padding=1)
    network = build.network()
    formats = (LayerFormats.uniform(BFP(8, 3, 16)),) * 2
    return tuple(Point(network, arch, formats) for arch in (load_arch("ideal-16k"), deep_arch()))


@pytest.fixture(scope="module")
def store(points, tmp_path_factory):
    return fill(tmp_path_factory.mktemp("inside") / "sweep.sqlite", points)


@pytest.fixture(scope="module")
def findings(store) -> Findings:
    return read_findings(store)


def of(findings: Findings, arch: str) -> pd.Series:
    return findings.points.set_index("arch").loc[arch]


def test_the_sums_are_those_of_the_sweeps_own_tables(findings, points, store) -> None:
    theirs = Results(points, store).points_table().set_index("arch")
    for name in ("ideal-16k", "deep"):
        mine = of(findings, name)
        for column in theirs.columns.intersection(findings.points.columns).drop("point"):
            other = theirs.loc[name, column]
            assert pd.isna(other) if pd.isna(mine[column]) else mine[column] == other, column
    assert str(findings.points["acc_bits"].dtype) == "Int64"
    assert pd.isna(of(findings, "ideal-16k")["acc_bits"])
    deep = of(findings, "deep")
    parts = ("dram_energy_pj", "sram_energy_pj", "in_energy_pj", "acc_energy_pj")
    assert deep["energy_pj"] == pytest.approx(math.fsum(deep[name] for name in parts))
    assert deep["in_energy_pj"] == deep["in_I_energy_pj"]


def test_values_of_levels_are_axes_under_their_paths(findings) -> None:
    assert {"levels.acc.capacity", "levels.in.tensors", "pe_array.fill"} < {*findings.axes}
    deep = of(findings, "deep")
    assert (deep["levels.acc.capacity"], deep["levels.acc.tensors"]) == ("16 KiB", "O")
    assert pd.isna(of(findings, "ideal-16k")["levels.acc.capacity"])


def test_idle_lanes_and_narrow_ports_are_seen(findings, monkeypatch, tmp_path) -> None:
    figures = []
    monkeypatch.setattr(
        "bfpsim.reports.store.figures.save", lambda figure, path: figures.append(figure)
    )
    deep = findings.points[findings.points["arch"] == "deep"]
    layers = findings.layers[findings.layers["point"].isin(deep["point"])]
    plot_stalls(deep, layers, tmp_path / "unused.png")
    bars = {
        part.get_label(): [1e3 * bar.get_height() for bar in part]
        for part in figures[0].axes[1].containers
    }
    # conv1 has 3 channels for 16 rows, and takes 9 x 64 cycles for its 16 filters.
    assert bars["multiplying"][0] == pytest.approx(9 * 64 * 3 / 16)
    assert bars["lanes without work"][0] == pytest.approx(9 * 64 * 13 / 16)
    assert bars["filling"] == pytest.approx(layers["fill_cycles"].tolist())
    assert bars["held up by ports"] == pytest.approx(layers["port_cycles"].tolist())


def test_a_report_of_both_is_written(store, tmp_path) -> None:
    report = write_report(store, tmp_path)
    page = (tmp_path / "report.html").read_text()
    for text in ("array used [%]", "lanes used while multiplying [%]", "held up by ports", "acc ["):
        assert text in page, text
    assert report.points == 2
    layers = pd.read_csv(tmp_path / "layers.csv")
    assert {"acc_order", "acc_tile", "in_tile"} < {*layers.columns}
