"""The map command, in process: mappings, staircases, solvers."""

import json
from pathlib import Path

import pytest

from bfpsim.arch import load_arch
from bfpsim.commands.app import run
from bfpsim.mapping.file import load_mappings
from bfpsim.workloads import load_workload

SMALL = ["--layer", "fc"]


def call(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = run(list(arguments))
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_map_prints_and_rescores(capsys) -> None:
    code, text, _ = call(capsys, "map", "resnet18-fashion", *SMALL)
    assert code == 0
    assert "Mappings of resnet18-fashion" in text
    assert "priced: by payload; simulate and validate take the least in whole bursts" in text
    code, text, _ = call(
        capsys,
        "map",
        "resnet18",
        "--layer",
        "layer4.0.conv2",
        "--rescore",
        "5",
        "--json",
        "--arch",
        "ideal-64k",
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
        (["--curve", "--arch", "ideal-64k-split"], "has a buffer per tensor"),
        (["--front", "--max-tile", "K=2"], "--front is of DRAM bits and cycles"),
        (["--front", "--out", "m.yaml"], "--out m.yaml is of one mapping a layer"),
        (["--curve", "--max-tile", "K=2"], "--curve is of DRAM payload"),
        (["--solver", "scip", "--order", "K"], "--solver minimises DRAM payload"),
        (["--tile", "K=11"], "fc: tile K=11; allowed: 1..10"),
        (["--tile", "K=0"], "tile K=0; allowed: a whole number from 1"),
        (["--tile", "K"], "--tile part 'K'; allowed: DIM=SIZE, such as K=16"),
        (["--max-tile", "K=2,K=2"], "--max-tile names K twice; allowed: once"),
        (["--max-tile", "R=2"], "names dimension 'R'; allowed: N, G, K, C, P, Q"),
        (["--order", "KK"], "order='KK' repeats a dimension; allowed: each once"),
        (["--order", "K", "--tile", "C=4"], "order='K' lacks C, which has 32 tiles"),
        (["--max-tile", "K=9"], "fc: every O tile cuts a block of 16 channels"),
        (["--curve", "--out", "m.yaml"], "--out m.yaml is of one mapping a layer"),
        (["--out", "nowhere/m.yaml"], "nowhere is no folder; allowed: an existing one"),
        (["--out", "m.yaml", "--json"], "--json, --csv and --out exclude each other"),
    ],
)
def test_map_refuses(capsys, options: list[str], expected: str) -> None:
    code, _, error = call(capsys, "map", "resnet18-fashion", *SMALL, *options)
    assert (code, error.count("\n")) == (2, 1)
    assert expected in error


def test_map_compares_solvers(capsys) -> None:
    options = [
        "--arch",
        "ideal-64k",
        "--solver",
        "enumerate",
        "--solver",
        "relaxed",
        "--seconds",
        "5",
        "--json",
    ]
    code, text, _ = call(capsys, "map", "resnet18-fashion", *SMALL, *options)
    rows = json.loads(text)["solvers"]
    assert code == 0
    assert [row["solver"] for row in rows] == ["enumerate", "relaxed"]
    code, text, _ = call(capsys, "map", "resnet18-fashion", *SMALL, *options[:4])
    assert "solver's" in text
    code, _, error = call(capsys, "map", "resnet18-fashion", *SMALL, "--solver", "scip")
    assert (code, error.count("\n")) == (2, 1)
    assert "edge-64k: has levels inside SRAM (ibuf, acc), which scip" in error
    code, _, error = call(
        capsys, "map", "resnet18-fashion", *SMALL, *options[:4], "--objective", "energy"
    )
    assert (code, error.count("\n")) == (2, 1)


def test_mappings_go_to_a_file_or_a_folder_for_other_commands(capsys, tmp_path: Path) -> None:
    file, folder = tmp_path / "m.yaml", tmp_path / "out"
    command = ["map", "resnet18-fashion", "--max-tile", "K=32", "--out"]
    code, text, _ = call(capsys, *command, str(file))
    assert (code, text) == (0, f"wrote {file}\n")
    code, text, _ = call(capsys, *command, str(folder))
    assert (code, text) == (0, f"wrote mappings.csv, mappings.yaml, summary.json to {folder}\n")
    assert (folder / "mappings.yaml").read_bytes() == file.read_bytes()
    assert file.read_text().startswith(
        "# Mappings of resnet18-fashion in bfp8e3b16 on edge-64k, least dram (exact)\n"
    )
    network = load_workload("resnet18-fashion")
    mappings = load_mappings(file, network, load_arch("edge-64k"))
    assert list(mappings) == [layer.name for layer in network.layers]
    assert all(mappings[layer.name].tile.get("K", layer.K) <= 32 for layer in network.layers)


def test_the_mappings_of_map_are_those_that_simulate_runs(capsys, tmp_path: Path) -> None:
    """With bursts, the mapper's mappings from a file are what `simulate` finds by itself."""
    file = tmp_path / "m.yaml"
    assert run(["map", "resnet18-fashion", "--model", "full", "--out", str(file)]) == 0
    capsys.readouterr()
    simulate = ["simulate", "resnet18-fashion", "--layers", "alone", "--json"]
    _, found, _ = call(capsys, *simulate)
    code, given, _ = call(capsys, *simulate, "--mappings", str(file))
    assert (code, given) == (0, found)
    # And what `map` prices, `simulate` counts.
    _, text, _ = call(capsys, "map", "resnet18-fashion", "--model", "full", "--json")
    priced = json.loads(text)
    assert priced["priced"] == "in whole bursts, as simulate and validate do"
    cost = sum(row["cost"] * row["layers"] for row in priced["mappings"])
    counted = sum(row["bits"] for row in json.loads(found)["traffic"] if row["level"] == "DRAM")
    assert cost == counted


def test_the_front_goes_from_fewest_cycles_to_fewest_bits(capsys) -> None:
    layer = ["resnet18-fashion", "--layer", "layer4.0.downsample"]
    layer += ["--arch", "ideal-64k-split", "--format", "plain8"]
    code, text, _ = call(capsys, "map", *layer, "--front", "--json")
    points = json.loads(text)["front"]
    assert code == 0
    assert len(points) > 1
    assert [p["cycles"] for p in points] == sorted(p["cycles"] for p in points)
    assert [p["dram_bits"] for p in points] == sorted(p["dram_bits"] for p in points)[::-1]
    for objective, point in (("latency", points[0]), ("dram", points[-1])):
        _, text, _ = call(capsys, "simulate", *layer, "--objective", objective, "--json")
        report = json.loads(text)
        assert (report["cycles"], report["dram_bits"]) == (point["cycles"], point["dram_bits"])
    for point in points:
        order, tile = point["order"], point["tile"].replace(" ", ",")
        spelled = ["--order", order, "--tile", tile, "--json"]
        report = json.loads(call(capsys, "simulate", *layer, *spelled)[1])
        assert (report["cycles"], report["dram_bits"]) == (point["cycles"], point["dram_bits"])
    _, text, _ = call(capsys, "map", *layer, "--front")
    assert "of which none" in text


def test_constraints_are_kept_to_and_said(capsys) -> None:
    options = ["--order", "CK", "--tile", "C=64", "--max-tile", "K=32", "--json"]
    code, text, _ = call(capsys, "map", "resnet18", "--layer", "layer4.0.conv2", *options)
    report = json.loads(text)
    assert code == 0
    assert report["constraints"] == "order CK, tile C=64, max_tile K=32"
    (row,) = report["mappings"]
    assert (row["order"], row["tile"]) == ("CK", "K=32 C=64")
    assert "mapping" not in row
    _, text, _ = call(capsys, "map", "resnet18", "--layer", "layer4.0.conv2", *options[:2])
    assert "under order CK" in " ".join(text.split())
