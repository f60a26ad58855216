"""Levels of other names, and more of them, show up in tables and figures by themselves."""

import io

import pandas as pd
import pytest
from rich.console import Console

from bfpsim.quant.formats import BFP, LayerFormats
from bfpsim.reports.capacity import plot_sweep, sweep_table
from bfpsim.reports.levels import levels_in
from bfpsim.reports.store.figures import plot_energy
from bfpsim.reports.style import BLUE, ORANGE, SKY
from bfpsim.reports.tables import arch_table
from bfpsim.reports.tradeoff import energy_table
from bfpsim.search.buffers import sweep_capacity
from tests.generate import deep_arch


@pytest.fixture
def deeper(sweep) -> pd.DataFrame:
    """A sweep of an accelerator with accumulators, which take a tenth of the SRAM's energy."""
    frame = sweep.copy()
    at = [*frame].index("sram_energy_pj") + 1
    frame.insert(at, "acc_energy_pj", frame["sram_energy_pj"] / 10)
    frame["energy_pj"] += frame["acc_energy_pj"]
    return frame


def printed(table) -> list[list[str]]:
    stream = io.StringIO()
    Console(file=stream, width=200).print(table)
    return [line.split() for line in stream.getvalue().splitlines()]


def test_levels_are_read_from_a_table_outermost_first(deeper, sweep) -> None:
    assert [level.name for level in levels_in(sweep)] == ["DRAM", "SRAM"]
    outermost, sram, acc = levels_in(deeper)
    assert (outermost.name, sram.name, acc.name) == ("DRAM", "SRAM", "acc")
    assert (outermost.colour, sram.colour, acc.colour) == (BLUE, ORANGE, SKY)
    assert acc.column("O_energy_pj") == "acc_O_energy_pj"
    # Energies of tensors, and of what no mapping avoids, are no levels.
    tensors = deeper.assign(dram_I_energy_pj=1.0, hbm_energy_pj=2.0)
    assert [level.name for level in levels_in(tensors)][-1] == "hbm"


def test_a_level_has_a_column_and_a_bar(deeper, tmp_path, monkeypatch) -> None:
    rows = printed(sweep_table(deeper))
    assert rows[1][-5:] == ["DRAM", "SRAM", "acc", "total", "cycles"]
    first = deeper.iloc[0]
    assert f"{first['acc_energy_pj'] / 1e9:,.3f}" in rows[4]
    figures = []
    monkeypatch.setattr("bfpsim.reports.capacity.save", lambda figure, path: figures.append(figure))
    plot_sweep(deeper, tmp_path / "unused.png")
    bars = {bar.get_label(): [*bar] for bar in figures[0].axes[1].containers}
    assert list(bars) == ["acc", "SRAM", "DRAM"]
    top = bars["acc"][0]
    assert top.get_y() + top.get_height() == pytest.approx(first["energy_pj"] / 1e9)


def test_widths_and_breakdowns_have_it_too(monkeypatch, tmp_path) -> None:
    row = {
        "exponent_bits": 8, "mantissa_bits": 3, "bits": 12, "hbm_bits": 4e6,
        "hbm_weight_bits": 1e6, "hbm_energy_pj": 4e6, "sram_energy_pj": 2e6,
        "acc_energy_pj": 1e6, "energy_pj": 7e6, "energy_saved": 0.25,
    }  # fmt: skip
    lines = printed(energy_table(pd.DataFrame([row]), "net"))
    assert lines[-1] == ["3", "12", "4.000", "1.000", "4.00", "2.00", "1.00", "7.00", "25.0"]

    parts = {
        f"{level}_{tensor}_energy_pj": [1.0] for level in ("hbm", "sram", "acc") for tensor in "IWO"
    }
    frame = pd.DataFrame(
        {
            "point": [0], "network": ["n"], "formats": ["f"], "layers": ["alone"],
            "layer": ["l"], "cycles": [1],
            "capacity_bits": [8192], "hbm_bits": [1], "hbm_energy_pj": [3.0],
            "sram_energy_pj": [3.0],
            "acc_energy_pj": [3.0], **parts, "energy_pj": [9.0],
        }
    )  # fmt: skip
    figures = []
    monkeypatch.setattr(
        "bfpsim.reports.store.figures.save", lambda figure, path: figures.append(figure)
    )
    plot_energy(frame, frame, tmp_path / "unused.png")
    names = [bars.get_label() for bars in figures[0].axes[0].containers]
    assert names == [f"{level} {t}" for level in ("hbm", "SRAM", "acc") for t in "IWO"]


def test_capacities_of_a_machine_with_levels_inside_sram(network, tmp_path) -> None:
    formats = LayerFormats.uniform(BFP(8, 3, 16))
    frame = sweep_capacity(network, deep_arch(), formats, ["4 KiB", "8 KiB"])
    levels = levels_in(frame)
    assert [level.name for level in levels] == ["DRAM", "SRAM", "in", "acc"]
    parts = frame[[level.column("energy_pj") for level in levels]]
    assert parts.sum(axis=1).tolist() == pytest.approx(frame["energy_pj"].tolist())
    share = network.macs / (256 * frame["cycles"])
    assert frame["utilisation"].tolist() == pytest.approx(share.tolist())
    plot_sweep(frame, tmp_path / "sweep.png")
    assert (tmp_path / "sweep.png").stat().st_size > 10_000


def test_levels_inside_sram_are_in_the_table_of_architectures() -> None:
    rows = printed(arch_table([deep_arch()]))
    assert " ".join(rows[-1]).startswith("deep 64 KiB in 8 KiB, acc 16 KiB 500 MHz")
