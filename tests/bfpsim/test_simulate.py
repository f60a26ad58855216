"""The simulate command, in process: tables, files, traces, real images, and bad files."""

import csv
import gzip
import io
import json
import struct
from pathlib import Path

import numpy as np
import pytest

from bfpsim.arch import Arch, dump_arch, load_arch
from bfpsim.commands.app import run
from bfpsim.reports import trace
from tests.bfpsim.test_arch import arch_file
from tests.idx_file import idx_bytes

FASHION = ["simulate", "resnet18-fashion"]
SMALL = ["--layer", "fc"]
SPLIT = ["--arch", "ideal-64k-split", "--format", "plain8"]
FC = ["simulate", "resnet18-fashion", "--layer", "fc", "--json"]


def call(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = run(list(arguments))
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_simulate_prints_a_table_json_and_csv_that_agree(capsys) -> None:
    code, table, _ = call(capsys, "simulate", "resnet18-fashion", *SMALL)
    assert code == 0
    assert "resnet18-fashion on edge-64k" in table
    code, text, _ = call(capsys, "simulate", "resnet18-fashion", *SMALL, "--json")
    report = json.loads(text)
    assert code == 0
    assert report["layers"][0]["layer"] == "fc"
    code, text, _ = call(capsys, "simulate", "resnet18-fashion", *SMALL, "--csv")
    rows = list(csv.DictReader(io.StringIO(text)))
    assert code == 0
    assert [int(row["bits"]) for row in rows] == [row["bits"] for row in report["traffic"]]
    dram = sum(int(row["bits"]) for row in rows if row["level"] == "DRAM")
    assert dram == report["dram_bits"]


def test_simulate_takes_a_mapping_and_three_formats(capsys) -> None:
    arguments = ["--layer", "layer4.0.conv2", "--order", "KC", "--tile", "K=16,C=32", "--json"]
    formats = ["--format", "bfp8,bfp16,plain32"]
    code, text, _ = call(capsys, "simulate", "resnet18-fashion", *arguments, *formats)
    report = json.loads(text)
    assert code == 0
    assert report["formats"] == "I=bfp8e3b16 W=bfp16e5b16 O=plain32"
    assert (report["layers"][0]["order"], report["layers"][0]["tile"]) == ("KC", "K=16 C=32")


@pytest.mark.parametrize("command", ["simulate", "validate"])
def test_mappings_of_a_file_are_run(capsys, tmp_path: Path, command: str) -> None:
    file = tmp_path / "m.yaml"
    file.write_text("layer4.0.conv2: {order: KC, tile: {K: 16, C: 32}}\nfc: {}\n")
    layer = [command, "resnet18-fashion", "--layer", "layer4.0.conv2", "--json"]
    code, given, _ = call(capsys, *layer, "--mappings", str(file))
    _, spelled, _ = call(capsys, *layer, "--order", "KC", "--tile", "K=16,C=32")
    assert (code, given) == (0, spelled)
    _, found, _ = call(capsys, *layer)
    assert given != found


@pytest.mark.parametrize("command", ["simulate", "validate"])
def test_inner_mappings_are_spelled_as_in_a_file(capsys, tmp_path: Path, command: str) -> None:
    level = {"name": "acc", "tensors": ["O"], "capacity": "16 KiB", "width": "512 bit"}
    spec = load_arch("ideal-64k").model_dump() | {"levels": [level]}
    arch = tmp_path / "acc.yaml"
    arch.write_text(dump_arch(Arch.model_validate(spec)))
    layer = [command, "resnet18-fashion", "--layer", "layer4.0.conv2", "--arch", str(arch)]
    layer += ["--json"]
    outer = ["--order", "K", "--tile", "K=64"]
    inner = ["--inner", "acc:RKC:R=1,K=16,C=32"]
    file = tmp_path / "m.yaml"
    file.write_text(
        "layer4.0.conv2:\n"
        "  {order: K, tile: {K: 64}, inner: {acc: {order: RKC, tile: {R: 1, K: 16, C: 32}}}}\n"
    )
    code, spelled, _ = call(capsys, *layer, *outer, *inner)
    _, given, _ = call(capsys, *layer, "--mappings", str(file))
    _, whole, _ = call(capsys, *layer, *outer)
    assert (code, given) == (0, spelled)
    assert whole != spelled


@pytest.mark.parametrize("command", ["simulate", "validate"])
def test_the_objective_is_the_mappers(capsys, command: str) -> None:
    """On one layer: fewest bits, and least energy, which moves more of them."""
    layer = [command, "resnet18-fashion", "--layer", "layer4.0.downsample", *SPLIT]
    dram, energy = (
        json.loads(call(capsys, *layer, "--json", *objective)[1])
        for objective in ((), ("--objective", "energy"))
    )
    if command == "simulate":
        assert dram["dram_bits"] < energy["dram_bits"]
        assert dram["energy_pj"] > energy["energy_pj"]
    else:
        assert dram["validation"] != energy["validation"]
        assert energy["agrees"]


@pytest.mark.parametrize("command", ["simulate", "validate"])
@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--order", "K"], "--order, --tile and --inner need --layer"),
        (["--inner", "acc:K:K=1"], "--order, --tile and --inner need --layer"),
        (
            ["--layer", "fc", "--tile", "K=2", "--mappings", "m.yaml"],
            "--mappings and --order, --tile, --inner exclude each other",
        ),
        (["--mappings", "m.yaml", "--objective", "dram"], "--objective is of mappings that are"),
        (["--layer", "fc", "--order", "K", "--objective", "dram"], "--objective is of mappings"),
        (["--objective", "beauty"], "'beauty' is not one of 'dram', 'energy', 'latency'"),
        (
            ["--layer", "fc", "--inner", "acc:K"],
            "--inner 'acc:K'; allowed: LEVEL:ORDER:TILE, such as acc:PQ:P=4,Q=56",
        ),
        (["--layer", "fc", "--inner", ":K:K=1"], "--inner ':K:K=1'; allowed: LEVEL:ORDER:TILE"),
        (
            ["--layer", "fc", "--inner", "acc:K:K=1", "--inner", "acc:C:C=1"],
            "--inner names 'acc' twice; allowed: once",
        ),
        (["--layer", "fc", "--inner", "acc:K:K"], "--inner acc: part 'K'; allowed: DIM=SIZE"),
        (["--layer", "fc", "--inner", "acc:K:K=1"], "fc: inner names level 'acc'; allowed: none"),
        (["--mappings", "none.yaml"], "none.yaml: cannot be read: No such file or directory"),
        (["--mappings", "m.yaml"], "m.yaml: lacks conv1, layer1.0.conv1, "),
        (["--mappings", "big.yaml", "--layer", "fc"], "fc: tiles of C: C64 take "),
        (
            ["--mappings", "bad.yaml"],
            "bad.yaml:2: 'conv2' is no layer of resnet18-fashion (did",
        ),
    ],
)
def test_mappings_that_are_none_are_refused(
    capsys, tmp_path: Path, monkeypatch, command: str, options: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("m.yaml").write_text("fc: {}\n")
    Path("bad.yaml").write_text("fc: {}\nconv2: {}\n")
    Path("big.yaml").write_text("fc: {order: C, tile: {C: 64}}\n")
    arch = arch_file(tmp_path, "64 KiB", "128 B")
    code, out, error = call(capsys, command, "resnet18-fashion", *options, "--arch", arch)
    assert (code, out, error.count("\n")) == (2, "", 1)
    assert message in error


def test_images_run_under_mappings_of_their_own(capsys, tmp_path: Path) -> None:
    images = [*FASHION, "--images", "shipped", "--count", "1"]
    for options in (["--mappings", "m.yaml"], ["--layer", "fc"]):
        code, _, error = call(capsys, *images, *options)
        assert (code, error.count("\n")) == (2, 1)
        assert "--images runs the whole network" in error
    reports = [
        json.loads(call(capsys, *images, *SPLIT, "--json", "--objective", name)[1])
        for name in ("dram", "energy")
    ]
    assert reports[0]["dram_bits"] < reports[1]["dram_bits"]
    assert [report["equal_to_float"] for report in reports] == [1, 1]


def test_the_same_command_writes_the_same_bytes(capsys, tmp_path: Path) -> None:
    contents = []
    for name in ("first", "second"):
        out = tmp_path / name
        assert run(["simulate", "resnet18-fashion", *SMALL, "--out", str(out)]) == 0
        contents.append({file.name: file.read_bytes() for file in out.iterdir()})
    assert contents[0] == contents[1]
    assert set(contents[0]) == {"traffic.csv", "layers.csv", "energy.csv", "summary.json"}


def test_images_run_through_the_network(capsys) -> None:
    code, text, _ = call(
        capsys, "simulate", "resnet18-fashion", "--images", "shipped", "--count", "2", "--json"
    )
    report = json.loads(text)
    assert code == 0
    assert (report["images"], report["equal_to_float"]) == (2, 2)
    assert [row["simulated"] for row in report["predictions"]] == [
        row["float"] for row in report["predictions"]
    ]


def test_a_latency_beyond_what_is_counted(capsys, tmp_path: Path) -> None:
    file = arch_file(tmp_path, "100 ns", "100000000000000000 s")
    code, out, error = call(capsys, *FASHION, *SMALL, "--arch", file)
    assert (code, out, error.count("\n")) == (2, "", 1)
    assert "sizes beyond what can be counted here" in error


def test_bad_data_files(capsys, tmp_path: Path) -> None:
    from bfpsim.workloads import load_workload, save_weights, shipped_weights

    network = load_workload("resnet18-fashion")
    weights = shipped_weights("resnet18-fashion")
    good = tmp_path / "good.safetensors"
    save_weights(good, network, weights, {})
    truncated = tmp_path / "truncated.safetensors"
    truncated.write_bytes(good.read_bytes()[:-100])
    images = tmp_path / "images.idx"
    images.write_bytes(idx_bytes(np.zeros((3, 28, 28), np.uint8)))
    short = tmp_path / "short.idx"
    short.write_bytes(images.read_bytes()[:-5])
    zipped = tmp_path / "images.idx.gz"
    zipped.write_bytes(gzip.compress(images.read_bytes())[:-9])
    wrong_size = tmp_path / "wrong.idx"
    wrong_size.write_bytes(idx_bytes(np.zeros((3, 9, 28), np.uint8)))
    nan = tmp_path / "nan.safetensors"
    content = bytearray(good.read_bytes())
    content[-4:] = struct.pack("<f", float("nan"))
    nan.write_bytes(content)
    for options, named in (
        (["--images", str(images), "--weights", str(truncated)], "truncated.safetensors"),
        (["--images", str(images), "--weights", str(nan)], "nan.safetensors"),
        (["--images", str(short)], "short.idx"),
        (["--images", str(zipped)], "images.idx.gz"),
        (["--images", str(wrong_size)], "wrong.idx"),
        (["--images", str(images), "--labels", str(images)], "images.idx"),
    ):
        out = tmp_path / "out"
        code, _, error = call(capsys, *FASHION, "--count", "1", *options, "--out", str(out))
        assert (code, error.count("\n")) == (2, 1)
        assert named in error
        assert not out.exists()


def test_output_goes_nowhere_it_should_not(capsys, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("mine")
    code, _, error = call(capsys, *FASHION, *SMALL, "--out", str(file))
    assert (code, file.read_text()) == (2, "mine")
    assert "is a file" in error
    code, _, error = call(capsys, *FASHION, *SMALL, "--out", str(file / "below"))
    assert code == 2
    assert error.count("\n") == 1


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
