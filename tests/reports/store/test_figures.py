from fractions import Fraction

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text

from bfpsim.reports.roofline import Roof, plot_achieved
from bfpsim.reports.store.figures import (
    Segment,
    capacity_axis,
    capacity_scale,
    draw_figures,
    file_names,
    layer_axis,
    plot_capacity,
    plot_energy,
    plot_ladder,
    plot_stalls,
    stack,
)
from bfpsim.reports.store.findings import cheapest


def panel():
    return Figure().subplots()


@pytest.fixture
def drawn(monkeypatch):
    """The figures in place of their files."""
    figures = []
    for module in ("roofline", "store.figures"):
        monkeypatch.setattr(
            f"bfpsim.reports.{module}.save", lambda figure, path: figures.append(figure)
        )
    return figures


def test_names_are_no_formulas_of_mathtext(findings, tmp_path, monkeypatch):
    """Nor do axes label their ticks with any, which would then stand there as it is spelled."""
    texts = []

    def savefig(figure, *where, **how):
        figure.draw_without_rendering()
        texts.extend(figure.findobj(Text))

    monkeypatch.setattr(Figure, "savefig", savefig)
    for _ in draw_figures(findings, None, tmp_path, lambda _: None):
        pass
    assert not any(text.get_parse_math() for text in texts)
    dollars = {text.get_text() for text in texts if "$" in text.get_text()}
    assert "=a$\\frac{x$" in dollars
    (network,) = findings.best
    assert all("=a$\\frac{x$" in text or network in text for text in dollars)


def lines(axes, label):
    """Ends and corners of the lines with a label."""
    found = [line for line in axes.get_lines() if line.get_label() == label]
    return [tuple(zip(*line.get_data(), strict=True)) for line in found]


def heights(axes):
    """Of every bar, by part."""
    return {bars.get_label(): [bar.get_height() for bar in bars] for bars in axes.containers}


def test_the_cheapest_is_the_fastest_of_the_least_energy():
    points = pd.DataFrame(
        {
            "size": [2, 1, 1, 1, 1],
            "energy_pj": [9.0, 5.0, 4.0, 4.0, 4.0],
            "cycles": [1, 1, 8, 7, 7],
            "point": range(5),
        }
    )
    assert cheapest(points, "size")["point"].tolist() == [3, 0]


def test_bars_stand_on_one_another_and_negative_ones_hang():
    axes = panel()
    frame = pd.DataFrame({"a": [2.0, -4.0], "b": [6.0, -2.0], "c": [-1.0, 3.0]})
    stack(axes, frame, [Segment(name, name, "black") for name in frame], 2.0)
    boxes = [[(bar.get_y(), bar.get_height()) for bar in bars] for bars in axes.containers]
    assert boxes == [[(0, 1), (0, -2)], [(1, 3), (-2, -1)], [(0, -0.5), (0, 1.5)]]


def test_capacities_lie_as_far_apart_as_they_are_and_have_room():
    axes = panel()
    sizes = [512, *(8192 * kib for kib in (16, 64, 96, 127, 128, 256))]
    capacity_scale(axes, sizes)
    named = [t.get_text() for t in axes.get_xticklabels()]
    assert named == ["64 B", "16 KiB", "64 KiB", "128 KiB", "256 KiB"]
    assert axes.get_xscale() == "log"
    low, high = axes.get_xlim()
    assert low < 512
    assert high > 256 * 8192


def test_of_many_capacities_and_layers_some_are_named():
    axes = panel()
    capacity_axis(axes, [8192 * 2**i for i in range(9)])
    assert [t.get_text() for t in axes.get_xticklabels()][:3] == ["1 KiB", "4 KiB", "16 KiB"]
    layer_axis(axes, [f"conv{i}" for i in range(60)])
    assert [t.get_text() for t in axes.get_xticklabels()][:2] == ["conv0", "conv3"]
    assert axes.get_xlabel() == "layer (1 of 3 is named)"


def test_buffer_figure_has_a_line_and_a_floor_per_format(findings, drawn, tmp_path):
    points = findings.points
    plot_capacity(points, tmp_path / "x.png")
    traffic, energy = drawn[0].axes
    for formats, of_format in points.groupby("formats"):
        best = of_format.groupby("capacity_bits")["energy_pj"].min() / 1e9
        assert lines(energy, formats) == [tuple(best.items())]
        assert max(best) < 0.95 * energy.get_ylim()[1], "markers are whole"
    assert len(traffic.get_lines()) == 2 * points["formats"].nunique() + 1


def test_energy_and_stalls_add_up_to_the_points(findings, drawn, tmp_path):
    points, layers = findings.points, findings.layers
    plot_energy(points, layers, tmp_path / "x.png")
    plot_stalls(points, layers, tmp_path / "x.png")
    of_capacity = cheapest(points, "capacity_bits")
    best = findings.best[points["network"].iloc[0]].point
    of_best = layers[layers["point"] == best]
    for figure, column, scale, parts in (
        (drawn[0], "energy_pj", 1e6, 6),
        (drawn[1], "cycles", 1e3, 5),  # nothing fills, and no port is narrow
    ):
        for axes, rows in zip(figure.axes, (of_capacity, of_best), strict=True):
            bars = heights(axes)
            assert len(bars) == parts
            assert np.sum([*bars.values()], axis=0) == pytest.approx(rows[column] / scale)


def test_bars_over_the_capacity_are_all_in_the_best_points_format(findings, drawn, tmp_path):
    points = findings.points.copy()
    best = cheapest(points, "network").iloc[0]
    other = points["formats"] != best["formats"]
    smallest = points["capacity_bits"] == points["capacity_bits"].min()
    points.loc[other & smallest, "energy_pj"] = best["energy_pj"] * (1 + 1e-9)
    assert cheapest(points, "capacity_bits")["formats"].nunique() == 2
    plot_energy(points, findings.layers, tmp_path / "x.png")
    of_best = cheapest(points[~other], "capacity_bits")
    bars = heights(drawn[0].axes[0])
    assert np.sum([*bars.values()], axis=0) == pytest.approx(of_best["energy_pj"] / 1e6)
    assert best["formats"] in drawn[0].get_suptitle()


def test_rungs_add_up_to_what_the_papers_model_is_off_by(findings, drawn, tmp_path):
    plot_ladder(findings.points, findings.layers, tmp_path / "x.png")
    scatter, rungs = drawn[0].axes
    best = cheapest(findings.points, "capacity_bits")
    off = 100 * (1 - best["paper_bits"] / best["dram_bits"])
    assert np.sum([*heights(rungs).values()], axis=0) == pytest.approx(off)
    (sums,) = lines(rungs, "sum")
    assert [y for _, y in sums] == pytest.approx(off)
    (paper,) = lines(scatter, "paper")
    of_layers = findings.layers[["dram_bits", "paper_bits"]] / 1e6
    assert set(paper) == set(of_layers.itertuples(index=False, name=None))


def test_no_layer_is_above_its_roof(findings, drawn, planned, tmp_path):
    ((_, best),) = findings.best.items()
    layers = findings.layers[findings.layers["point"] == best.point]
    plot_achieved(best.record, layers, tmp_path / "x.png")
    (axes,) = drawn[0].axes
    (dots,) = axes.collections
    roof = Roof.of(best.record.arch, planned[best.point].formats[0])
    places = np.asarray(dots.get_offsets())
    assert len(places) == len(layers)
    for intensity, reached in places.tolist():
        assert reached <= float(roof.attainable(Fraction(intensity))) * (1 + 1e-9)
    shares = [text.get_text().split()[1] for text in axes.get_legend().get_texts()]
    expected = (layers["cycles"] / layers["cycles"].sum()).sort_values(ascending=False)
    assert shares == [f"{share:.0%}" for share in expected]


def test_layers_that_would_hide_one_another_are_drawn_as_one(findings, drawn, tmp_path):
    ((_, best),) = findings.best.items()
    layers = findings.layers[findings.layers["point"] == best.point]
    twice = pd.concat([layers, layers.assign(layer="again")], ignore_index=True)
    plot_achieved(best.record, twice, tmp_path / "x.png")
    (axes,) = drawn[0].axes
    texts = [text.get_text() for text in axes.get_legend().get_texts()]
    assert len(texts) == len(layers)
    assert all(text.endswith(" and 1 near it") for text in texts)


def test_names_of_files_differ_whatever_networks_are_called():
    names = file_names(["a/b", "a b", "A-B", "..", "net.v2", "é"])
    assert [*names.values()] == ["a-b", "a-b-2", "A-B-3", "network", "net.v2", "network-2"]


def test_without_models_there_is_no_figure_of_them(findings, tmp_path):
    models = [name for name in findings.points if name.startswith(("paper", "exact"))]
    bare = type(findings)(
        findings.points.drop(columns=models),
        findings.layers.drop(columns=models),
        *(findings.gaps, findings.axes, findings.best, findings.others, ()),
    )
    parts = list(draw_figures(bare, None, tmp_path, lambda _: None))
    assert [path.name.rpartition("-")[2] for _, paths in parts for path in paths] == [
        *("capacity.png", "energy.png", "stalls.png", "roofline.png")
    ]
