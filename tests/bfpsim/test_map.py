"""The map command, in process: mappings, staircases, solvers."""

import json
from pathlib import Path

import pytest

from bfpsim.commands.app import run

SMALL = ["--layer", "fc"]


def call(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = run(list(arguments))
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_map_prints_and_rescores(capsys) -> None:
    code, text, _ = call(capsys, "map", "resnet18-fashion", *SMALL)
    assert code == 0
    assert "Mappings of resnet18-fashion" in text
    code, text, _ = call(
        capsys, "map", "resnet18", "--layer", "layer4.0.conv2", "--rescore", "5", "--json"
    )
    report = json.loads(text)
    assert code == 0
    assert report["regret"].startswith("simulation chose another mapping than the model for 1 of 1")
    (row,) = report["mappings"]
    assert row["trusted_cost"] > 2 * row["simulated_cost"]


def test_map_curve_writes_a_table_and_a_figure(capsys, tmp_path: Path) -> None:
    out = tmp_path / "curve"
    code = run(["map", "resnet18-fashion", *SMALL, "--curve", "--out", str(out)])
    assert code == 0
    assert {file.name for file in out.iterdir()} == {"curve.csv", "curve.png", "summary.json"}
    assert (out / "curve.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--curve", "--rescore", "2"], "--curve is of DRAM payload"),
        (["--rescore", "0"], "--rescore"),
        (["--objective", "beauty"], "--objective"),
        (["--curve", "--arch", "ideal-64k-split"], "has a buffer per tensor"),
    ],
)
def test_map_refuses(capsys, options: list[str], expected: str) -> None:
    code, _, error = call(capsys, "map", "resnet18-fashion", *SMALL, *options)
    assert (code, error.count("\n")) == (2, 1)
    assert expected in error


def test_map_compares_solvers(capsys) -> None:
    options = ["--solver", "enumerate", "--solver", "relaxed", "--seconds", "5", "--json"]
    code, text, _ = call(capsys, "map", "resnet18-fashion", *SMALL, *options)
    rows = json.loads(text)["solvers"]
    assert code == 0
    assert [row["solver"] for row in rows] == ["enumerate", "relaxed"]
    code, text, _ = call(capsys, "map", "resnet18-fashion", *SMALL, *options[:2])
    assert "solver's" in text
    code, _, error = call(
        capsys, "map", "resnet18-fashion", *SMALL, *options[:2], "--objective", "energy"
    )
    assert (code, error.count("\n")) == (2, 1)
