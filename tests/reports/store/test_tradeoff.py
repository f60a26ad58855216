import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bfpsim.reports.store.tradeoff import AccuracyError, read_accuracies, unbeaten

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
        {"label": "007", "accuracy_loss": -0.01, "energy_pj": 1e6, "bits": 8}
    ]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("label,energy_pj\na,1\n", "has no column 'accuracy_loss'; needed: label, energy_pj,"),
        ("label,energy_pj,accuracy_loss\n", "has no row; needed: at least one"),
        ("", "is no CSV file"),
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
