import csv
import io
import json

import pandas as pd
import pytest
from rich.console import Console

from bfpsim.reports.report import Report, write_csv
from bfpsim.reports.style import make_table
from bfpsim.workloads.files.atomic import write_atomic


def test_text_and_bytes_arrive_as_they_are(tmp_path):
    write_atomic(tmp_path / "text", "µJ\nMbit\r\n")
    write_atomic(str(tmp_path / "bytes"), b"\x89PNG")

    assert (tmp_path / "text").read_bytes() == "µJ\nMbit\r\n".encode()
    assert (tmp_path / "bytes").read_bytes() == b"\x89PNG"
    assert sorted(file.name for file in tmp_path.iterdir()) == ["bytes", "text"]


@pytest.mark.parametrize("error", [OSError("disk full"), KeyboardInterrupt()])
def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch, error):
    path = tmp_path / "sweep.csv"
    write_atomic(path, "old\n")

    def fail(source, target):
        raise error

    monkeypatch.setattr("os.replace", fail)
    with pytest.raises(type(error)):
        write_atomic(path, "new\n")

    assert path.read_text() == "old\n"
    assert list(tmp_path.iterdir()) == [path]


def test_a_missing_folder_is_an_os_error(tmp_path):
    with pytest.raises(OSError, match="No such file or directory"):
        write_atomic(tmp_path / "nowhere" / "file", "text")


def test_csv_round_trip_keeps_every_digit(tmp_path):
    frame = pd.DataFrame(
        {"layer": ["conv1", "a, b"], "bits": [2**53 + 1, 7], "energy_pj": [0.1 + 0.2, 1e22 / 3]}
    )
    write_csv(frame, tmp_path / "one.csv")
    write_csv(frame, tmp_path / "two.csv")

    data = (tmp_path / "one.csv").read_bytes()
    assert data == (tmp_path / "two.csv").read_bytes()
    assert b"\r" not in data
    assert data.endswith(b"\n")
    header, *rows = csv.reader(data.decode().splitlines())
    assert header == list(frame.columns)
    read = [(layer, int(bits), float(energy)) for layer, bits, energy in rows]
    assert read == list(frame.itertuples(index=False, name=None))


@pytest.fixture
def report():
    rows = pd.DataFrame({"layer": ["a", "b"], "bits": [1, 2], "gap": [0.5, float("nan")]})
    more = pd.DataFrame({"x": [1]})

    def draw(path):
        path.write_bytes(b"\x89PNG")

    table = make_table("Shown", "layer")
    return Report(
        table, {"main": rows, "more": more}, {"net_name": "n", "loss": float("inf")},
        ("net_name",), {"figure": draw},
    )  # fmt: skip


def test_a_report_is_files_in_a_folder(report, tmp_path):
    files = report.write(tmp_path / "new")
    names = ["main.csv", "more.csv", "figure.png", "summary.json"]
    assert [path.name for path in files] == names
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == sorted(names)
    assert json.loads((tmp_path / "new" / "summary.json").read_text()) == {
        "net_name": "n", "loss": None
    }  # fmt: skip
    assert (tmp_path / "new" / "main.csv").read_text() == report.to_csv()


def test_a_report_is_json_without_what_json_has_no_word_for(report):
    assert json.loads(report.to_json()) == {
        "net_name": "n",
        "loss": None,
        "main": [{"layer": "a", "bits": 1, "gap": 0.5}, {"layer": "b", "bits": 2, "gap": None}],
        "more": [{"x": 1}],
    }


def test_a_report_can_be_printed(report):
    stream = io.StringIO()
    Console(file=stream, width=80).print(report)
    lines = [line.strip() for line in stream.getvalue().splitlines()]
    assert lines[0] == "Shown"
    assert lines[-1] == "net name: n"
