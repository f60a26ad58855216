"""The validate command, in process: every rung, and the exit code."""

import json

import pytest

from bfpsim.commands.app import run

SMALL = ["--layer", "fc"]


def call(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = run(list(arguments))
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_validate_agrees_and_lists_every_rung(capsys) -> None:
    code, text, _ = call(capsys, "validate", "resnet18-fashion", *SMALL, "--json")
    report = json.loads(text)
    assert code == 0
    assert report["agrees"] is True
    layer, total = report["validation"]
    rungs = ("edges", "padding", "halo", "partial_sums", "cut_blocks", "bursts")
    assert layer["simulated_bits"] == total["simulated_bits"]
    explained = layer["paper_bits"] + sum(layer[f"{rung}_bits"] for rung in rungs)
    assert explained == pytest.approx(layer["simulated_bits"])
    assert layer["exact_bits"] + layer["bursts_bits"] == layer["simulated_bits"]


def test_validate_exits_1_when_model_and_simulation_differ(capsys, monkeypatch) -> None:
    import bfpsim.sim.validate as sim_validate

    real = sim_validate.model_counts

    def off_by_one(*arguments):
        counts = real(*arguments)
        counts.add("DRAM", "I", "read", "mantissa", 1)
        return counts

    monkeypatch.setattr(sim_validate, "model_counts", off_by_one)
    code, _, error = call(capsys, "validate", "resnet18-fashion", *SMALL)
    assert code == 1
    assert error == "bfpsim: the exact model and the simulation differ in: fc\n"
