import math
from fractions import Fraction

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text

from bfpsim.arch.units import CAPACITY
from bfpsim.reports.roofline import Roof, plot_achieved
from bfpsim.reports.store.figures import (
    _RUNGS,
    Segment,
    Units,
    capacity_axis,
    capacity_scale,
    draw_figures,
    file_names,
    layer_axis,
    plot_capacity,
    plot_energy,
    plot_ladder,
    plot_networks,
    plot_stalls,
    plot_time,
    stack,
)
from bfpsim.reports.store.findings import cheapest
from bfpsim.reports.style import drawing


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
    sizes = [512, *(8192 * kib for kib in (16, 64, 96, 99, 128, 256))]
    capacity_scale(axes, sizes)
    named = [t.get_text() for t in axes.get_xticklabels()]
    assert named == ["64 B", "16 KiB", "64 KiB", "96 KiB", "128 KiB", "256 KiB"]
    assert axes.get_xscale() == "log"
    low, high = axes.get_xlim()
    assert low < 512
    assert high > 256 * 8192


def test_of_many_capacities_and_layers_some_are_named():
    axes = panel()
    capacity_axis(axes, [8192 * 2**i for i in range(9)])
    assert [t.get_text() for t in axes.get_xticklabels()][:3] == ["1 KiB", "2 KiB", "4 KiB"]
    capacity_axis(axes, [8192 * i for i in range(1, 61)])
    assert [t.get_text() for t in axes.get_xticklabels()][:3] == ["1 KiB", "3 KiB", "5 KiB"]
    layer_axis(axes, [f"conv{i}" for i in range(60)])
    assert [t.get_text() for t in axes.get_xticklabels()][:2] == ["conv0", "conv3"]
    assert axes.get_xlabel() == "layer (1 of 3 is named)"


@pytest.mark.parametrize("panels", [1, 2, 3])
@pytest.mark.parametrize("show", [capacity_axis, capacity_scale])
def test_capacities_never_collide(panels, show):
    """As they lie on the page: lines of text aslant, further apart than they are high."""
    rng = np.random.default_rng(panels)
    for count in (2, 10, 40):
        sizes = sorted({int(8 * size) for size in 2 ** rng.uniform(9, 22, count)})
        with drawing() as figure:
            axes = figure.subplots(1, panels, squeeze=False)[0][-1]
            show(axes, sizes)
            figure.draw_without_rendering()
            labels = [own for own in axes.get_xticklabels() if own.get_text()]
            places = [axes.transData.transform((at, 1))[0] for at in axes.get_xticks()]
            height = labels[0].get_fontsize() * figure.dpi / 72
        assert {own.get_rotation() for own in labels} == {45}
        assert len(labels) >= min(len(sizes), 5)
        assert min(np.diff(places)) * np.sqrt(0.5) > height


def test_a_page_has_one_unit_of_each_kind():
    points = pd.DataFrame(
        {"energy_pj": [2.5e10, 3e6], "dram_bits": [9e8, 1e3], "dram_energy_pj": [1.0, 1.0]}
    ).assign(cycles=[999, 12])
    assert Units.of(points) == ((1e9, "mJ"), (1e6, "Mbit"), (1.0, ""))


def test_time_figure_has_cycles_product_and_use_of_the_array(findings, drawn, tmp_path):
    points = findings.points
    plot_time(points, tmp_path / "x.png")
    cycles, product, used = drawn[0].axes
    scale = Units.of(points).cycles[0]
    for formats, of_format in points.groupby("formats"):
        best = cheapest(of_format, "capacity_bits").to_dict(orient="records")
        for axes, expected in (
            (cycles, [row["cycles"] / scale for row in best]),
            (product, [row["energy_pj"] * 1e-12 * row["cycles"] / scale for row in best]),
            (used, [100 * row["utilisation"] for row in best]),
        ):
            ((*corners,),) = lines(axes, formats)
            assert [x for x, _ in corners] == [row["capacity_bits"] for row in best]
            assert [y for _, y in corners] == pytest.approx(expected)
        assert max(own["cycles"] for own in best) / scale < 0.95 * cycles.get_ylim()[1]


def test_networks_figure_has_each_network_and_their_mean(findings, drawn, tmp_path):
    one = findings.points
    sizes = sorted(one["capacity_bits"].unique())
    other = one[one["capacity_bits"] != sizes[0]].assign(network="other")
    other["energy_pj"] = other["energy_pj"] * (1 + other["capacity_bits"] / sizes[-1])
    plot_networks(pd.concat([one, other]), tmp_path / "x.png")
    energy, used = drawn[0].axes
    ratios = {}
    for points in (one, other):
        network = points["network"].iloc[0]
        least = points.groupby("capacity_bits")["energy_pj"].min()
        ((*corners,),) = lines(energy, network)
        ratios[network] = (least / least.min()).to_dict()
        assert dict(corners) == pytest.approx(ratios[network])
        assert len(lines(used, network)) == 1
    ((*mean,),) = lines(energy, "geometric mean")
    own = ratios[one["network"].iloc[0]]
    assert dict(mean) == pytest.approx(
        {size: math.sqrt(ratios["other"][size] * own[size]) for size in sizes[1:]}
    )


def test_several_networks_have_a_figure_of_their_own(findings, tmp_path):
    (network,) = findings.best
    both = {network: findings.best[network], "other": findings.best[network]}
    frames = [
        pd.concat([own, own.assign(network="other")]) for own in (findings.points, findings.layers)
    ]
    more = type(findings)(*frames, findings.gaps, findings.axes, both, findings.others, ())
    parts = draw_figures(more, None, tmp_path, lambda _: None, ("svg", "pdf"))
    names = [path.name for _, paths in parts for path in paths]
    assert names[:2] == ["networks.svg", "networks.pdf"]
    assert sorted(names) == sorted(path.name for path in tmp_path.iterdir())


def test_titles_name_capacities_not_points(findings, drawn, tmp_path):
    plot_energy(findings.points, findings.layers, tmp_path / "x.png")
    at = CAPACITY.text(cheapest(findings.points, "network")["capacity_bits"].iloc[0])
    assert drawn[0].axes[1].get_title() == f"each layer at {at}, the least of all"


def test_each_effect_has_a_look_of_its_own():
    looks = [(own.colour, bool(own.hatch)) for own in _RUNGS]
    assert len({colour for colour, _ in looks}) == len(looks)


def test_buffer_figure_has_a_line_and_a_floor_per_format(findings, drawn, tmp_path):
    points = findings.points
    plot_capacity(points, tmp_path / "x.png")
    traffic, energy = drawn[0].axes
    for formats, of_format in points.groupby("formats"):
        best = of_format.groupby("capacity_bits")["energy_pj"].min()
        best /= Units.of(points).energy[0]
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
        (drawn[0], "energy_pj", Units.of(points).energy[0], 6),
        (drawn[1], "cycles", Units.of(points).cycles[0], 5),  # nothing fills, and no port is narrow
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
    scale = Units.of(points).energy[0]
    assert np.sum([*bars.values()], axis=0) == pytest.approx(of_best["energy_pj"] / scale)
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
        *("capacity.png", "time.png", "energy.png", "stalls.png", "roofline.png")
    ]
