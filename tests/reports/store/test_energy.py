"""Reports of sweeps that price more than movement, and of those that price it by a constant."""

import re

import pytest

from bfpsim.reports.store.figures import Units, plot_capacity, plot_energy
from bfpsim.reports.store.findings import read_findings
from bfpsim.reports.store.write import write_report
from bfpsim.search.sweep.plan import plan
from bfpsim.search.sweep.run import sweep
from bfpsim.search.sweep.spec import load_spec
from tests.reports.store.conftest import fill


@pytest.fixture(scope="module")
def priced(spec, tmp_path_factory):
    """The sweep's specification and store, with everything priced."""
    folder = tmp_path_factory.mktemp("priced")
    path = folder / "sweep.yaml"
    more = "  sram.leakage: [1 mW]\n  pe_array.mac_energy: [0.2 pJ]\n  dram.background: [5 mW]\n"
    path.write_text(spec.read_text().replace("16 B, ", "") + more)
    return path, fill(folder / "sweep.sqlite", plan(load_spec(path)))


@pytest.fixture(scope="module")
def found(priced):
    path, store = priced
    return read_findings(store, path)


def test_all_energy_adds_up_by_hand(found):
    clock = 500e6
    for _, row in found.points.iterrows():
        seconds = row["cycles"] / clock
        more = 0.2 * row["macs"] + (1e-3 + 5e-3) * seconds * 1e12
        assert row["all_energy_pj"] == pytest.approx(row["energy_pj"] + more, rel=1e-12)
    layers = found.layers.groupby("point")[["energy_pj", "all_energy_pj"]].sum()
    points = found.points.set_index("point")
    for column in layers:
        assert layers[column].to_numpy() == pytest.approx(points[column].sort_index().to_numpy())


def test_a_sweeps_own_tables_say_the_same(priced, found):
    path, store = priced
    points = sweep(load_spec(path), store, workers=1).tables().points
    for column in ("energy_pj", "all_energy_pj"):
        assert points[column].tolist() == found.points.sort_values("point")[column].tolist()


def test_the_page_shows_both_and_warns_of_a_constant_price(priced, tmp_path):
    path, store = priced
    write_report(store, tmp_path, sweep=path)
    page = (tmp_path / "report.html").read_text()
    assert "all energy [" in page
    assert "movement [" in page
    assert "SRAM is resized at a constant energy per bit" in re.sub(r"\s+", " ", page)


def test_without_more_the_page_shows_energy_alone(report):
    page = (report / "report.html").read_text()
    assert "all energy" not in page
    assert "energy [" in page


def test_where_a_table_prices_sizes_there_is_no_warning(spec, tmp_path):
    path = tmp_path / "sweep.yaml"
    path.write_text(spec.read_text().replace("16 B, ", "") + "  sram.energy: [cacti-22nm]\n")
    store = fill(tmp_path / "sweep.sqlite", plan(load_spec(path)))
    assert read_findings(store, path).constant_prices == ()


def test_figures_show_what_is_beyond_movement(found, tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr("bfpsim.reports.store.figures.save", lambda figure, _: drawn.append(figure))
    plot_capacity(found.points, tmp_path / "unused.png")
    plot_energy(found.points, found.layers, tmp_path / "unused.png")
    (_, energy), (whole, each) = (figure.axes for figure in drawn)
    dotted = [line for line in energy.lines if line.get_linestyle() == ":"]
    assert len(dotted) == found.points["formats"].nunique()
    highest = max(max(line.get_ydata()) for line in dotted)
    assert highest <= energy.get_ylim()[1]
    for axes in (whole, each):
        labels = [container.get_label() for container in axes.containers]
        assert labels[-1] == "beyond movement"
    least = found.points.sort_values(["energy_pj", "cycles"]).iloc[0]  # of equals the fastest
    scale = Units.of(found.points).energy[0]
    tops = [bar.get_y() + bar.get_height() for bar in whole.containers[-1]]
    assert any(top == pytest.approx(least["all_energy_pj"] / scale) for top in tops)
