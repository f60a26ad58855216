"""The search command, in process: energy alone, a trained module, budgets, bad input."""

import json
import re

import numpy as np
import pandas as pd
import pytest

from bfpsim.arch import dump_arch, load_arch, replace
from bfpsim.commands.app import run
from bfpsim.reports.tradeoff import read_accuracies
from bfpsim.workloads.images import read_idx
from tests.idx_file import write_idx

NET = """
import torch
from torch import nn
def make():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 4, 7, stride=7), nn.ReLU(), nn.Flatten(), nn.Linear(64, 10))
def maps():
    return nn.Conv2d(1, 10, 7)
"""


def call(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    code = run([*map(str, arguments)])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A module, and images that it classifies as it does: it is trained on them, so to speak."""
    import torch

    folder = tmp_path_factory.mktemp("search")
    (folder / "net.py").write_text(NET)
    rng = np.random.default_rng(0)
    pixels = rng.integers(256, size=(60, 28, 28)).astype(np.uint8)
    namespace: dict[str, object] = {}
    exec(NET, namespace)
    net = namespace["make"]()  # type: ignore[operator]
    with torch.no_grad():
        x = torch.from_numpy((pixels / 255 - 0.2860) / 0.3530).float()[:, None]
        classes = net(x).argmax(1).numpy().astype(np.uint8)
    write_idx(folder / "images.gz", pixels)
    write_idx(folder / "labels.gz", classes)
    return folder


def trained(files) -> tuple[object, ...]:
    return (
        f"{files}/net.py:make", "--data", files / "images.gz", "--labels", files / "labels.gz",
        "--workers", 1,
    )  # fmt: skip


def test_a_trained_module_end_to_end(files, capsys, tmp_path) -> None:
    table = tmp_path / "sensitivity.csv"
    arguments = ("search", *trained(files), "--sensitivity", table, "--store", tmp_path / "stages")
    code, out, err = call(capsys, *arguments, "--out", tmp_path / "found")
    assert (code, err) == (0, "")
    assert re.match(
        "wrote layers.csv, comparison.csv, front.csv, finalists.csv, accuracy.csv, front", out
    )
    summary = json.loads((tmp_path / "found" / "summary.json").read_text())
    layers = pd.read_csv(tmp_path / "found" / "layers.csv")
    assert summary["loss_per_nat"] > 0
    assert summary["energy_pj"] == pytest.approx(layers["energy_pj"].sum(), rel=1e-12)
    assert layers["O"].iloc[0] == layers["I"].iloc[1]  # tied
    finalists = pd.read_csv(tmp_path / "found" / "finalists.csv")
    assert finalists["value"].is_monotonic_increasing
    accuracies = read_accuracies(tmp_path / "found" / "accuracy.csv")  # as a report does
    assert list(accuracies["label"]) == list(finalists["choice"])
    assert accuracies["energy_pj"].iloc[0] == pytest.approx(summary["energy_pj"], rel=1e-12)
    # Again, all of it kept: the same bytes, without a search.
    code, _, err = call(capsys, *arguments, "--out", tmp_path / "again")
    assert (code, err) == (0, "")
    for name in ("layers.csv", "comparison.csv", "front.csv", "finalists.csv", "front.png"):
        first = (tmp_path / "found" / name).read_bytes()
        assert first == (tmp_path / "again" / name).read_bytes(), name
    # Training the choice is taken from its checkpoint; another length has its own.
    train = ("--train", files / "images.gz", "--train-labels", files / "labels.gz", "--qat")
    rows = []
    for steps, checkpoints in ((3, 1), (3, 1), (2, 2)):
        code, out, _ = call(capsys, *arguments, *train, steps, "--json")
        assert code == 0
        rows.append(json.loads(out)["finalists"][-1])
        assert rows[-1]["choice"].endswith("+QAT")
        written = {path: path.stat().st_mtime_ns for path in tmp_path.glob("stages-*.safetensors")}
        assert len(written) == checkpoints
    assert rows[0] == rows[1]
    # What is kept of these images and this architecture is not taken for others.
    labels = (read_idx(files / "labels.gz") + 1) % 10
    write_idx(files / "wrong.gz", labels)
    code, out, _ = call(capsys, *arguments, "--labels", files / "wrong.gz", "--nat", 0.5, "--json")
    assert code == 0
    assert {row["top1"] for row in json.loads(out)["finalists"]} != set(finalists["top1"])
    dear = replace(load_arch("ideal-64k"), "dram.energy", "40 pJ/bit")
    (files / "dear.yaml").write_text(dump_arch(dear))
    code, out, _ = call(capsys, *arguments, "--arch", files / "dear.yaml", "--json")
    report = json.loads(out)
    assert code == 0
    assert report["finalists"][0]["simulated"] == pytest.approx(report["energy_pj"], rel=1e-12)
    assert report["energy_pj"] > 1.5 * summary["energy_pj"]


def test_a_budget_that_no_finalist_keeps_on_real_images(files, capsys, tmp_path) -> None:
    """A nat is said to cost next to nothing, so that predictions are far too low."""
    code, out, _ = call(
        capsys, "search", *trained(files), "--most-loss", 1, "--nat", 1e-4, "--json"
    )
    report = json.loads(out)
    assert code == 1
    assert report["predicted_loss"] <= 0.01
    above = report["measured_loss_above_budget_by_points"]
    assert above == pytest.approx(100 * report["accuracy_loss"] - 1)
    assert above > 0
    names = [row["choice"] for row in report["finalists"]]
    assert len(names) > 3  # smaller budgets were tried too
    assert report["answer"] == names[0]


def test_without_weights_only_movement_is_searched(files, capsys) -> None:
    code, out, _ = call(
        capsys, "search", f"{files}/net.py:make", "--shape", "input=1x1x28x28", "--perf", "dram",
        "--workers", 1, "--json", "--also", "mxfp4", "--also", "nvfp4",
    )  # fmt: skip
    report = json.loads(out)
    assert code == 0
    assert report["formats"] == 42  # 40 of table 2
    assert report["accuracy"].startswith("not known")
    assert report["predicted_loss"] == 0
    rows = {row["cost"]: row for row in report["comparison"]}
    assert rows["simulated"]["simulated"] == report["dram_bits"]
    assert rows["simulated"]["simulated"] <= min(row["simulated"] for row in rows.values())
    assert "finalists" not in report


def test_the_terminal_shows_choice_and_comparison(files, capsys) -> None:
    network = (f"{files}/net.py:make", "--shape", "input=1x1x28x28", "--workers", 1)
    code, out, _ = call(capsys, "search", *network, "--bits", 16, "--cost", "exact")
    assert code == 0
    for text in ("Chosen by each kind of price", "paper", "dm max", "rounds", "simulations"):
        assert text in out
    # Which row is chosen, and in which unit.
    out = " ".join(out.split())
    for text in ("the answer, exact prices", "exact (decides)", "answer: exact prices", "unit: pJ"):
        assert text in out
    assert out.count("decides") == 1


@pytest.mark.parametrize(
    ("options", "wrong"),
    [
        (("--also", "mxfp7"), "format 'mxfp7'; allowed: bfp8"),
        (("--bits", 12), "candidates of 12 bits; allowed: 16, 8"),
        (("--alpha", -1), "--alpha -1.0; allowed: a number from 0"),
        (("--alpha", 1, "--most-loss", 1), "exclude each other; give one"),
        (("--most-cost", 1), "the least that any choice has is"),
        (("--sensitivity", "x.csv"), "--sensitivity and --nat need a trained network"),
        (("--qat", 3), "--qat and --train need each other"),
        (
            ("--qat", 3, "--train", "images.gz", "--train-labels", "labels.gz"),
            "no weights to train",
        ),
        (("--weights", "w.pt"), "has no module to run"),
        (("--grey",), "has no module to run"),
        (("--store", "/proc/nothing/store"), "/proc/nothing"),
    ],
)
def test_bad_input_is_one_line(options, wrong, files, capsys, tmp_path) -> None:
    path = tmp_path / "tiny.csv"
    path.write_text("Layer name,IFMAP Height,IFMAP Width,Filter Height,Filter Width,Channels,"
                    "Num Filter,Strides,\nconv,6,6,3,3,2,4,1,\n")  # fmt: skip
    options = [files / own if str(own).endswith(".gz") else own for own in options]
    code, out, err = call(capsys, "search", path, "--workers", 1, *options)
    assert (code, out) == (2, "")
    assert wrong in err
    assert err.count("\n") == 1


def test_a_module_that_is_no_classifier_is_refused_before_the_search(files, capsys) -> None:
    code, out, err = call(capsys, "search", f"{files}/net.py:maps", *trained(files)[1:])
    assert (code, out) == (2, "")
    assert err.endswith(
        f"module {files}/net.py:maps: output (4, 10, 22, 22) for 4 images; allowed: one tensor "
        "(4, classes)\n"
    )
    assert err.count("\n") == 1


def test_a_table_of_another_network(files, capsys, tmp_path) -> None:
    table = tmp_path / "other.csv"
    table.write_text(
        '# bfpsim sensitivity {"network": "Other", "images": 9, "accuracy": 0.5}\n'
        "layer,tensor,format,kl,sqnr_db,accuracy_loss,fisher,bits\n"
        "fc,I,bfp8e2b1,0.1,30.0,0.0,0.1,80\n"
    )
    code, _, err = call(capsys, "search", *trained(files), "--sensitivity", table, "--nat", 0.5)
    assert code == 2
    assert f"{table}: a table that names no weights, for " in err
    assert err.count("\n") == 1
