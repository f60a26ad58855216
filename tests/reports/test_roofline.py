"""The roofline: numbers against hand computation, and what the figure shows."""

from fractions import Fraction

import matplotlib as mpl
import pytest

from bfpsim.arch import load_arch, replace
from bfpsim.quant.formats import BFP, LayerFormats, Plain
from bfpsim.reports.roofline import KINDS, Roof, plot_roofline
from bfpsim.reports.workload import workload_frame
from bfpsim.workloads import NetworkBuilder

BFP8 = LayerFormats.uniform(BFP(8, 3, 16))
EDGE = load_arch("ideal-64k")  # 16 x 16 multipliers of 8 bit; 6.4 GB/s at 500 MHz


def test_the_roof_of_a_shipped_architecture_by_hand():
    roof = Roof.of(EDGE, BFP8)
    assert roof == Roof(Fraction(16 * 16), Fraction(6_400_000_000 * 8, 500_000_000))
    assert roof.ridge == Fraction(5, 2)
    below, ridge, above = Fraction(1, 4), Fraction(5, 2), Fraction(80)
    assert [roof.attainable(x) for x in (below, ridge, above)] == [Fraction("25.6"), 256, 256]
    assert [roof.bound(x) for x in (below, ridge, above)] == ["memory", "compute", "compute"]
    assert roof.bound(ridge - Fraction(1, 10**9)) == "memory"


@pytest.mark.parametrize(
    ("formats", "mac_bits", "peak"),
    [
        # Both operands piecewise: 24 bits of a float in three pieces of 8, nine products.
        (LayerFormats.uniform(Plain(32)), 8, Fraction(256, 9)),
        (LayerFormats(Plain(16), BFP(8, 3, 16), Plain(8)), 8, 128),
        (LayerFormats.uniform(BFP(8, 3, 16)), 4, 64),
    ],
)
def test_operands_wider_than_a_multiplier_lower_the_roof(formats, mac_bits, peak):
    arch = replace(EDGE, "pe_array.mac_bits", mac_bits)
    assert Roof.of(arch, formats).peak == peak


def every_kind():
    build = NetworkBuilder("kinds", (1, 8, 8, 6))
    build.conv("conv", "input", 4, 3)
    build.conv("again", "input", 4, 3)
    build.conv("grouped", "input", 6, 3, groups=2)
    build.conv("depthwise", "input", 6, 3, groups=6)
    vector = build.host("vector", "reshape", build.avgpool("pool", "input"), shape=(1, 1, 6, 1))
    build.conv1d("conv1d", vector, 1, 3, padding=1)
    build.linear("linear", "input", 4)
    build.matmul("matmul", "input", "input", 64)
    build.transposed("transposed", "input", 4, 2, stride=2)
    return build.network()


@pytest.fixture
def drawn(monkeypatch, tmp_path):
    """Draws the roofline of every kind of layer, and returns the axes and the frame."""
    from bfpsim.reports import roofline

    figures = []

    def keep(figure, path):
        figure.draw_without_rendering()
        figures.append(figure)

    monkeypatch.setattr(roofline, "save", keep)
    frame = workload_frame(every_kind(), BFP8, EDGE)
    plot_roofline(frame, Roof.of(EDGE, BFP8), "kinds", tmp_path / "roofline.png")
    (figure,) = figures
    (axes,) = figure.axes
    return figure, axes, frame


def test_every_layer_is_a_point_of_its_kind_on_the_roof(drawn):
    _, axes, frame = drawn
    assert set(frame["kind"]) == set(KINDS)
    points = {}
    for collection in axes.collections:
        kind = collection.get_label().partition(" ")[0]
        points[kind] = list(
            zip(collection.get_offsets().tolist(), collection.get_sizes(), strict=True)
        )
    assert list(points) == list(KINDS)
    for kind, rows in frame.groupby("kind"):
        expected = {(row.macs_per_bit, row.macs_per_cycle) for row in rows.itertuples()}
        assert {tuple(point) for point, _ in points[kind]} == expected
    # Two equal convolutions are one point, its area that of their MACs together.
    ((_, conv),) = points["conv"]
    ((_, linear),) = points["linear"]
    macs = frame.groupby("kind")["macs"].sum()
    largest = macs.drop("total", errors="ignore").max()
    assert conv - linear == pytest.approx(376 * (macs["conv"] - macs["linear"]) / largest)
    labels = [text.get_text() for text in axes.get_legend().get_texts()]
    assert labels[0] == "conv (2)"
    assert [label.partition(" ")[0] for label in labels] == list(KINDS)


def test_every_kind_looks_different(drawn):
    _, axes, _ = drawn
    looks = {
        (tuple(c.get_edgecolor()[0]), c.get_paths()[0].vertices.tobytes()) for c in axes.collections
    }
    colours, markers = zip(*looks, strict=True)
    assert len(looks) == len(set(colours)) == len(set(markers)) == len(KINDS)


def test_the_line_is_the_lower_of_the_two_limits(drawn):
    _, axes, _ = drawn
    roof = axes.lines[0]
    low, high = axes.get_xlim()
    x, y = roof.get_xdata(), roof.get_ydata()
    assert [x[0], x[-1]] == pytest.approx([low, high])
    assert list(y) == pytest.approx([min(256, 102.4 * at) for at in x])
    assert 2.5 in x


def test_no_text_lies_on_another_or_outside(drawn):
    figure, axes, _ = drawn
    notes = [text for text in axes.texts if text.get_text()]
    assert [note.get_text() for note in notes] == [
        "array: 256 MAC/cycle", "ridge: 2.5 MAC/bit", "DRAM: 102.4 bit/cycle",
    ]  # fmt: skip
    boxes = [note.get_window_extent() for note in notes]
    boxes += [axes.get_legend().get_window_extent(), axes.xaxis.label.get_window_extent()]
    boxes += [axes.yaxis.label.get_window_extent()]
    for index, box in enumerate(boxes):
        assert not any(box.overlaps(other) for other in boxes[index + 1 :])
        assert figure.bbox.contains(box.x0, box.y0)
        assert figure.bbox.contains(box.x1, box.y1)


def test_equal_tables_make_equal_bytes_and_empty_ones_no_file(tmp_path):
    frame, roof = workload_frame(every_kind(), BFP8, EDGE), Roof.of(EDGE, BFP8)
    plot_roofline(frame, roof, "kinds", tmp_path / "one.png")
    with mpl.rc_context({"font.size": 20, "axes.facecolor": "red", "savefig.dpi": 50}):
        plot_roofline(frame, roof, "kinds", tmp_path / "two.png")
    assert (tmp_path / "one.png").read_bytes() == (tmp_path / "two.png").read_bytes()
    with pytest.raises(ValueError, match="no layer to draw"):
        plot_roofline(frame.iloc[:0], roof, "kinds", tmp_path / "none.png")
    assert not (tmp_path / "none.png").exists()
