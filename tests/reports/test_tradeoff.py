"""What the tables and figures of accuracy against energy show, and which choices are unbeaten."""

import io

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from bfpsim.reports import tradeoff
from bfpsim.reports.style import BLUE, ORANGE
from bfpsim.reports.tradeoff import AccuracyError, read_accuracies, unbeaten


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

    monkeypatch.setattr(tradeoff, "save", keep)
    return kept


def test_the_front_is_what_nothing_cheaper_reaches(energy) -> None:
    shuffled = energy.sample(frac=1, random_state=1)
    # e8m3 is no better than e8m2, e8m0 and e8m1 are no better than e2m3, which costs less.
    assert list(tradeoff.front(shuffled)["format"]) == ["e2m2", "e2m3", "e8m2"]


def test_accuracy_is_drawn_against_energy(energy, figures, tmp_path) -> None:
    tradeoff.plot_energy(energy, 0.01, "net", tmp_path / "energy.png")
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
    tradeoff.plot_energy(alone, 0.0, "net", tmp_path / "energy.png")
    assert len(figures[0].axes) == 1
    assert len(figures[0].axes[0].patches) == 3 * 4


def test_the_table_has_the_widest_exponent(energy) -> None:
    def printed(frame: pd.DataFrame) -> list[str]:
        stream = io.StringIO()
        Console(file=stream, width=200).print(tradeoff.energy_table(frame, "net"))
        return [" ".join(line.split()) for line in stream.getvalue().splitlines()[-4:]]

    first = "3 12 12.000 4.800 108.00 12.00 120.00 0.0 90.00 0.00"
    last = "0 9 9.000 3.600 81.00 9.00 90.00 25.0 20.00 70.00"
    found = printed(energy)
    assert (found[0], found[-1]) == (first, last)
    assert printed(energy.drop(columns=["top1", "accuracy_loss"]))[0] == first.removesuffix(
        " 90.00 0.00"
    )


choices = st.lists(st.tuples(st.integers(0, 6), st.integers(-2, 4)), min_size=1, max_size=12).map(
    lambda pairs: pd.DataFrame(
        {
            "label": [str(place) for place in range(len(pairs))],
            "energy_pj": [float(energy) for energy, _ in pairs],
            "accuracy_loss": [loss / 8 for _, loss in pairs],
        }
    )
)


@given(choices)
def test_nothing_is_as_good_in_both_as_what_is_unbeaten(frame):
    best = unbeaten(frame)
    pairs = set(zip(frame["energy_pj"], frame["accuracy_loss"], strict=True))

    def beaten(one):
        return any(o != one and o[0] <= one[0] and o[1] <= one[1] for o in pairs)

    found = list(zip(best["energy_pj"], best["accuracy_loss"], strict=True))
    assert found == sorted(one for one in pairs if not beaten(one))
    assert [*best] == [*frame]


def test_other_columns_stay(tmp_path):
    path = tmp_path / "accuracy.csv"
    path.write_text("label,accuracy_loss,energy_pj,bits\n007,-0.01,1e6,8\n")
    frame = read_accuracies(path)
    assert frame.to_dict(orient="records") == [
        {"label": "007", "accuracy_loss": -0.01, "energy_pj": 1e6, "bits": "8"}
    ]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("label,energy_pj\na,1\n", "has no column 'accuracy_loss'; needed: label, energy_pj,"),
        ("label,energy_pj,accuracy_loss\n", "has no row; needed: at least one"),
        ("", "is empty; needed: label, energy_pj, accuracy_loss"),
        ("label,energy_pj,accuracy_loss\nx,a,1e6,\n", ":2: 4 cells; allowed: 3, as the header has"),
        ("label,energy_pj,accuracy_loss\nx,1e6,0,\n", ":2: 4 cells; allowed: 3, as the header has"),
        ("label,energy_pj,accuracy_loss\nx,1e6\n", ":2: 2 cells; allowed: 3, as the header has"),
        ("label,label,energy_pj,accuracy_loss\n,x,1,0\n", ":1: column 'label' stands twice"),
        ("label,energy_pj,accuracy_loss\na\x1b[31m,1,0\n", ":2: cell 'a\\x1b[31m': holds the co"),
        ('label,energy_pj,accuracy_loss\n"a,1,0\n', "is no CSV file (unexpected end of data)"),
        (f"label,energy_pj,accuracy_loss\na,{9 * 600},0\n".replace("5400", "9" * 5000), ":2: cell"),
        ("label,energy_pj,accuracy_loss\na,1,0\nb,x,0\n", ":3: energy_pj: 'x'; allowed: a number"),
        ("label,energy_pj,accuracy_loss\na,-1,0\n", ":2: energy_pj: '-1'; allowed: a number of pJ"),
        ("label,energy_pj,accuracy_loss\na,1,5\n", ":2: accuracy_loss: '5'; allowed: a share of"),
        ("label,energy_pj,accuracy_loss\na,1,inf\n", ""),
        ("label,energy_pj,accuracy_loss\na,1,\n", ":2: accuracy_loss: ''; allowed: a share"),
        (b"label,energy_pj,accuracy_loss\n\xff,1,2\n", "is no CSV file"),
    ],
)
def test_other_files_are_refused_in_one_line(tmp_path, content, message):
    path = tmp_path / "accuracy.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(AccuracyError) as caught:
        read_accuracies(path)
    assert str(caught.value).startswith(str(path))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(AccuracyError, match="cannot be read: No such file"):
        read_accuracies(tmp_path / "none.csv")
