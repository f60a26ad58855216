"""The paper's experiments as commands, on a module that takes a moment."""

import json

import numpy as np
import pandas as pd
import pytest

from tests.bfpsim.test_search import call, files, trained  # noqa: F401

TASKS_FORMATS = 7


def test_energy_against_the_original(capsys, tmp_path) -> None:
    path = tmp_path / "tiny.csv"
    path.write_text("Layer name,IFMAP Height,IFMAP Width,Filter Height,Filter Width,Channels,"
                    "Num Filter,Strides,\nconv,9,9,3,3,8,8,1,\nfc,1,1,1,1,392,16,1,\n")  # fmt: skip
    code, _, _ = call(capsys, "reproduce", "energy", path, "--out", tmp_path / "energy")
    assert code == 0
    frame = pd.read_csv(tmp_path / "energy" / "energy.csv")
    assert len(frame) == TASKS_FORMATS
    own = frame.set_index("format")
    assert own.loc["original", "normalised"] == 1
    assert np.allclose(frame["normalised"], frame["energy_pj"] / frame["energy_pj"].iloc[0])
    # Widths order the energies.
    order = ["fast", "bitq8 (bfp8)", "bsfp8", "bitq16 (bfp16)", "flexblock16", "original"]
    widths = own.loc[order[2:], "dram_bits"].tolist()
    assert widths == sorted(widths)
    means = pd.read_csv(tmp_path / "energy" / "means.csv")
    assert set(means["group"]) == {"all"}
    assert (tmp_path / "energy" / "energy.png").stat().st_size > 10_000
    code, out, err = call(capsys, "reproduce", "energy", path, path)
    assert (code, out) == (2, "")
    assert "network 'tiny' is given twice; allowed: different names" in err


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    return tmp_path_factory.mktemp("work")


def test_alpha(files, work, capsys, tmp_path) -> None:  # noqa: F811
    arguments = ("reproduce", "alpha", *trained(files), "--work", work, "--bits", 8)
    code, _, _ = call(capsys, *arguments, "--out", tmp_path / "alpha")
    assert code == 0
    frame = pd.read_csv(tmp_path / "alpha" / "bitq8.csv")
    assert frame["alpha"].tolist() == [0.015, 0.05, 0.15, 0.2, 0.25, 1.5, 3.0]
    assert frame["simulated"].is_monotonic_decreasing  # dearer movement, less of it
    assert frame["predicted_loss"].is_monotonic_increasing
    assert (tmp_path / "alpha" / "alpha.png").exists()


def test_ablation(files, work, capsys) -> None:  # noqa: F811
    train = ("--train", files / "images.gz", "--train-labels", files / "labels.gz", "--qat", 2)
    code, out, _ = call(
        capsys, "reproduce", "ablation", *trained(files), "--work", work, "--bits", 8, *train,
        "--json",
    )  # fmt: skip
    assert code == 0
    rows = {(r["choice"], r["trained"]): r for r in json.loads(out)["ablation"]}
    assert len(rows) == 4 + 3
    least, most = rows["w/o QAT", False], rows["w/o DM expression", False]
    bitq = rows["BitQ", False]
    assert least["simulated"] <= bitq["simulated"] <= most["simulated"]
    assert least["predicted_loss"] >= bitq["predicted_loss"] >= most["predicted_loss"]
    assert rows["BitQ", True]["simulated"] == bitq["simulated"]


def test_a_network_without_weights_has_no_accuracy(capsys, tmp_path) -> None:
    code, _, err = call(capsys, "reproduce", "accuracy", "resnet18", "--work", tmp_path / "w")
    assert code == 2
    assert "resnet18 has no trained weights here" in err
    assert not (tmp_path / "w").exists()
