import struct

import matplotlib as mpl
import pandas as pd
import pytest

from bfpsim.reports.capacity import plot_energies, plot_sweep

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"


def chunks(png):
    """The names of a PNG's chunks, in order."""
    assert png.startswith(PNG_SIGNATURE)
    at, names = len(PNG_SIGNATURE), []
    while at < len(png):
        (length,) = struct.unpack(">I", png[at : at + 4])
        names.append(png[at + 4 : at + 8].decode())
        at += length + 12
    return names


def test_equal_tables_make_equal_bytes_whatever_the_users_style(sweep, tmp_path):
    plot_sweep(sweep, tmp_path / "one.png")
    with mpl.rc_context({"font.size": 20, "axes.facecolor": "red", "savefig.dpi": 50}):
        plot_sweep(sweep.iloc[::-1], tmp_path / "two.png")

    png = (tmp_path / "one.png").read_bytes()
    assert png == (tmp_path / "two.png").read_bytes()
    assert "tEXt" not in chunks(png), "text would hold versions or dates"


def test_one_capacity_can_be_drawn_and_none_cannot(sweep, tmp_path):
    plot_sweep(sweep.iloc[:1], tmp_path / "one.png")
    assert (tmp_path / "one.png").stat().st_size > 10_000
    with pytest.raises(ValueError, match="no row to draw"):
        plot_sweep(sweep.iloc[:0], tmp_path / "none.png")
    assert not (tmp_path / "none.png").exists()


@pytest.fixture
def energies(sweep):
    """One sweep twice: a constant, and a price that grows with the buffer."""
    constant = sweep.assign(energy="0.16 pJ/bit", read_pj=0.16, write_pj=0.16)
    grown = sweep["energy_pj"] * sweep["capacity_bits"]
    prices = {"read_pj": [0.1, 0.2, 0.4], "write_pj": [0.3, 0.2, 0.1]}
    table = sweep.assign(energy="cacti-45nm", energy_pj=grown, **prices)
    return pd.concat([constant, table])


def test_equal_energies_make_equal_bytes(energies, tmp_path):
    plot_energies(energies, tmp_path / "one.png")
    plot_energies(energies.copy(), tmp_path / "two.png")
    assert (tmp_path / "one.png").read_bytes() == (tmp_path / "two.png").read_bytes()


def test_every_line_and_the_least_of_each_are_drawn(energies, tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr("bfpsim.reports.capacity.save", lambda figure, path: drawn.append(figure))
    plot_energies(energies, tmp_path / "unused.png")

    bit, network = drawn[0].axes
    reads, writes = bit.lines[::2], bit.lines[1::2]
    assert [line.get_label() for line in reads] == ["0.16 pJ/bit", "cacti-45nm"]
    assert [list(line.get_ydata()) for line in reads] == [[0.16] * 3, [0.1, 0.2, 0.4]]
    assert [list(line.get_ydata()) for line in writes] == [[0.16] * 3, [0.3, 0.2, 0.1]]
    constant, large, table, small = (line.get_xydata().tolist() for line in network.lines)
    assert large == [min(constant, key=lambda point: point[1])]
    assert small == [min(table, key=lambda point: point[1])] == table[:1]


def test_no_energy_and_too_many_cannot_be_drawn(energies, tmp_path):
    with pytest.raises(ValueError, match="0 energies to draw; allowed: 1 to 5"):
        plot_energies(energies.iloc[:0], tmp_path / "none.png")
    many = pd.concat([energies.assign(energy=f"{i} pJ/bit") for i in range(6)])
    with pytest.raises(ValueError, match="6 energies to draw"):
        plot_energies(many, tmp_path / "many.png")
