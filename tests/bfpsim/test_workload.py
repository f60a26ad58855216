"""The workload commands, in process: tables, files, and one line for every bad source."""

import csv
import io
import json
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest

from bfpsim.commands.app import run
from bfpsim.commands.arguments import UsageError, select, shapes
from bfpsim.workloads import (
    LayerWeights,
    NetworkBuilder,
    load_weights,
    load_workload,
    names,
    save_workload,
    shipped_weights,
)


def call(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = run(list(arguments))
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def attention():
    """A projection, a product of two samples with what surrounds it, and a name for no file."""
    build = NetworkBuilder("my net/v1", (2, 1, 4, 32))
    q = build.linear("q", "input", 32)
    scores = build.matmul("scores", q, q, 4, heads=2)
    build.host("softmax", "softmax", scores, macs=640)
    return build.network()


@pytest.fixture
def imported(monkeypatch):
    """An ONNX importer that returns the network above, asked shapes, and the weights put here."""
    found = SimpleNamespace(network=attention(), weights={}, shapes=None)

    def import_onnx(path, shapes):
        found.shapes = shapes
        return found

    fake = ModuleType("bfpsim.workloads.importers.onnx.model")
    fake.import_onnx = import_onnx
    monkeypatch.setitem(sys.modules, fake.__name__, fake)
    return found


def test_list_names_every_network_with_its_counts(capsys) -> None:
    code, text, _ = call(capsys, "workload", "list", "--json")
    rows = {row["network"]: row for row in json.loads(text)["workloads"]}
    assert code == 0
    assert list(rows) == list(names())
    # ResNet-18 as torchvision counts: 11,689,512 parameters, of them 4,800 x 2 of normalisation
    # and 1,000 biases; 1.814 G MACs.
    assert rows["resnet18"]["weights"] == 11_689_512 - 2 * 4800 - 1000
    assert rows["resnet18"]["macs"] == 1_814_073_344
    assert rows["resnet18"]["kinds"] == "conv 20, linear 1"
    assert rows["resnet18"]["input"] == "1x224x224x3"


def test_show_prints_tables_json_and_csv_that_agree(capsys) -> None:
    code, table, _ = call(capsys, "workload", "show", "resnet18-fashion")
    assert code == 0
    for words in ("resnet18-fashion in bfp8e3b16 on edge-64k", "By kind", "Not modelled", "relu"):
        assert words in table
    assert "ridge macs per bit: 2.5" in table
    code, text, _ = call(capsys, "workload", "show", "resnet18-fashion", "--json")
    report = json.loads(text)
    assert code == 0
    code, text, _ = call(capsys, "workload", "show", "resnet18-fashion", "--csv")
    rows = list(csv.DictReader(io.StringIO(text)))
    assert code == 0
    assert [int(row["macs"]) for row in rows] == [row["macs"] for row in report["layers"]]
    assert sum(int(row["compulsory_bits"]) for row in rows) == report["compulsory_bits"]
    assert report["macs"] == load_workload("resnet18-fashion").macs
    assert report["kinds"][-1]["macs"] == report["macs"]
    assert (report["peak_macs_per_cycle"], report["dram_bits_per_cycle"]) == (256, 102.4)
    # A linear layer's weights serve one product each: 5 bits and their share of codes.
    assert (rows[-1]["layer"], rows[-1]["bound"]) == ("fc", "memory")


def test_show_takes_an_architecture_and_a_format(capsys) -> None:
    options = ["--arch", "ideal-512k", "--format", "plain8", "--json"]
    code, text, _ = call(capsys, "workload", "show", "resnet18-fashion", *options)
    report = json.loads(text)
    assert code == 0
    assert (report["arch"], report["formats"]) == ("ideal-512k", "plain8")
    assert report["layers"][-1]["W_bits"] == 1280 * 8


def test_show_writes_its_tables_and_the_roofline(capsys, tmp_path: Path) -> None:
    contents = []
    for name in ("first", "second"):
        out = tmp_path / name
        assert run(["workload", "show", "resnet18-fashion", "--out", str(out)]) == 0
        contents.append({file.name: file.read_bytes() for file in out.iterdir()})
    assert contents[0] == contents[1]
    assert set(contents[0]) == {
        "layers.csv", "kinds.csv", "not_modelled.csv", "roofline.png", "summary.json",
    }  # fmt: skip
    assert contents[0]["roofline.png"].startswith(b"\x89PNG")


def test_import_of_a_shipped_network_writes_what_reads_back(capsys, tmp_path: Path) -> None:
    out = tmp_path / "new" / "folder"
    code, text, _ = call(capsys, "workload", "import", "resnet18-fashion", "--out", str(out))
    assert code == 0
    stem = "resnet18-fashion"
    assert f"wrote {stem}.yaml, {stem}.csv, {stem}.safetensors to {out}" in text
    network = load_workload(stem)
    assert load_workload(out / f"{stem}.yaml") == load_workload(out / f"{stem}.csv") == network
    weights = load_weights(out / f"{stem}.safetensors", network)
    for name, layer in shipped_weights(stem).items():
        assert np.array_equal(weights[name].weight, layer.weight)
    command = ["simulate", str(out / f"{stem}.csv"), "--images", "shipped", "--count", "1"]
    code, text, _ = call(capsys, *command, "--weights", str(out / f"{stem}.safetensors"), "--json")
    assert code == 0
    assert json.loads(text)["equal_to_float"] == 1


def test_import_says_what_is_left_out(capsys, tmp_path: Path, imported) -> None:
    arguments = ["workload", "import", "net.onnx", "--out", str(tmp_path)]
    code, text, _ = call(capsys, *arguments, "--shape", "x=2x4x32", "--shape", "a=b=1")
    assert code == 0
    assert imported.shapes == {"x": (2, 4, 32), "a=b": (1,)}
    assert "linear 1, matmul 1" in text
    (line,) = (line.split() for line in text.splitlines() if line.startswith("softmax"))
    # 8 x 32 x 32 and 2 x 2 x 4 x 4 x 16 MACs are modelled, 640 are not: 6.49 % of 9,856.
    assert line == ["softmax", "1", "64", "0.001", "6.49"]
    assert text.endswith(
        f"wrote my-net-v1.yaml, my-net-v1.csv to {tmp_path}\n"
        "no weights written: there are none of any layer\n"
    )
    assert load_workload(tmp_path / "my-net-v1.yaml") == attention()


def test_import_names_layers_without_weights(capsys, tmp_path: Path, imported) -> None:
    build = NetworkBuilder("net", (1, 4, 4, 2))
    build.conv("b", build.conv("a", "input", 3, 1), 3, 1)
    imported.network = build.network()
    bias = np.zeros(3, np.float32)
    imported.weights = {"a": LayerWeights(np.ones((3, 2, 1, 1), np.float32), bias)}
    arguments = ["workload", "import", "net.onnx", "--out", str(tmp_path)]
    code, text, _ = call(capsys, *arguments)
    assert (code, text.splitlines()[-1]) == (0, "no weights written: there are none of b")
    assert not (tmp_path / "net.safetensors").exists()
    imported.weights["b"] = LayerWeights(np.ones((3, 3, 1, 1), np.float32), bias)
    code, text, _ = call(capsys, *arguments)
    assert text.endswith(f"wrote net.yaml, net.csv, net.safetensors to {tmp_path}\n")
    assert load_weights(tmp_path / "net.safetensors", build.network())["b"].weight.sum() == 9


def test_import_of_a_product_needs_the_other_layers_weights_alone(
    capsys, tmp_path: Path, imported
) -> None:
    weight = np.ones((32, 32, 1, 1), np.float32)
    imported.weights = {"q": LayerWeights(weight, np.zeros(32, np.float32))}
    code, _, _ = call(capsys, "workload", "import", "net.onnx", "--out", str(tmp_path))
    assert (code, (tmp_path / "my-net-v1.safetensors").exists()) == (0, True)


@pytest.mark.parametrize("command", ["simulate", "validate", "map"])
def test_other_commands_take_any_source(capsys, tmp_path: Path, imported, command) -> None:
    topology = tmp_path / "tiny.csv"
    topology.write_text("Layer,M,N,K,\nfc,2,8,16,\n")
    code, text, _ = call(capsys, command, str(topology), "--json")
    assert (code, json.loads(text)["network"]) == (0, "tiny")
    build = NetworkBuilder("net", (1, 4, 4, 2))
    save_workload(build.network(), tmp_path / "no-layer.csv")
    code, _, error = call(capsys, command, str(tmp_path / "no-layer.csv"))
    assert (code, error) == (2, "bfpsim: net has no layer; allowed: a network with at least one\n")
    build.host("conv", "q_linear_conv", build.relu("relu", "input"))
    save_workload(build.network(), tmp_path / "no-layer.csv")
    code, _, error = call(capsys, command, str(tmp_path / "no-layer.csv"))
    assert (code, error) == (
        2,
        "bfpsim: net has no layer, only the host's q_linear_conv; allowed: a network with at "
        "least one\n",
    )
    options = ("--layer", "q", "--shape", "x=1", "--format", "bfp8", "--json")
    code, text, _ = call(capsys, command, "net.onnx", *options)
    assert (code, json.loads(text)["network"]) == (0, "my net/v1")
    assert imported.shapes == {"x": (1,)}


def test_a_selected_layer_is_what_it_is_in_its_network() -> None:
    for name in ("q", "scores"):
        single = select(attention(), name)
        (node,) = (node for node in attention().nodes if node.name == name)
        assert single.nodes[-1] == node
        assert [source.op for source in single.nodes[:-1]] == ["input"]
        assert single.macs == node.repeats * node.layer.macs


def test_shapes() -> None:
    assert shapes(None) is None
    assert shapes(["x=1x3x224x224", "y z=7"]) == {"x": (1, 3, 224, 224), "y z": (7,)}
    for bad in ("1x3", "x=", "=1x3", "x=1x", "x=1x0x3", "x=-1", "x=1,3", "x=a", "x=" + "9" * 5000):
        with pytest.raises(UsageError, match=r"--shape .*; allowed: NAME=SIZES"):
            shapes([bad])
    with pytest.raises(UsageError, match="--shape names 'x' twice"):
        shapes(["x=1", "x=1"])


def test_values() -> None:
    found = shapes(["x=1x3"], ["rate=16000", "a=b=-0.5", "on=true", "ids=1,2,3"])
    assert found is not None
    assert found["x"] == (1, 3)
    given = {name: np.asarray(value) for name, value in found.items() if name != "x"}
    assert {name: value.tolist() for name, value in given.items()} == {
        "rate": 16000, "a=b": -0.5, "on": True, "ids": [1, 2, 3],
    }  # fmt: skip
    assert {name: value.dtype.kind for name, value in given.items()} == {
        "rate": "i", "a=b": "f", "on": "b", "ids": "i",
    }  # fmt: skip
    for bad in ("rate", "=1", "rate=", "rate=fast", "rate=1,", "rate=1x2"):
        with pytest.raises(UsageError, match=r"--value .*; allowed: NAME=NUMBERS"):
            shapes(None, [bad])
    with pytest.raises(UsageError, match="--value names 'x', which has a shape or value"):
        shapes(["x=1"], ["x=1"])


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["show", "resnet99"], "workload 'resnet99' is not shipped"),
        (["show", "none.yaml"], "none.yaml: cannot be read: No such file"),
        (["show", "resnet18", "--shape", "x=1"], "shapes of x are refused"),
        (["show", "resnet18", "--shape", "x"], "--shape 'x'; allowed: NAME=SIZES"),
        (["show", "resnet18", "--json", "--csv"], "exclude each other"),
        (["show", "resnet18", "--format", "bfp3e2b4"], "leaves a mantissa of 1 bit"),
        (["show", "resnet18", "--arch", "edge-1t"], "'edge-1t' is neither a file nor"),
        (["show", "EMPTY"], "net has no layer; allowed: a network with at least one"),
        (["show", "BAD"], "BAD.yaml:3: node 'conv1': K: '0' is refused; allowed: a whole number"),
        (["import", "BAD", "--out", "OUT"], "BAD.yaml:3: node 'conv1': K: '0' is refused"),
        (["import", "resnet18"], "Missing option '--out'"),
        (["import", "resnet18", "--out", "BAD"], "is a file; allowed: a folder"),
        (["list", "--json", "--csv"], "exclude each other"),
        (["liste"], "No such command"),
    ],
    ids=lambda value: " ".join(value)[:40] if isinstance(value, list) else "",
)
def test_bad_input_gets_one_line_and_exit_code_2(capsys, tmp_path, arguments, expected) -> None:
    bad, empty = tmp_path / "BAD.yaml", tmp_path / "EMPTY.yaml"
    image = NetworkBuilder("net", (1, 4, 4, 2))
    save_workload(image.network(), empty)
    conv = "- {name: conv1, op: conv, inputs: [image], K: 0}\n"
    bad.write_text(f"nodes:\n- {{name: image, op: input, shape: [1, 2, 2, 1]}}\n{conv}name: bad\n")
    paths = {"BAD": str(bad), "EMPTY": str(empty), "OUT": str(tmp_path / "out")}
    code, out, error = call(capsys, "workload", *(paths.get(word, word) for word in arguments))
    assert (code, out, error.count("\n")) == (2, "", 1)
    assert expected in error
    assert not (tmp_path / "out").exists()


def test_unverified_shapes_are_marked(capsys, tmp_path: Path) -> None:
    network = attention()
    marked = [replace(node, unverified="published code") for node in network.nodes]
    save_workload(replace(network, nodes=tuple(marked)), tmp_path / "net.csv")
    code, table, _ = call(capsys, "workload", "show", str(tmp_path / "net.csv"))
    assert code == 0
    assert "scores*" in table
    assert "* shapes that the paper leaves open, from: published code" in table
