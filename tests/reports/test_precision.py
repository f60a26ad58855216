"""What the tables and figures of accuracy against energy show."""

import io

import pandas as pd
import pytest
from rich.console import Console

from bfpsim.reports import precision
from bfpsim.reports.style import BLUE, ORANGE


@pytest.fixture
def energy():
    """e of 8 and 2, m of 3 to 0; a bit costs 10 pJ in all, of which 1 pJ is the SRAM's."""
    tops = {(8, 3): 0.9, (8, 2): 0.9, (8, 1): 0.7, (8, 0): 0.2, (2, 3): 0.8, (2, 2): 0.1}
    rows = []
    for (e, m), top in tops.items():
        bits = 1 + e + m
        rows.append(
            {
                "format": f"e{e}m{m}", "exponent_bits": e, "mantissa_bits": m, "bits": bits,
                "dram_bits": 1_000_000 * bits, "dram_weight_bits": 400_000 * bits,
                "dram_energy_pj": 9e6 * bits, "sram_energy_pj": 1e6 * bits,
                "energy_pj": 1e7 * bits, "energy_saved": 1 - bits / 12, "top1": top,
                "accuracy_loss": 0.9 - top,
            }
        )  # fmt: skip
    return pd.DataFrame(rows)


@pytest.fixture
def figures(monkeypatch):
    """Figures that would have been saved."""
    kept = []

    def keep(figure, path):
        figure.draw_without_rendering()
        kept.append(figure)

    monkeypatch.setattr(precision, "save", keep)
    return kept


def test_the_front_is_what_nothing_cheaper_reaches(energy) -> None:
    shuffled = energy.sample(frac=1, random_state=1)
    # e8m3 is no better than e8m2, e8m0 and e8m1 are no better than e2m3, which costs less.
    assert list(precision.front(shuffled)["format"]) == ["e2m2", "e2m3", "e8m2"]


def test_accuracy_is_drawn_against_energy(energy, figures, tmp_path) -> None:
    precision.plot_energy(energy, 0.01, "net", tmp_path / "energy.png")
    left, right = figures[0].axes
    lines = {line.get_color(): line for line in left.lines}
    assert list(lines[BLUE].get_xdata()) == pytest.approx([120, 110, 100, 90])
    assert list(lines[BLUE].get_ydata()) == pytest.approx([90, 90, 70, 20])
    assert [text.get_text() for text in left.texts] == ["3", "2", "1", "0"]
    # The front, and on to the right end.
    assert list(lines[ORANGE].get_xdata()) == pytest.approx([50, 60, 110, 120])
    assert list(lines[ORANGE].get_ydata()) == pytest.approx([10, 80, 90, 90])
    limit = next(line for line in left.lines if "less 1 point" in str(line.get_label()))
    assert limit.get_ydata()[0] == pytest.approx(89)
    # Three parts of each bar, from below: DRAM's weights, the rest of the DRAM, SRAM.
    assert [
        (bar.get_x() + bar.get_width() / 2, bar.get_y(), bar.get_height())
        for bar in right.patches[::4]
    ] == [pytest.approx(part) for part in ((3, 0, 43.2), (3, 43.2, 64.8), (3, 108, 12))]


def test_without_accuracy_the_energy_alone(energy, figures, tmp_path) -> None:
    alone = energy.drop(columns=["top1", "accuracy_loss"])
    precision.plot_energy(alone, 0.0, "net", tmp_path / "energy.png")
    assert len(figures[0].axes) == 1
    assert len(figures[0].axes[0].patches) == 3 * 4


def test_the_table_has_the_widest_exponent(energy) -> None:
    def printed(frame: pd.DataFrame) -> list[str]:
        stream = io.StringIO()
        Console(file=stream, width=200).print(precision.energy_table(frame, "net"))
        return [" ".join(line.split()) for line in stream.getvalue().splitlines()[-4:]]

    first = "3 12 12.000 4.800 108.00 12.00 120.00 0.0 90.00 0.00"
    last = "0 9 9.000 3.600 81.00 9.00 90.00 25.0 20.00 70.00"
    found = printed(energy)
    assert (found[0], found[-1]) == (first, last)
    assert printed(energy.drop(columns=["top1", "accuracy_loss"]))[0] == first.removesuffix(
        " 90.00 0.00"
    )
