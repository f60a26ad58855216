"""The mantissa command, in process: tables, files, figures, and a line for every bad input."""

import json
import runpy
from pathlib import Path

import numpy as np
import onnx
import pandas as pd
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from bfpsim.arch import dump_arch, load_arch, replace
from bfpsim.commands.app import run
from bfpsim.workloads.files.atomic import write_atomic
from tests.idx_file import write_idx

NET = """
import torch
from torch import nn
def make():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 4, 3, stride=4), nn.ReLU(), nn.Flatten(), nn.Linear(196, 10))
def broken():
    module = make()
    with torch.no_grad():
        module[3].weight[2, 5] = float("nan")
    return module
def three():
    return nn.Sequential(nn.Flatten(), nn.Linear(784, 3))
class Wrapped(nn.Module):
    def __init__(self, wrap):
        super().__init__()
        self.fc, self.wrap = nn.Linear(784, 10), wrap
    def forward(self, x):
        return self.wrap(self.fc(x.flatten(1)))
def pair():
    return Wrapped(lambda y: (y, y))
def named():
    return Wrapped(lambda y: {"logits": y})
def flat():
    return Wrapped(lambda y: y[:, 0])
def empty():
    return nn.Sequential(nn.Flatten(), nn.ReLU())
def attentive():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(28, 10, bias=False)
            self.fc.weight.data = 2.0 ** torch.randint(-3, 4, (10, 28))
        def forward(self, x):
            x = x[:, 0]
            return self.fc((x @ x.transpose(1, 2)).softmax(-1) @ x).mean(1)
    return Net()
def product():
    class Net(nn.Module):
        def forward(self, x):
            x = x[:, 0]
            return (x @ x.transpose(1, 2)).mean(1)
    return Net()
"""


def call(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    code = run(["mantissa", *map(str, arguments)])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def save_onnx(path: Path, weight: np.ndarray | None) -> Path:
    """A linear layer, or an activation alone."""
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, 3]) for n in "xy"]
    node, held = helper.make_node("Relu", ["x"], ["y"], name="act"), []
    if weight is not None:
        node = helper.make_node("MatMul", ["x", "w"], ["y"], name="fc")
        held = [numpy_helper.from_array(weight.astype(np.float32), "w")]
    graph = helper.make_graph([node], "net", ends[:1], ends[1:], held)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    write_atomic(path, onnx.ModelProto.SerializeToString(model))
    return path


@pytest.fixture
def files(tmp_path):
    (tmp_path / "net.py").write_text(NET)
    rng = np.random.default_rng(0)
    write_idx(tmp_path / "images.gz", rng.integers(256, size=(30, 28, 28)).astype(np.uint8))
    write_idx(tmp_path / "labels.gz", rng.integers(10, size=30).astype(np.uint8))
    save_onnx(tmp_path / "net.onnx", rng.standard_normal((3, 3)))
    save_onnx(tmp_path / "act.onnx", None)
    small = replace(load_arch("ideal-64k"), "sram.capacity", "256 bit")
    (tmp_path / "tiny.yaml").write_text(dump_arch(small))
    return tmp_path


def test_every_table_and_figure_of_a_module(files, capsys) -> None:
    net, out = f"{files}/net.py:make", files / "out"
    data = ("--data", files / "images.gz", "--labels", files / "labels.gz", "--rounding")
    options = ("truncate", "--within", 100, "--unit-format", "e4m1", "--unit-format", "bf16")
    code, _, _ = call(capsys, net, *data, *options, "--out", out)
    assert code == 0
    assert sorted(p.name for p in out.iterdir()) == [
        "accuracy.csv", "curves.csv", "curves.png", "energy.csv", "energy.png", "exponents.csv",
        "heat_map.png", "histogram.csv", "layers.csv", "summary.json", "units.csv", "units.png",
        "weights.png",
    ]  # fmt: skip
    for figure in out.glob("*.png"):
        assert figure.read_bytes().startswith(b"\x89PNG")
    summary = json.loads((out / "summary.json").read_text())
    # With 100 points to lose, no bit is needed; there are 36 + 1960 weights.
    assert (summary["fewest_mantissa_bits"], summary["fewest_exponent_bits_with_these"]) == (0, 2)
    assert (summary["weights"], summary["images"]) == (1996, 30)
    assert summary["kurtosis_excess"] == pytest.approx(summary["kurtosis_pearson"] - 3)
    accuracy = pd.read_csv(out / "accuracy.csv")
    assert len(accuracy) == 7 * 24
    assert accuracy["format"].iloc[0] == "e8m23-truncate"
    assert summary["top1_fp32"] == accuracy["top1"].iloc[0]
    curves = pd.read_csv(out / "curves.csv")
    assert curves["along"].value_counts().to_dict() == {"mantissa_bits": 24, "exponent_bits": 14}
    units = pd.read_csv(out / "units.csv", dtype={"unit": str})
    assert [*zip(units["unit"], units["part"], units["format"], strict=True)] == [
        (unit, "whole", fmt) for unit in "03" for fmt in ("e4m1-truncate", "e8m7-truncate-infinity")
    ]
    layers = pd.read_csv(out / "layers.csv")
    assert layers["weights"].tolist() == [36, 1960]
    histogram, exponents = (pd.read_csv(out / f"{n}.csv") for n in ("histogram", "exponents"))
    assert histogram["count"].sum() == exponents["count"].sum() == 1996
    # Every format has an energy, the same for the same width.
    energy = pd.read_csv(out / "energy.csv")
    assert list(energy["format"]) == list(accuracy["format"])
    assert list(energy["top1"]) == list(accuracy["top1"])
    assert len(energy[["bits", "energy_pj"]].drop_duplicates()) == len(set(energy["bits"])) == 30
    saved = energy.set_index("format")["energy_saved"]
    both = ("energy_saved_percent_with_these_mantissa_bits", "energy_saved_percent_with_both")
    assert [summary[key] for key in both] == pytest.approx(
        [100 * saved["e8m0-truncate"], 100 * saved["e2m0-truncate"]], abs=0.005
    )
    assert summary["arch"] == "ideal-64k"


@pytest.mark.long
def test_the_same_command_makes_the_same_bytes(files, capsys) -> None:
    options = ("--data", files / "images.gz", "--labels", files / "labels.gz", "--unit-format")
    made = []
    for name in ("one", "other"):
        assert call(capsys, f"{files}/net.py:make", *options, "e4m1", "--out", files / name)[0] == 0
        made.append({path.name: path.read_bytes() for path in (files / name).iterdir()})
    assert made[0] == made[1]
    assert "heat_map.png" in made[0]


@pytest.mark.long
def test_activations_cost_more_than_weights_alone(files, capsys) -> None:
    """A checkpoint of zeros: the weights lose nothing, so what is lost is the activations'."""
    make = runpy.run_path(str(files / "net.py"))["make"]
    state = make().state_dict()
    state["3.weight"] = 2.0 ** torch.randint(-3, 4, state["3.weight"].shape)
    state["0.weight"] = 2.0 ** torch.randint(-3, 4, state["0.weight"].shape)
    torch.save(state, files / "powers.pt")
    data = ("--data", files / "images.gz", "--labels", files / "labels.gz", "--csv")
    options = (f"{files}/net.py:make", "--weights", files / "powers.pt", *data, "--count", 20)
    losses = []
    for more in ((), ("--activations",)):
        code, out, _ = call(capsys, *options, *more)
        assert code == 0
        rows = [line.split(",") for line in out.splitlines()]
        at = rows[0].index("top1")
        losses.append({row[at] for row in rows[1:] if row[0].startswith("e8")})
    # Powers of two are exact without a mantissa bit; activations are not.
    assert len(losses[0]) == 1
    assert len(losses[1]) > 1


def test_the_weights_of_an_onnx_file(files, capsys) -> None:
    weight = np.array([[1.0, -1.0, 3.0], [0.0, 0.0, 0.0], [2.0, 0.5, -0.5]])
    path = save_onnx(files / "small.onnx", weight)
    code, out, _ = call(capsys, path, "--json")
    assert code == 0
    report = json.loads(out)
    apart = weight - weight.mean()
    kurtosis = (apart**4).mean() / (apart**2).mean() ** 2
    assert report["kurtosis_pearson"] == pytest.approx(kurtosis)
    assert [(r["exponent"], r["count"]) for r in report["exponents"]] == [(-1, 2), (0, 2), (1, 2)]
    assert report["exponents_of_99.9_percent"] == "-1..1"
    assert report["layers"][0]["zeros"] == 3
    assert "accuracy" not in report
    # 9 weights; each tensor is one burst of 256 bit in float32, I and O stay so.
    assert report["energy"][0] == report["energy"][0] | {"format": "e8m23", "energy_saved": 0.0}
    assert [(r["bits"], r["dram_weight_bits"]) for r in report["energy"]][23::24] == [
        (bits, 256) for bits in (9, 8, 7, 6, 5, 4, 3)
    ]
    assert report["energy"][0]["dram_weight_bits"] == 512
    code, out, _ = call(capsys, path, "--out", files / "onnx")
    assert code == 0
    assert (files / "onnx" / "energy.png").read_bytes().startswith(b"\x89PNG")
    code, out, _ = call(capsys, path, "--arch", "ideal-16k", "--activations")
    assert code == 0
    assert "kurtosis pearson: " in out
    assert "onideal-16k:energy,e=8" in "".join(out.split())  # a title folds


def test_what_is_no_number_is_null(files, capsys) -> None:
    """Equal weights have no kurtosis; JSON has no word for NaN."""
    path = save_onnx(files / "zero.onnx", np.zeros((3, 3)))

    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    code, out, _ = call(capsys, path, "--json")
    assert code == 0
    report = json.loads(out, parse_constant=refuse)
    assert report["weights"] == 9
    assert [report[key] for key in report if key.startswith("kurtosis")] == [None] * 3


def test_several_models_side_by_side(files, capsys) -> None:
    """A convolutional network and one with attention, whose weights are whole powers of two."""
    data = ("--data", files / "images.gz", "--labels", files / "labels.gz", "--within", 0)
    models = (f"{files}/net.py:make", f"{files}/net.py:attentive")
    code, out, _ = call(capsys, *models, models[0], *data)
    assert code == 0
    assert "Weights in FP(8, m), 30 images" in out
    assert call(capsys, *models, *data, "--out", files / "out")[0] == 0
    assert sorted(p.name for p in (files / "out").iterdir()) == [
        "networks.csv", "summary.json", "tolerance.csv", "tolerance.png",
    ]  # fmt: skip
    networks = pd.read_csv(files / "out" / "networks.csv")
    assert list(networks["model"]) == list(models)
    assert list(networks["family"]) == ["Sequential", "Net"]
    assert list(networks["kind"]) == ["convolutional", "transformer"]
    assert list(networks["parameters"]) == [4 * 9 + 4 + 196 * 10 + 10, 28 * 10]
    assert networks["fewest_mantissa_bits"].iloc[1] == networks["bits_at_limit"].iloc[1] == 0
    rows = pd.read_csv(files / "out" / "tolerance.csv")
    assert list(rows["mantissa_bits"]) == [10, 7, 6, 5, 4, 3, 2, 1, 0] * 2
    # Each row is what the study of the network alone has.
    code, out, _ = call(capsys, models[0], *data, "--json")
    alone = {row["format"]: row["top1"] for row in json.loads(out)["accuracy"]}
    own = rows[rows["model"] == models[0]]
    assert list(own["top1"]) == [alone[name] for name in own["format"]]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{}/net.py:broken"], "1 of 1960 weights of '3' are NaN or infinite; allowed: finite"),
        (["{}/net.py:empty"], "has no product to quantise"),
        (["{}/net.py:product"], "has no weights; allowed: a network with a layer that has some"),
        (["{}/act.onnx"], "act.onnx: has no weights"),
        (["{}/nan.onnx"], "nan.onnx: tensor 'w' holds NaN or Inf"),
        (["{}/gone.onnx"], "gone.onnx"),
        (["{}/net.onnx", "--weights", "x"], "--weights: "),
        (["{}/net.onnx", "--labels", "x"], "shipped brings its own labels"),
        (["{}/net.onnx", "--data", "x"], "x: no such file or folder"),
        (
            ["{}/net.py:make", "{}/net.py:empty", "--arch", "ideal-16k", "--weights", "x.pt"],
            "2 models are compared by their accuracy alone; leave out --weights, --arch",
        ),
        (
            ["{0}/net.py:make", "{0}/net.py:broken"],
            "net.py:broken: 1 of 1960 weights of '3' are NaN or infinite; allowed: finite",
        ),
        (
            ["{}/net.py:pair", "--count", "5"],
            "net.py:pair: output tuple for 4 images; allowed: one tensor (4, classes)",
        ),
        (["{}/net.py:flat", "--count", "5"], "net.py:flat: output (4,) for 4 images; allowed: one"),
        (
            ["{0}/net.py:named", "{0}/net.py:make", "--count", "5"],
            "net.py:named: output dict for 1 images; allowed: one tensor (1, classes)",
        ),
        (["{0}/net.py:three", "{0}/net.py:make", "--count", "5"], "net.py:three; allowed: 0..2"),
        (["{}/net.py:make", "--arch", "edge"], "edge"),
        (["{0}/net.py:make", "--arch", "{0}/tiny.yaml", "--count", "9"], "0"),
        (["{}/net.py:make", "--shape", "x=1x3"], "--shape is of .onnx files"),
        (["{}/net.py:make", "--unit-format", "fp8"], "minifloat 'fp8'; allowed: fp32, tf32"),
        (["{}/net.py:make", "--unit-format", "e9m1"], "exponent_bits=9; allowed: a whole number"),
        (["{}/net.py:make", "--rounding", "up"], "rounding"),
        (["{}/net.py:make", "--weights", "gone.pt"], "gone.pt: cannot be read"),
        (["resnet18"], "resnet18"),
        (["resnet18-fashion", "--weights", "x.pt"], "--weights needs a module"),
        (["resnet18-fashion", "--count", "1001"], "first 1001 images asked for; allowed: 1..1000"),
    ],
)
def test_bad_input_gives_one_line_and_exit_code_2(files, capsys, arguments, message) -> None:
    save_onnx(files / "nan.onnx", np.array([[1.0, np.nan, 0.0]] * 3))
    code, out, error = call(capsys, *(argument.format(files) for argument in arguments))
    assert code == 2
    assert message in error
    assert error.count("\n") == 1
    assert out == ""
