import struct

import matplotlib as mpl
import pytest

from bfpsim.reports.sweep import plot_sweep

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
