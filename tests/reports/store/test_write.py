import csv
import os
import re
import subprocess
import sys
from unittest.mock import Mock

import pandas as pd
import pytest

from bfpsim.reports.store.write import write_report
from bfpsim.search.store import Store
from tests.reports.store.conftest import fill

REPORT = """
import sys
from bfpsim.reports.store.write import write_report
write_report(sys.argv[1], sys.argv[2], sweep=sys.argv[3], accuracy=sys.argv[4])
"""


def shown(folder):
    """The page without its data, script and figures."""
    return re.sub(r"<(script|style|img)\b.*?(</\1>|>)", "", (folder / "report.html").read_text())


@pytest.fixture
def no_figures(monkeypatch):
    """Pages without figures, which take a second."""
    monkeypatch.setattr("bfpsim.reports.store.write.draw_figures", lambda *_: [])


def test_another_process_writes_the_same_bytes(report, store, spec, accuracy, tmp_path):
    command = [sys.executable, "-c", REPORT, store, tmp_path, spec, accuracy]
    subprocess.run(command, check=True, env=os.environ | {"PYTHONHASHSEED": "1"})
    first, second = (
        {path.name: path.read_bytes() for path in folder.iterdir()} for folder in (report, tmp_path)
    )
    assert first == second
    assert {*first} == {
        *("points.csv", "layers.csv", "traffic.csv", "gaps.csv", "accuracy.csv", "report.html"),
        *(
            f"tiny-b-co-b-x-frac-y-{what}.png"
            for what in ("capacity", "time", "energy", "stalls", "roofline")
        ),
        *("tiny-b-co-b-x-frac-y-models.png", "accuracy.png"),
    }


def test_tables_are_there_in_full_precision(report, findings):
    points = pd.read_csv(report / "points.csv")
    assert points["energy_pj"].tolist() == findings.points["energy_pj"].tolist()
    assert points["exact_bits"].tolist() == findings.points["exact_bits"].tolist()
    traffic = pd.read_csv(report / "traffic.csv")
    assert traffic["energy_pj"].tolist() == findings.traffic["energy_pj"].tolist()
    unbeaten = pd.read_csv(report / "accuracy.csv")["unbeaten"]
    assert unbeaten.tolist() == [True, True, False, True]


def test_an_empty_store_makes_a_report_that_says_so(tmp_path):
    Store(tmp_path / "store").close()
    written = write_report(tmp_path / "store", tmp_path / "out")
    assert (written.points, written.failed, written.missing) == (0, 0, 0)
    assert [path.name for path in written.files] == [
        *("points.csv", "layers.csv", "traffic.csv", "gaps.csv", "report.html")
    ]
    text = shown(tmp_path / "out")
    assert "There is no result yet" in text
    assert "Whether points are missing is not known" in text
    assert "No accuracies were given" in text


def test_a_partial_sweep_is_reported_as_far_as_it_is(tmp_path, planned, spec, no_figures):
    store = fill(tmp_path / "store", planned[:4])
    written = write_report(store, tmp_path / "out", sweep=spec)
    assert (written.points, written.failed, written.missing) == (2, 2, 12)
    text = shown(tmp_path / "out")
    assert "Points without a result: 2 failed, 12 missing" in text
    gaps = pd.read_csv(tmp_path / "out" / "gaps.csv")
    assert gaps["state"].value_counts().to_dict() == {"missing": 12, "failed": 2}


def test_gaps_of_an_earlier_report_do_not_stay(tmp_path, planned, no_figures):
    store = fill(tmp_path / "store", planned[:1])
    write_report(store, tmp_path / "out")
    assert len(pd.read_csv(tmp_path / "out" / "gaps.csv")) == 1
    store = fill(tmp_path / "other", planned[4:5])
    write_report(store, tmp_path / "out")
    assert len(pd.read_csv(tmp_path / "out" / "gaps.csv")) == 0


def test_a_sweep_that_failed_everywhere_lists_why(tmp_path, planned, spec):
    store = fill(tmp_path / "store", [*planned[:2], *planned[8:10]])
    written = write_report(store, tmp_path / "out")
    assert (written.points, written.failed) == (0, 4)
    assert "Points without a result: 4 failed;" in shown(tmp_path / "out")
    assert "no mapping fits ideal-16k" in (tmp_path / "out" / "report.html").read_text()


def test_long_tables_stay_out_of_the_page(tmp_path, store, findings, monkeypatch, no_figures):
    monkeypatch.setattr("bfpsim.reports.store.write._LAYERS", 3)
    write_report(store, tmp_path)
    assert f"layers.csv has all {len(findings.layers)} rows" in shown(tmp_path)
    assert len(pd.read_csv(tmp_path / "layers.csv")) == len(findings.layers)


def test_a_report_that_fails_leaves_what_was_there(tmp_path, store, planned, monkeypatch):
    fail = Mock(side_effect=ValueError("no figure"))
    monkeypatch.setattr("bfpsim.reports.store.figures.plot_ladder", fail)
    with pytest.raises(ValueError, match="no figure"):
        write_report(fill(tmp_path / "store", planned[4:5]), tmp_path / "out")
    assert not (tmp_path / "out").exists()
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "points.csv").write_text("of before")
    with pytest.raises(ValueError, match="no figure"):
        write_report(tmp_path / "store", tmp_path / "old")
    assert [path.name for path in (tmp_path / "old").iterdir()] == ["points.csv"]
    assert (tmp_path / "old" / "points.csv").read_text() == "of before"


def test_a_spreadsheet_finds_no_formula_in_a_report(report):
    for path in report.glob("*.csv"):
        with path.open(newline="") as file:
            cells = [cell for row in csv.reader(file) for cell in row]
        assert [cell for cell in cells if re.match(r"[=@\t]|[+-](?![0-9])", cell)] == []
    assert "'=a$\\frac{x$" in (report / "layers.csv").read_text()


def test_progress_is_told(tmp_path, store, planned):
    told = []
    write_report(fill(tmp_path / "store", planned[4:5]), tmp_path / "out", progress=told.append)
    assert told[0] == "reading point 0 of 1"
    assert told[-1] == "writing report.html"


def test_a_folder_that_is_a_file_is_an_error(tmp_path, store):
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="file"):
        write_report(store, tmp_path / "file")
