"""The quantize command, in process: tables, files, training, and a line for every bad input."""

import json

import numpy as np
import pandas as pd
import pytest
import torch

from bfpsim.cli import run
from quant.sensitivity import Sensitivity
from tests.idx_file import write_idx

NET = """
import torch
from torch import nn
def make():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 4, 3, stride=4), nn.ReLU(), nn.Flatten(), nn.Linear(196, 10))
def lstm():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.volume = nn.Conv3d(1, 2, 1)
            self.fc = nn.Linear(2, 10)
        def forward(self, x):
            return self.fc(self.volume(x[:, None]).mean((2, 3, 4)))
    return Net()
"""


def call(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    code = run(["quantize", *map(str, arguments)])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


@pytest.fixture
def files(tmp_path):
    (tmp_path / "net.py").write_text(NET)
    rng = np.random.default_rng(0)
    write_idx(tmp_path / "images.gz", rng.integers(256, size=(30, 28, 28)).astype(np.uint8))
    write_idx(tmp_path / "labels.gz", rng.integers(10, size=30).astype(np.uint8))
    return tmp_path


def test_a_module_with_data_of_its_own(files, capsys) -> None:
    net = f"{files}/net.py:make"
    data = ("--data", files / "images.gz", "--labels", files / "labels.gz")
    code, out, _ = call(capsys, net, *data, "-f", "original", "-f", "mxint8", "--json")
    report = json.loads(out)
    assert code == 0
    assert report["images"] == 30
    assert [row["policy"] for row in report["accuracy"]] == ["original", "mxint8"]
    assert report["accuracy"][0]["accuracy_loss"] == 0
    assert report["accuracy"][0]["weight_bits"] == (36 + 1960) * 32
    # The same images from an .npz file give the same.
    again = np.random.default_rng(0)
    pixels, classes = again.integers(256, size=(30, 28, 28)), again.integers(10, size=30)
    np.savez(files / "data.npz", images=pixels.astype(np.uint8), labels=classes)
    npz = ("--data", files / "data.npz", "-f", "original", "-f", "mxint8", "--json")
    assert call(capsys, net, *npz)[1] == out
    call(capsys, net, *data, "-f", "bfp8", "--out", files / "out")
    assert sorted(p.name for p in (files / "out").iterdir()) == [
        "accuracy.csv", "layers.csv", "summary.json"
    ]  # fmt: skip
    layers = pd.read_csv(files / "out" / "layers.csv", dtype=str)
    assert list(layers["layer"].unique()) == ["0", "3"]


def test_training_goes_on_from_its_checkpoint(files, capsys) -> None:
    arguments = (
        f"{files}/net.py:make",
        *("--data", files / "images.gz", "--labels", files / "labels.gz", "-f", "bfp6e3b16"),
        *("--train", files / "images.gz", "--train-labels", files / "labels.gz", "--csv"),
        *("--checkpoints", files / "kept"),
    )
    code, first, _ = call(capsys, *arguments, "--qat", 12)
    assert code == 0
    assert [line.split(",")[0] for line in first.splitlines()[1:]] == [
        "bfp6e3b16",
        "bfp6e3b16 +QAT",
    ]
    assert len(list((files / "kept").iterdir())) == 1
    assert call(capsys, *arguments, "--qat", 12)[1] == first
    code, _, error = call(capsys, *arguments, "--qat", 13)
    assert code == 2
    assert "kept" in error
    assert "steps" in error


def test_weights_from_a_checkpoint(files, capsys) -> None:
    import runpy

    make = runpy.run_path(str(files / "net.py"))["make"]
    state = make().state_dict()
    torch.save({name: 0 * tensor for name, tensor in state.items()}, files / "zero.pt")
    data = ("--data", files / "images.gz", "--labels", files / "labels.gz")
    net = f"{files}/net.py:make"
    code, out, _ = call(capsys, net, *data, "--weights", files / "zero.pt", "-f", "bfp8", "--json")
    assert code == 0
    assert {row["sqnr_db"] for row in json.loads(out)["layers"] if row["tensor"] == "W"} == {None}
    del state["0.bias"]
    torch.save(state, files / "cut.pt")
    code, _, error = call(capsys, net, *data, "--weights", files / "cut.pt")
    assert code == 2
    assert "cut.pt: 1 tensors missing for Sequential: 0.bias" in error


def test_sensitivity_writes_a_table_and_checks_it(files, capsys) -> None:
    table = files / "table.csv"
    code, out, _ = call(
        capsys,
        f"{files}/net.py:make",
        *("--data", files / "images.gz", "--labels", files / "labels.gz"),
        *("--sensitivity", table, "-f", "bfp8e3b4", "-f", "bfp8e5b8"),
    )
    assert code == 0
    assert "Spearman" in out
    assert "over 40 mixed choices" in out
    assert len(Sensitivity.load(table).table) == 2 * 3 * 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["resnet18"], "resnet18"),
        (["resnet18-fashion", "-f", "fp8"], "format 'fp8'; allowed: original, bitq16, bitq8"),
        (["resnet18-fashion", "--qat", "5"], "--qat and --train need each other"),
        (["resnet18-fashion", "--weights", "x.pt"], "--weights needs a module"),
        (["resnet18-fashion", "--checkpoints", "x"], "--checkpoints needs --qat"),
        (["resnet18-fashion", "--normalise", "1:2"], "--normalise '1:2'; allowed: fashion-mnist"),
        (["resnet18-fashion", "--data", "x.idx"], "x.idx needs labels"),
        (["resnet18-fashion", "--labels", "x"], "shipped brings its own labels; leave out x"),
        (["resnet18-fashion", "--data", "no", "--labels", "no"], "no: "),
        (["resnet18-fashion", "--count", "1001"], "first 1001 images asked for; allowed: 1..1000"),
        (["resnet18-fashion", "--sensitivity", "s.csv", "--baselines"], "--sensitivity runs alone"),
        (["{}/net.py:lstm", "--data", "shipped"], "multiply-accumulates without a quantised form"),
        (["{}/gone.py:make"], "there is no file"),
        (["gone.safetensors"], "gone.safetensors"),
    ],
)
def test_bad_input_gives_one_line_and_exit_code_2(files, capsys, arguments, message) -> None:
    code, out, error = call(capsys, *(argument.format(files) for argument in arguments))
    assert code == 2
    assert message in error
    assert error.count("\n") == 1
    assert out == ""
