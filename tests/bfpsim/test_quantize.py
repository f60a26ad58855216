"""The quantize command, in process: tables, files, training, and a line for every bad input."""

import json

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from bfpsim.commands.app import run
from bfpsim.quant.study.sensitivity import Sensitivity
from tests.idx_file import write_idx

NET = """
import torch
from torch import nn
def make():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 4, 3, stride=4), nn.ReLU(), nn.Flatten(), nn.Linear(196, 10))
def make2():
    return nn.Sequential(nn.Flatten(), nn.Linear(784, 10))
def named():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(784, 10)
        def forward(self, x):
            return {"logits": self.fc(x.flatten(1))}
    return Net()
def flat():
    return nn.Sequential(nn.Flatten(), nn.Linear(784, 1), nn.Flatten(0))
def three():
    return nn.Sequential(nn.Flatten(), nn.Linear(784, 3))
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


def test_a_trained_network_is_measured_against_the_float_network_before(files, capsys) -> None:
    """Wide formats: all that is between the trained rows and the original is the training."""
    data = ("--data", files / "images.gz", "--labels", files / "labels.gz")
    training = ("--train", files / "images.gz", "--train-labels", files / "labels.gz")
    formats = ("-f", "original", "-f", "bfp16")
    net = f"{files}/net.py:make"
    _, out, _ = call(capsys, net, *data, *training, *formats, "--qat", 40, "--json")
    original, before, after = json.loads(out)["accuracy"]
    assert (original["policy"], after["policy"]) == ("original", "bfp16 +QAT")
    assert before["logits_sqnr_db"] > 50
    assert after["logits_sqnr_db"] < 30
    assert after["accuracy_loss"] == pytest.approx(original["top1"] - after["top1"])
    assert after["accuracy_loss"] < 0


def test_networks_have_checkpoints_of_their_own(files, capsys) -> None:
    pixels = np.eye(2 * 28, 28, dtype=np.uint8).reshape(2, 28, 28)
    np.savez(files / "two.npz", images=pixels, labels=[0, 1])
    few = ("--data", files / "two.npz", "--train", files / "two.npz", "--qat", 1)
    networks = [f"{files}/net.py:make", f"{files}/net.py:make2", "resnet18-fashion"]
    for net in (*networks, networks[0]):
        code, _, _ = call(capsys, net, *few, "-f", "bfp8", "--checkpoints", files / "kept")
        assert code == 0
    names = {path.name for path in (files / "kept").iterdir()}
    stems = ("net-make", "net-make2", "resnet18-fashion")
    assert names == {f"{stem}-bfp8.safetensors" for stem in stems}


def test_grey_images_of_a_folder_at_their_own_size(files, capsys) -> None:
    """The same pixels as a folder and as an .npz file, and larger ones around them."""
    rng = np.random.default_rng(3)
    pixels = rng.integers(256, size=(12, 28, 28)).astype(np.uint8)
    classes = np.repeat(np.arange(10), [3, 1, 1, 1, 1, 1, 1, 1, 1, 1])
    np.savez(files / "data.npz", images=pixels, labels=classes)
    for i, (image, label) in enumerate(zip(pixels, classes, strict=True)):
        for folder, around in (("own", 0), ("wide", 6)):
            path = files / folder / str(label) / f"{i:02}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.pad(image, around)).save(path)
    net, formats = f"{files}/net.py:make", ("-f", "original", "-f", "bfp6e3b16", "--json")
    expected = call(capsys, net, "--data", files / "data.npz", *formats)
    assert expected[0] == 0
    for folder, *options in (
        ("own", "--resize", 28),
        ("own", "--crop", 28),
        ("wide", "--crop", 28),
        ("wide", "--resize", 40, "--crop", 28),
    ):
        data = ("--data", files / folder, "--grey", *options)
        assert call(capsys, net, *data, *formats) == expected
    data = ("--data", files / "wide", "--train", files / "wide", "--crop", 28, "--grey")
    code, out, _ = call(capsys, net, *data, "--qat", 1, "-f", "bfp8", "--csv")
    assert code == 0
    assert "bfp8 +QAT" in out


def test_a_table_that_could_not_be_written_is_refused_before_the_work(files, capsys) -> None:
    for path, message in (
        (files / "gone" / "table.csv", f"{files / 'gone'} is no folder; allowed: an existing one"),
        (files, f"--sensitivity {files} is a folder; allowed: a file, new or existing"),
    ):
        # The network does not exist either: the path comes first.
        code, _, error = call(capsys, "gone.safetensors", "--sensitivity", path)
        assert code == 2
        assert message in error
        assert error.count("\n") == 1


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
        (
            ["resnet18-fashion", "--normalise", "imagenet"],
            "--normalise 0.485,0.456,0.406/0.229,0.224,0.225 of the shipped images; allowed: "
            "fashion-mnist",
        ),
        (["resnet18-fashion", "--grey"], "--resize, --crop, --grey: shipped is no folder"),
        (["resnet18-fashion", "--data", "{}/images.gz", "--crop", "28"], "images.gz is no folder"),
        (
            ["resnet18-fashion", "--data", "{}", "--resize", "0"],
            "'--resize': Input should be greater",
        ),
        (
            ["resnet18-fashion", "--data", "{}", "--resize", "28", "--crop", "32"],
            "crop=32; allowed: 1..28, resize's length",
        ),
        (["resnet18-fashion", "--data", "{}/images.gz"], "images.gz needs labels"),
        (["resnet18-fashion", "--data", "x.idx"], "x.idx: no such file or folder; allowed"),
        (["resnet18-fashion", "--labels", "x"], "shipped brings its own labels; leave out x"),
        (["resnet18-fashion", "--data", "no", "--labels", "no"], "no: "),
        (["resnet18-fashion", "--count", "1001"], "first 1001 images asked for; allowed: 1..1000"),
        (["resnet18-fashion", "--sensitivity", "s.csv", "--baselines"], "--sensitivity runs alone"),
        (["{}/net.py:lstm", "--data", "shipped"], "multiply-accumulates without a quantised form"),
        (
            ["{}/net.py:named", "--count", "5"],
            "net.py:named: output dict for 4 images; allowed: one tensor (4, classes)",
        ),
        (
            ["{}/net.py:flat", "--count", "5", "-f", "bfp8", "--sensitivity", "{}/table.csv"],
            "net.py:flat: output (4,) for 4 images; allowed: one tensor (4, classes)",
        ),
        (["{}/net.py:three", "--count", "5", "-f", "bfp8"], "net.py:three; allowed: 0..2"),
        (["{}/net.py:lstm", "--count", "5"], "net.py:lstm: multiply-accumulates without a quan"),
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
