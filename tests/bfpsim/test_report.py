"""`bfpsim report`: what it writes and says, and what it refuses in one line."""

from pathlib import Path

import pytest

from bfpsim.commands.app import run
from bfpsim.search.store import Store


@pytest.fixture
def store(tmp_path) -> Path:
    path = tmp_path / "sweep.sqlite"
    with Store(path) as opened:
        opened.put_error("point", "f" * 64, "no mapping fits")
    return path


def test_a_report_says_what_it_wrote_and_what_failed(capsys, tmp_path, store):
    assert run(["report", str(store), "--out", str(tmp_path / "out")]) == 0
    printed = capsys.readouterr()
    assert (
        printed.out
        == f"wrote report.html and 4 tables and figures to {tmp_path / 'out'}: 0 points, 1 failed\n"
    )
    assert printed.err == ""
    assert (tmp_path / "out" / "report.html").exists()


def refused(capsys, *arguments: object) -> str:
    assert run(["report", *map(str, arguments)]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    (line,) = printed.err.splitlines()
    return line


def test_bad_input_is_refused_in_one_line(capsys, tmp_path, store):
    out = tmp_path / "out"
    text = tmp_path / "text"
    text.write_text(
        "not a store, and long enough to be read as the header of a database file\n" * 9
    )
    corrupt = tmp_path / "corrupt"
    corrupt.write_bytes(store.read_bytes()[:5000])

    assert "none: does not exist; allowed:" in refused(capsys, tmp_path / "none", "--out", out)
    assert f"{tmp_path}: is a folder" in refused(capsys, tmp_path, "--out", out)
    assert "text: is no store" in refused(capsys, text, "--out", out)
    assert "corrupt: is corrupt" in refused(capsys, corrupt, "--out", out)
    assert f"--out {text} is a file" in refused(capsys, store, "--out", text)
    assert "text:" in refused(capsys, store, "--out", out, "--sweep", text)
    assert "has no column 'label'" in refused(capsys, store, "--out", out, "--accuracy", text)
    assert not out.exists()


def test_a_folder_is_asked_for(capsys, store):
    assert run(["report", str(store)]) == 2
    assert "--out" in capsys.readouterr().err
