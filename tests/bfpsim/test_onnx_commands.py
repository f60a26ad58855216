"""Commands on an ONNX file with its own weights, beside the torch module that it was made from."""

import json

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from bfpsim.commands.app import run
from tests.idx_file import write_idx

NET = """
import torch
from torch import nn
from safetensors.torch import load_file
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3, stride=4, padding=1)
        self.fc = nn.Linear(196, 10)
    def forward(self, x):
        return self.fc(nn.functional.hardswish(self.conv(x)).flatten(1))
def make():
    torch.manual_seed(0)
    return Net().eval()
"""


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A module's file, the same as ONNX with an open batch, and images with labels."""
    folder = tmp_path_factory.mktemp("onnx")
    (folder / "net.py").write_text(NET)
    scope: dict = {}
    exec(compile(NET, "net.py", "exec"), scope)
    state = {name: value.numpy() for name, value in scope["make"]().state_dict().items()}
    nodes = [
        helper.make_node(
            "Conv", ["x", "conv.weight", "conv.bias"], ["y"], "conv", strides=[4, 4], pads=[1] * 4
        ),
        helper.make_node("HardSwish", ["y"], ["z"], "act"),
        helper.make_node("Flatten", ["z"], ["f"], "flatten"),
        helper.make_node("Gemm", ["f", "fc.weight", "fc.bias"], ["logits"], "fc", transB=1),
    ]
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ("batch", 1, 28, 28))],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ("batch", 10))],
        [numpy_helper.from_array(value, name) for name, value in state.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, str(folder / "net.onnx"))
    draw = np.random.default_rng(0)
    images = draw.integers(256, size=(40, 28, 28)).astype(np.uint8)
    write_idx(folder / "images.gz", images)
    with torch.no_grad():
        logits = scope["make"]()(torch.from_numpy(images[:, None].astype(np.float32) / 255))
    write_idx(folder / "labels.gz", logits.argmax(1).numpy().astype(np.uint8))
    np.savez(folder / "inputs.npz", x=images[:, None].astype(np.float32) / 255)
    return folder


def call(capsys, *arguments: object) -> tuple[int, str, str]:
    code = run([*map(str, arguments)])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def data(files) -> list[object]:
    return ["--data", files / "images.gz", "--labels", files / "labels.gz", "--normalise", "none"]


def test_formats_cost_a_file_what_they_cost_the_module(files, capsys) -> None:
    found = []
    for network in (files / "net.onnx", f"{files}/net.py:make"):
        code, out, err = call(
            capsys, "quantize", network, "-f", "original", "-f", "bfp8e3b16", "-f", "mxfp4",
            *data(files), "--json",
        )  # fmt: skip
        assert (code, err) == (0, "")
        found.append(json.loads(out))
    assert rounded(found[0]) == rounded(found[1])


def rounded(value):
    """Numbers to four digits: sums of float32 come in another order."""
    if isinstance(value, float):
        return float(f"{value:.4g}")
    if isinstance(value, dict):
        return {name: rounded(each) for name, each in value.items() if name != "network"}
    return [rounded(each) for each in value] if isinstance(value, list) else value


def test_a_file_is_trained(files, capsys) -> None:
    code, out, err = call(
        capsys, "quantize", files / "net.onnx", "-f", "mxfp4", *data(files), "--qat", 2,
        "--train", files / "images.gz", "--train-labels", files / "labels.gz",
    )  # fmt: skip
    assert (code, err) == (0, "")
    assert "mxfp4" in out


def test_widths_of_weights_and_accuracy_of_a_file(files, capsys) -> None:
    code, out, err = call(
        capsys, "mantissa", files / "net.onnx", *data(files), "--arch", "ideal-16k", "--json"
    )
    assert (code, err) == (0, "")
    assert "top1" in out


def test_real_inputs_run_through_a_file(files, capsys) -> None:
    """Classes in bfp16 are ONNX Runtime's; images of one channel, and arrays by name."""
    values = np.load(files / "inputs.npz")["x"][:6]
    session = onnxruntime.InferenceSession(str(files / "net.onnx"))
    expected = session.run(None, {"x": values})[0].argmax(1)
    code, out, err = call(
        capsys, "simulate", files / "net.onnx", "--shape", "x=1x1x28x28", "--images",
        files / "inputs.npz", "--count", 6, "--format", "bfp16", "--json",
    )  # fmt: skip
    assert (code, err) == (0, "")
    table = json.loads(out)["predictions"]
    assert [row["simulated"] for row in table] == expected.tolist()
    assert [row["float"] for row in table] == expected.tolist()
    code, out, err = call(
        capsys, "simulate", files / "net.onnx", "--shape", "x=2x1x28x28", "--images", "shipped",
        "--count", 4,
    )  # fmt: skip
    assert (code, err) == (0, "")
    assert "images: 4" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["quantize", "{}/net.onnx", "--weights", "x"], "--weights: "),
        (["quantize", "{}/net.onnx", "--shape", "y=1x1x28x28"], "input 'y' is unknown"),
        (["quantize", "{}/net.py:make", "--shape", "x=1x1x28x28"], "--shape is of .onnx files"),
        (["simulate", "{}/net.onnx", "--shape", "x=1x1x28x28", "--images", "{}/labels.npz"], "npz"),
        (
            ["simulate", "{}/net.onnx", "--shape", "x=1x1x28x28", "--images", "{}/wrong.npz"],
            "has no array 'x'; allowed: 'x', and 'labels'",
        ),
        (
            ["simulate", "{}/net.onnx", "--shape", "x=1x1x28x28", "--images", "{}/short.npz"],
            "10 samples asked for; allowed: 1..3, in batches of 1",
        ),
        (
            ["simulate", "{}/net.onnx", "--shape", "x=4x1x28x28", "--images", "{}/inputs.npz"],
            "10 samples asked for; allowed: 1..40, in batches of 4",
        ),
        (
            ["simulate", "{}/net.onnx", "--shape", "x=1x1x28x28", "--images", "{}/labels.gz"],
            "images of shape (40,) for 1 inputs",
        ),
    ],
)
def test_bad_input_is_one_line(files, capsys, arguments, message) -> None:
    np.savez(files / "wrong.npz", y=np.zeros((10, 1, 28, 28), np.float32))
    np.savez(files / "short.npz", x=np.zeros((3, 1, 28, 28), np.float32))
    code, _, err = call(capsys, *(argument.format(files) for argument in arguments))
    assert code == 2
    assert message in err
    assert len(err.strip().splitlines()) == 1
