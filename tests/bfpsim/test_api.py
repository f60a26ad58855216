"""What a command writes, a call or two of the API writes too, byte for byte."""

import runpy

import numpy as np
import pytest

import bfpsim as bs
from bfpsim.commands.app import run

NET = """
import torch
from torch import nn
def make():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 4, 7, stride=7), nn.ReLU(), nn.Flatten(), nn.Linear(64, 10))
def flat():
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(784, 10))
"""
LOOK = bs.Normalisation((0.2860,), (0.3530,))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Modules, and images that one classifies right: their labels are its answers."""
    made = tmp_path_factory.mktemp("api")
    (made / "net.py").write_text(NET)
    pixels = np.random.default_rng(0).integers(256, size=(40, 1, 28, 28)).astype(np.uint8)
    module = runpy.run_path(str(made / "net.py"))["make"]()
    labels = module(LOOK.apply(pixels)).argmax(1).numpy()
    np.savez(made / "data.npz", images=pixels, labels=labels)
    return made


@pytest.fixture(scope="module")
def name(folder) -> str:
    return f"{folder}/net.py:make"


@pytest.fixture(scope="module")
def module(folder):
    return runpy.run_path(str(folder / "net.py"))["make"]()


@pytest.fixture(scope="module")
def images(folder):
    return bs.read_npz_dataset(folder / "data.npz", LOOK)


@pytest.fixture
def classifier(module, images, name):
    return bs.make_classifier(module, images, name=name)


@pytest.fixture(scope="module")
def edge():
    return bs.load_arch("edge-64k")


@pytest.fixture
def ideal():
    """The machine of the search and of the paper's experiments."""
    return bs.load_arch("ideal-64k")


@pytest.fixture
def same(tmp_path, capsys):
    """Whether a command and a report write the same files."""

    def check(report: bs.Report, *command: object) -> None:
        assert run([*map(str, command), "--out", str(tmp_path / "command")]) == 0
        report.write(tmp_path / "python")
        written = [
            {path.name: path.read_bytes() for path in (tmp_path / by).iterdir()}
            for by in ("command", "python")
        ]
        assert written[0] == written[1]

    return check


def small_network() -> bs.Network:
    build = bs.NetworkBuilder("small", (1, 14, 14, 24))
    first = build.conv("first", "input", 40, (3, 3), padding=1)
    again = build.conv("again", first, 40, (3, 3), padding=1)
    build.linear("fc", build.conv("last", again, 16, (3, 3), stride=2), 10)
    return build.network()


@pytest.mark.parametrize("what", ["simulate", "validate", "map", "curve", "workload"])
def test_simulations_mappings_and_workloads(same, edge, tmp_path, what: str) -> None:
    path = tmp_path / "small.yaml"
    bs.save_workload(small_network(), path)
    network = bs.load_workload(path)
    formats = bs.LayerFormats.uniform(bs.parse_format("bfp8"))
    command = {
        "simulate": ("simulate", path),
        "validate": ("validate", path),
        "map": ("map", path, "--objective", "energy"),
        "curve": ("map", path, "--curve"),
        "workload": ("workload", "show", path),
    }[what]
    simulate = bs.compare_program
    reports = {
        "simulate": lambda: bs.simulation_report(simulate(network, edge, formats), formats),
        "validate": lambda: bs.validation_report(bs.validate(network, edge, formats), formats),
        "map": lambda: bs.mapping_report(bs.map_network(network, edge, formats, "energy")),
        "curve": lambda: bs.curve_report(bs.traffic_curves(network, edge, formats)),
        "workload": lambda: bs.workload_report(network, edge, formats),
    }
    same(reports[what](), *command)


def test_quantize(same, classifier, images, folder, name) -> None:
    study = bs.study_formats(classifier, ["original", "bfp6e3b16"], training=images, steps=2)
    data = ("--data", folder / "data.npz", "--train", folder / "data.npz", "--qat", 2)
    same(bs.formats_report(study), "quantize", name, *data, "-f", "original", "-f", "bfp6e3b16")


def test_quantize_sensitivity(same, classifier, folder, name, tmp_path) -> None:
    formats = [bs.parse_format("bfp8e3b4")]
    study = bs.study_sensitivity(classifier, formats, table=tmp_path / "mine.csv")
    data = ("--data", folder / "data.npz", "-f", "bfp8e3b4")
    table = tmp_path / "table.csv"
    same(bs.sensitivity_report(study), "quantize", name, *data, "--sensitivity", table)
    assert table.read_bytes() == (tmp_path / "mine.csv").read_bytes()


@pytest.mark.long
def test_mantissa(same, module, images, edge, folder, name) -> None:
    study = bs.study_mantissa(module, images, edge, name=name, within=0.2)
    data = ("--data", folder / "data.npz", "--within", 20)
    same(bs.mantissa_report(study), "mantissa", name, *data)


def test_mantissa_of_several(same, module, images, folder, name) -> None:
    other = name.replace("make", "flat")
    flat = runpy.run_path(str(folder / "net.py"))["flat"]()
    study = bs.study_tolerance({name: module, other: flat}, images)
    same(bs.tolerance_report(study), "mantissa", name, other, "--data", folder / "data.npz")


def test_search(same, classifier, ideal, folder, name, tmp_path) -> None:
    data = ("--data", folder / "data.npz", "--workers", 1)
    known = {"table": tmp_path / "table.csv", "store": tmp_path / "stages"}
    answer = bs.choose_formats(classifier, ideal, loss_per_nat=0.4, **known)
    options = ("--nat", 0.4, "--sensitivity", known["table"], "--store", known["store"])
    same(bs.search_report(answer), "search", name, *data, *options)


@pytest.mark.long
def test_the_paper(same, classifier, edge, folder, name, tmp_path) -> None:
    work = tmp_path / "work"
    study = bs.reproduce_alpha(classifier, edge, work, bits=[8])
    data = ("--data", folder / "data.npz", "--workers", 1, "--work", work, "--bits", 8)
    same(bs.alpha_report(study), "reproduce", "alpha", name, *data)


def test_the_papers_energies(same, ideal, tmp_path) -> None:
    build = bs.NetworkBuilder("tiny", (1, 9, 9, 8))
    build.linear("fc", build.conv("conv", "input", 8, (3, 3)), 16)
    bs.save_workload(build.network(), tmp_path / "tiny.yaml")
    study = bs.reproduce_energy([build.network()], ideal)
    same(bs.energy_report(study), "reproduce", "energy", tmp_path / "tiny.yaml")


def test_a_sweep_on_the_terminal(tmp_path, capsys) -> None:
    spec = tmp_path / "sweep.yaml"
    spec.write_text("arch: ideal-64k\nnetworks: [resnet18-fashion]\nformats: [bfp8]\n")
    results = bs.sweep(spec, tmp_path / "sweep.sqlite", workers=1)
    assert run(["sweep", str(spec), "--json"]) == 0
    assert capsys.readouterr().out == bs.sweep_report(results, "sweep").to_json() + "\n"
