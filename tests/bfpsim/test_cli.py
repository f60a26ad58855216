"""The command line, run in process: output, exit codes, and one line for every bad input."""

import csv
import gzip
import io
import json
import struct
from pathlib import Path

import numpy as np
import pytest

from bfpsim.arch import load_arch
from bfpsim.commands.app import run
from tests.idx_file import idx_bytes

SMALL = ["--layer", "fc"]


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


def test_the_same_command_writes_the_same_bytes(capsys, tmp_path: Path) -> None:
    contents = []
    for name in ("first", "second"):
        out = tmp_path / name
        assert run(["simulate", "resnet18-fashion", *SMALL, "--out", str(out)]) == 0
        contents.append({file.name: file.read_bytes() for file in out.iterdir()})
    assert contents[0] == contents[1]
    assert set(contents[0]) == {"traffic.csv", "layers.csv", "summary.json"}


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


def test_arch_commands(capsys, tmp_path: Path) -> None:
    code, text, _ = call(capsys, "arch", "list")
    assert code == 0
    assert "edge-512k" in text
    code, text, _ = call(capsys, "arch", "show", "edge-64k-split")
    file = tmp_path / "copy.yaml"
    file.write_text(text)
    assert load_arch(file) == load_arch("edge-64k-split")
    code, text, _ = call(capsys, "arch", "check", str(file), "edge-16k")
    assert (code, text.count("valid")) == (0, 2)
    code, text, _ = call(capsys, "arch", "schema")
    assert "sram" in json.loads(text)["properties"]


def test_help_and_version(capsys) -> None:
    assert call(capsys, "--help")[0] == 0
    assert call(capsys, "simulate", "--help")[0] == 0
    code, text, _ = call(capsys, "--version")
    assert (code, text.split()[0]) == (0, "bfpsim")


def arch_file(tmp_path: Path, old: str, new: str) -> str:
    from bfpsim.arch import dump_arch

    text = dump_arch(load_arch("edge-64k"))
    assert old in text
    file = tmp_path / "my.yaml"
    file.write_text(text.replace(old, new))
    return str(file)


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("capacity", "capcity", "unknown key 'capcity'"),
        ("64 KiB", "64", "sram.capacity: 64 has no unit; write a capacity such as '64 KiB'"),
        ("64 KiB", "64 GHz", "'64 GHz'"),
        ("64 KiB", "-64 KiB", "'-64 KiB'"),
        ("6.4 GB/s", "0 GB/s", "'0 GB/s'"),
        ("size: 16", "size: 0", "size"),
    ],
)
def test_bad_architectures(capsys, tmp_path: Path, old: str, new: str, expected: str) -> None:
    file = arch_file(tmp_path, old, new)
    code, out, error = call(capsys, "simulate", "resnet18", "--arch", file)
    assert (code, out, error.count("\n")) == (2, "", 1)
    assert expected in error
    assert "my.yaml" in error


def test_a_latency_beyond_what_is_counted(capsys, tmp_path: Path) -> None:
    file = arch_file(tmp_path, "100 ns", "100000000000000000 s")
    code, out, error = call(capsys, *FASHION, *SMALL, "--arch", file)
    assert (code, out, error.count("\n")) == (2, "", 1)
    assert "sizes beyond what can be counted here" in error


FASHION = ["simulate", "resnet18-fashion"]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], ""),
        (["frobnicate"], "No such command"),
        (["simulate"], "Missing argument"),
        (["simulate", "resnet99"], "'resnet99'"),
        ([*FASHION, "--arch", "edge-1t"], "'edge-1t' is neither a file nor a shipped"),
        ([*FASHION, "--format", "bfp3e2b4"], "leaves a mantissa of 1 bit"),
        ([*FASHION, "--format", "bfp8,bfp8"], "has 2 parts; allowed: 1, or 3"),
        ([*FASHION, "--layer", "conv9"], "--layer 'conv9' is not in resnet18-fashion"),
        ([*FASHION, "--order", "KC"], "need --layer"),
        ([*FASHION, *SMALL, "--tile", "K"], "--tile part 'K'"),
        ([*FASHION, *SMALL, "--tile", "K=²"], "--tile part 'K=²'; allowed: DIM=SIZE"),
        ([*FASHION, *SMALL, "--tile", "K=1,K=2"], "names K twice"),
        ([*FASHION, *SMALL, "--order", "R"], "R and S stay whole"),
        ([*FASHION, *SMALL, "--tile", "K=99"], "tile K=99; allowed: 1..10"),
        (
            [*FASHION, *SMALL, "--tile", "K=4", "--order", "K", "-f", "bfp8e3b8"],
            "cuts a block of 8",
        ),
        (
            ["simulate", "resnet18", "--layer", "conv1", "--tile", "P=56", "--order", "P"],
            "shared SRAM is short by",
        ),
        ([*FASHION, "--json", "--csv"], "exclude each other"),
        ([*FASHION, "--weights", "x"], "need --images"),
        ([*FASHION, "--images", "shipped", *SMALL], "runs the whole network"),
        ([*FASHION, "--images", "none.idx"], "none.idx"),
        ([*FASHION, "--images", "shipped", "--count", "1001"], "1001 images asked for"),
        ([*FASHION, "--images", "shipped", "--count", "0"], "--count"),
        ([*FASHION, "--images", "shipped", "--weights", "none.safetensors"], "none.safetensors"),
        (["simulate", "resnet18", "--images", "shipped"], "no weights are shipped"),
        (["arch", "check", "none.yaml"], "none.yaml"),
    ],
    ids=lambda value: " ".join(value)[-40:] if isinstance(value, list) else "",
)
def test_bad_input_gets_one_line_and_exit_code_2(capsys, arguments, expected: str) -> None:
    code, _, error = call(capsys, *arguments)
    assert code == 2
    assert expected in error
    assert error.count("\n") == (1 if arguments else 0)
    assert "Traceback" not in error


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
        (["--curve", "--arch", "edge-64k-split"], "has a buffer per tensor"),
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
