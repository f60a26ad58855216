"""What the tables and figures of the mantissa study show, against the numbers they are made of."""

import io
import warnings

import numpy as np
import pandas as pd
import pytest
from rich.console import Console

from bfpsim.quant.mantissa.accuracy import WIDTHS
from bfpsim.quant.mantissa.weights import Span
from bfpsim.reports import mantissa
from bfpsim.reports.style import ORANGE, VERMILION

NETWORKS = [  # model, family, kind, parameters, fewest, at the limit, loss at m = 0
    ("small", "Net", "convolutional", 1000, 2, 1.75, 0.4),
    ("large", "Net", "convolutional", 9000, 1, 0.5, 0.2),
    ("vit", "ViT", "transformer", 5000, None, None, 0.8),
]


@pytest.fixture(scope="module")
def accuracy():
    """Every (e, m); what has fewer than 7 bits loses half, FP(8, 0) and FP(2, 9) a little."""
    rows = []
    for e in range(8, 1, -1):
        for m in range(23, -1, -1):
            loss = 0.5 if 1 + e + m < 7 else 0.02 if (e, m) in ((8, 0), (2, 9)) else 0.0
            rows.append((f"e{e}m{m}", e, m, 1 + e + m, 0.9 - loss, 0.99 - loss / 2, loss))
    columns = ["format", "exponent_bits", "mantissa_bits", "bits", "top1", "top5", "accuracy_loss"]
    return pd.DataFrame(rows, columns=columns)


@pytest.fixture
def figures(monkeypatch):
    """Figures that would have been saved."""
    kept = []

    def keep(figure, path):
        figure.draw_without_rendering()
        kept.append(figure)

    monkeypatch.setattr(mantissa, "save", keep)
    return kept


def printed(table) -> str:
    stream = io.StringIO()
    Console(file=stream, width=200).print(table)
    return stream.getvalue()


def test_curves_are_lines_through_the_grid(accuracy) -> None:
    frame = mantissa.curves(accuracy, 1)
    lines = {
        key: list(rows["format"])
        for key, rows in frame.groupby(["along", "exponent_bits", "mantissa_bits"])
    }
    assert sum(len(each) for each in lines.values()) == len(frame) == 24 + 7 + 7
    assert list(frame["format"])[:24] == [f"e8m{m}" for m in range(23, -1, -1)]
    assert list(frame["format"])[24:31] == [f"e{e}m23" for e in range(8, 1, -1)]
    assert list(frame["format"])[31:] == [f"e{e}m1" for e in range(8, 1, -1)]
    for fewest in (None, 23):  # nothing suffices, or only the widest does
        assert len(mantissa.curves(accuracy, fewest)) == 24 + 7


def test_the_curves_figure_holds_each_line_once(accuracy, figures, tmp_path) -> None:
    frame = mantissa.curves(accuracy, 1)
    mantissa.plot_curves(frame, 0.01, "net", tmp_path / "curves.png")
    left, right = figures[0].axes
    points = {
        line.get_label(): dict(zip(line.get_xdata(), line.get_ydata(), strict=True))
        for axes in (left, right)
        for line in axes.lines
        if "," in str(line.get_label())
    }
    names = ["e = 8", "m = 23", "m = 1"]
    assert list(points) == [f"top-{k}, {name}" for name in names for k in (1, 5)]
    tops = accuracy.set_index("format")["top1"]
    assert points["top-1, m = 1"] == pytest.approx({e: 100 * tops[f"e{e}m1"] for e in range(2, 9)})
    assert points["top-1, e = 8"] == pytest.approx({m: 100 * tops[f"e8m{m}"] for m in range(24)})
    limits = [line for line in left.lines if "less 1 point" in str(line.get_label())]
    assert limits[0].get_ydata()[0] == pytest.approx(89)


def test_the_heat_map_frames_what_is_within_the_limit(accuracy, figures, tmp_path) -> None:
    mantissa.plot_heat_map(accuracy, 0.01, "net", tmp_path / "map.png")
    axes = figures[0].axes[0]
    shown = np.asarray(axes.images[0].get_array())
    kept = accuracy[accuracy["accuracy_loss"] <= 0.01]
    kept = {(m, e - 2) for m, e in zip(kept["mantissa_bits"], kept["exponent_bits"], strict=True)}
    for row in accuracy.to_dict(orient="records"):
        value = shown[row["exponent_bits"] - 2, row["mantissa_bits"]]
        assert value == pytest.approx(100 * row["accuracy_loss"])
    # A side is drawn where it parts a kept cell from one that is not, or from the outside.
    sides = {
        ((x1 + x2) / 2, (y1 + y2) / 2)
        for (x1, x2), (y1, y2) in (line.get_data() for line in axes.lines)
    }
    expected = {
        (x + i / 2, y + j / 2)
        for x, y in kept
        for i, j in ((1, 0), (-1, 0), (0, 1), (0, -1))
        if (x + i, y + j) not in kept
    }
    assert sides == expected
    assert {line.get_color() for line in axes.lines} == {VERMILION}
    titles = {text.get_position(): text.get_text().split("\n") for text in axes.texts}
    assert len(titles) == 7 * 24
    named = {at: text[0] for at, text in titles.items() if text[0]}
    assert named == {(23, 6): "FP32", (10, 6): "TF32", (7, 6): "BF16", (10, 3): "FP16"}
    assert titles[0, 6][1] == "88"


def test_the_weights_figure_sets_off_the_span(figures, tmp_path) -> None:
    values = pd.DataFrame({"low": [-1.0, 0.0], "high": [0.0, 1.0], "count": [3, 4]})
    exponents = pd.DataFrame({"exponent": [-3, -2, -1], "count": [1, 4, 2], "share": [0, 0, 0]})
    for span in (Span(-2, -1), None):
        mantissa.plot_weights(values, exponents, span, "net", tmp_path / "weights.png")
    left, right = figures[0].axes
    assert [(bar.get_x(), bar.get_width(), bar.get_height()) for bar in left.patches] == [
        (-1, 1, 3), (0, 1, 4)
    ]  # fmt: skip
    assert left.get_yscale() == right.get_yscale() == "log"
    colours = [bar.get_facecolor() for bar in right.patches]
    assert colours[0] != colours[1] == colours[2]
    assert right.get_legend().get_patches()[0].get_facecolor() == colours[1]
    assert right.get_legend().get_texts()[0].get_text().endswith("-2..-1")
    assert figures[1].axes[1].get_legend() is None


@pytest.fixture
def errors():
    parts = {"stem": ["whole"], "b.0": ["whole", "qkv", "fc"], "b.1": ["whole", "qkv", "fc"]}
    rows = [
        (unit, part, fmt, 0.1 * n + (fmt == "e8m1"), 0.01 * n)
        for fmt in ("e8m3", "e8m1")
        for n, (unit, part) in enumerate((u, p) for u, each in parts.items() for p in each)
    ]
    return pd.DataFrame(rows, columns=["unit", "part", "format", "block_drop", "logits_drop"])


def test_the_units_figure_has_units_and_means_of_parts(errors, figures, tmp_path) -> None:
    mantissa.plot_errors(errors, "net", tmp_path / "units.png")
    left, right = figures[0].axes
    assert [text.get_text() for text in left.get_xticklabels()] == ["stem", "b.0", "b.1"]
    assert list(left.lines[0].get_ydata()) == pytest.approx([0, 0.1, 0.4])
    assert [text.get_text() for text in right.get_xticklabels()] == ["qkv", "fc"]
    assert list(right.lines[0].get_ydata()) == pytest.approx([0.35, 0.45])  # of 2 and 5, 3 and 6
    assert right.lines[1].get_color() == ORANGE
    assert "e8m3" in figures[0].get_suptitle()
    # Without attention there is one panel; a format that loses nothing draws nothing, in silence.
    whole = errors[errors["part"] == "whole"].assign(block_drop=0.0, logits_drop=0.0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        mantissa.plot_errors(whole, "net", tmp_path / "units.png")
    assert len(figures[1].axes) == 1


def test_tables_show_each_number_where_it_belongs(accuracy, errors) -> None:
    text = printed(mantissa.accuracy_table(accuracy, "net")).splitlines()
    assert text[1].split() == ["e", *(f"m={m}" for m in (23, 10, 7, 5, 4, 3, 2, 1, 0))]
    assert text[3].split() == ["8", *["90.00"] * 8, "88.00"]
    assert text[9].split() == ["2", *["90.00"] * 4, "90.00", *["40.00"] * 4]
    text = printed(mantissa.errors_table(errors))
    assert "b.1" in text
    assert "6.00e-01 6.00e-02" in " ".join(text.split())
    layers = pd.DataFrame(
        {
            "layer": ["conv", "none"], "weights": [1000, 2], "kurtosis_pearson": [4.5, np.nan],
            "kurtosis_excess": [1.5, np.nan], "zeros": [3, 2], "largest": [0.75, 0.0],
            "span_low": pd.array([-9, None], "Int64"), "span_high": pd.array([-1, None], "Int64"),
        }
    )  # fmt: skip
    text = printed(mantissa.weights_table(layers)).splitlines()
    assert text[-2].split() == ["conv", "1,000", "4.50", "1.50", "0.75", "3", "-9..-1"]
    assert text[-1].split() == ["none", "2", "nan", "nan", "0", "2", "-"]


@pytest.fixture
def networks():
    columns = ["model", "family", "kind", "parameters", "fewest_mantissa_bits", "bits_at_limit"]
    table = pd.DataFrame([row[:-1] for row in NETWORKS], columns=columns)
    table = table.astype({"fewest_mantissa_bits": "Int64", "bits_at_limit": float})
    losses = {f"loss_m{m}": [row[-1] / 2**m for row in NETWORKS] for m in WIDTHS}
    return table.assign(top1_fp32=0.9, **losses)


def test_the_table_has_a_row_per_network(networks) -> None:
    text = printed(mantissa.tolerance_table(networks, "all"))
    rows = [" ".join(line.split()) for line in text.splitlines()[-3:]]
    assert rows[0] == "small Net convolutional 1,000 90.00 2 1.75 5.00 10.00 20.00 40.00"
    assert rows[2] == "vit ViT transformer 5,000 90.00 - - 10.00 20.00 40.00 80.00"


def test_a_family_has_a_look_and_a_transformer_is_hollow(networks, figures, tmp_path) -> None:
    mantissa.plot_tolerance(networks, 0.01, "all", tmp_path / "tolerance.png")
    losses, sizes = figures[0].axes
    net, vit = sizes.lines
    assert list(net.get_xdata()) == [1000, 9000]
    assert list(net.get_ydata()) == [1.75, 0.5]
    assert sizes.get_xscale() == "log"
    assert sizes.get_ylabel() == "mantissa bits at a loss of 1 point"
    names = [text.get_text() for text in sizes.get_legend().get_texts()]
    assert names == ["Net (convolutional)", "ViT (transformer)"]
    assert (net.get_linestyle(), vit.get_linestyle()) == ("-", "--")
    assert (net.get_markerfacecolor(), vit.get_markerfacecolor()) == (net.get_color(), "white")
    small, large, transformer, limit = losses.lines
    assert small.get_color() == large.get_color() == net.get_color() != transformer.get_color()
    assert small.get_markersize() < large.get_markersize()
    assert list(small.get_xdata()) == list(WIDTHS)
    assert list(small.get_ydata()) == pytest.approx([40 / 2**m for m in WIDTHS])
    assert limit.get_ydata()[0] == pytest.approx(1)
