"""`simulate --trace`: the file beside the usual output, and what it refuses before any work."""

import json
from pathlib import Path

import pytest

from bfpsim.commands.app import run
from bfpsim.reports import trace

FC = ["simulate", "resnet18-fashion", "--layer", "fc", "--json"]


def test_the_trace_has_the_cycles_that_are_printed(capsys, tmp_path: Path) -> None:
    path = tmp_path / "fc.json"
    assert run([*FC, "--trace", str(path)]) == 0
    printed = capsys.readouterr()
    (layer,) = (e for e in json.loads(path.read_text())["traceEvents"] if e.get("cat") == "layer")
    assert layer["name"] == "fc"
    assert layer["dur"] == json.loads(printed.out)["cycles"]
    assert printed.err == ""


def test_a_run_with_images_can_be_traced(capsys, tmp_path: Path) -> None:
    path = tmp_path / "images.json.gz"
    arguments = ["resnet18-fashion", "--images", "shipped", "--count", "1", "--json"]
    assert run(["simulate", *arguments, "--trace", str(path)]) == 0
    assert path.read_bytes().startswith(b"\x1f\x8b")


def test_what_is_left_out_is_said_in_one_line(capsys, tmp_path: Path, monkeypatch) -> None:
    real = trace.write_trace
    monkeypatch.setattr(trace, "write_trace", lambda result, path: real(result, path, 5))
    path = tmp_path / "fc.json"
    assert run([*FC, "--trace", str(path)]) == 0
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"bfpsim: {path}: holds the first 5 of ")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("fc.txt", "fc.txt; allowed: a name that ends in .json or .json.gz"),
        ("nowhere/fc.json", "nowhere is no folder; allowed: an existing one"),
        ("folder.json", "folder.json is a folder; allowed: a file, new or existing"),
    ],
)
def test_a_place_that_cannot_be_written_is_refused_before_the_work(
    capsys, tmp_path: Path, monkeypatch, name: str, message: str
) -> None:
    monkeypatch.setattr("bfpsim.sim.simulate.simulate_network", lambda *_: pytest.fail("simulated"))
    (tmp_path / "folder.json").mkdir()
    assert run([*FC, "--trace", str(tmp_path / name)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("bfpsim: --trace ")
    assert line.endswith(message)
