"""What the table and the figure of several networks' tolerance show."""

import io

import pandas as pd
import pytest
from rich.console import Console

from bfpsim.quant.mantissa.accuracy import WIDTHS
from bfpsim.reports import tolerance

NETWORKS = [  # model, family, kind, parameters, fewest, at the limit, loss at m = 0
    ("small", "Net", "convolutional", 1000, 2, 1.75, 0.4),
    ("large", "Net", "convolutional", 9000, 1, 0.5, 0.2),
    ("vit", "ViT", "transformer", 5000, None, None, 0.8),
]


@pytest.fixture
def frame():
    columns = ["model", "family", "kind", "parameters", "fewest_mantissa_bits", "bits_at_limit"]
    table = pd.DataFrame([row[:-1] for row in NETWORKS], columns=columns)
    table = table.astype({"fewest_mantissa_bits": "Int64", "bits_at_limit": float})
    losses = {f"loss_m{m}": [row[-1] / 2**m for row in NETWORKS] for m in WIDTHS}
    return table.assign(top1_fp32=0.9, **losses)


def test_the_table_has_a_row_per_network(frame) -> None:
    stream = io.StringIO()
    Console(file=stream, width=200).print(tolerance.tolerance_table(frame, "all"))
    rows = [" ".join(line.split()) for line in stream.getvalue().splitlines()[-3:]]
    assert rows[0] == "small Net convolutional 1,000 90.00 2 1.75 5.00 10.00 20.00 40.00"
    assert rows[2] == "vit ViT transformer 5,000 90.00 - - 10.00 20.00 40.00 80.00"


def test_a_family_has_a_look_and_a_transformer_is_hollow(frame, monkeypatch, tmp_path) -> None:
    figures = []

    def keep(figure, path):
        figure.draw_without_rendering()
        figures.append(figure)

    monkeypatch.setattr(tolerance, "save", keep)
    tolerance.plot_tolerance(frame, 0.01, "all", tmp_path / "tolerance.png")
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
