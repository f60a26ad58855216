"""Results as HTML: read back, they hold the result's own numbers."""

from dataclasses import replace
from html.parser import HTMLParser

import pandas as pd
import pytest

from bfpsim.arch import load_arch
from bfpsim.quant.formats import BFP, LayerFormats
from bfpsim.sim.validate import Validation, validate
from bfpsim.workloads import NetworkBuilder


class Table(HTMLParser):
    """The cells of the only table, row by row, and the text before it; tags must balance."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self.text = ""
        self._open: list[str] = []
        self.feed(html)
        assert not self._open

    def handle_starttag(self, tag: str, attributes) -> None:
        self._open.append(tag)
        if tag == "tr":
            self.rows.append([])

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self._open and self._open[-1] in ("td", "th"):
            self.rows[-1].append(data)
        elif "table" not in self._open:
            self.text += data


@pytest.fixture(scope="module")
def validation() -> Validation:
    build = NetworkBuilder("a<b>&c", input_shape=(1, 12, 12, 8))
    x = build.conv("conv1", "input", 16, kernel=3, padding=1)
    build.conv("conv2", x, 32, kernel=3, padding=1)
    return validate(build.network(), load_arch("ideal-16k"), LayerFormats.uniform(BFP(8, 3, 16)))


def test_a_network_shows_its_layers_and_totals(validation: Validation) -> None:
    network = validation.simulated
    table = Table(network._repr_html_())
    header, *rows = table.rows
    assert [row[0] for row in rows] == ["conv1", "conv2"]
    assert table.text.startswith(f"a<b>&c on ideal-16k: 2 layers, {network.cycles:,} cycles")
    shown = [int(row[header.index("cycles")].replace(",", "")) for row in rows]
    assert shown == [layer.cycles for layer in network.layers]
    bits = [int(row[header.index("dram_bits")].replace(",", "")) for row in rows]
    assert bits == [layer.counts.total("DRAM") for layer in network.layers]


def test_a_layer_shows_its_traffic(validation: Validation) -> None:
    layer = validation.simulated.layers[1]
    table = Table(layer._repr_html_())
    header, *rows = table.rows
    assert len(rows) == len(layer.traffic)
    shown = sum(int(row[header.index("bits")].replace(",", "")) for row in rows)
    assert shown == layer.counts.total()
    assert f"stalled by I {layer.stalls['I']:,}, W" in table.text


def test_a_validation_shows_its_verdict(validation: Validation) -> None:
    table = Table(validation._repr_html_())
    header, *rows = table.rows
    assert table.text.endswith("the simulation equals the exact model to the bit and cycle")
    assert [row[0] for row in rows] == ["conv1", "conv2", "total"]
    error = validation.to_frame()["paper_error"].iloc[-1]
    assert rows[-1][header.index("paper_error")] == f"{error:+.1%}"

    first, *others = validation.layers
    wrong = replace(validation, layers=(replace(first, exact=first.exact + 1), *others))
    assert "differs from the exact model in some layer" in wrong._repr_html_()


def test_long_results_are_cut_as_pandas_cuts_them(validation: Validation) -> None:
    network = replace(validation.simulated, layers=validation.simulated.layers * 20)
    with pd.option_context("display.max_rows", 10):
        assert len(Table(network._repr_html_()).rows) == 1 + 10 + 1  # header, rows, "..."
