"""The sweep command: what it prints and writes, and a line for every bad input."""

import json
import os
import signal
import sqlite3
from io import StringIO
from pathlib import Path
from unittest.mock import patch

import pandas as pd
import pytest
from rich.console import Console

import bfpsim as bs
from bfpsim.arch import replace
from bfpsim.commands.app import run
from bfpsim.commands.progress import sweep_progress
from bfpsim.search.sweep.run import Progress
from bfpsim.workloads import NetworkBuilder, save_workload
from tests.search.sweep.driver import finish, rows, start, until


@pytest.fixture
def folder(tmp_path) -> Path:
    build = NetworkBuilder("tiny", input_shape=(1, 6, 6, 4))
    build.conv("conv2", build.conv("conv1", "input", 4, kernel=3), 8, kernel=1)
    save_workload(build.network(), tmp_path / "tiny.yaml")
    (tmp_path / "sweep.yaml").write_text(f"""
arch: ideal-16k
networks: [{tmp_path}/tiny.yaml]
formats: [bfp8]
axes:
  sram.capacity: [16 B, 1 KiB, 16 KiB]
""")
    return tmp_path


def call(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    code = run(["sweep", *map(str, arguments)])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


CONSTANT = (
    "bfpsim: SRAM is resized at a constant energy per bit, so that the largest costs the least by "
    "construction; a table prices it by size, such as energy: cacti-45nm\n"
)


def test_sizes_with_prices_of_their_own_need_no_warning(folder, capsys):
    spec = folder / "sweep.yaml"
    spec.write_text(spec.read_text() + "  sram.energy: [cacti-45nm]\n")
    spec.write_text(spec.read_text().replace("[16 B, ", "["))
    assert call(capsys, spec, "--workers", 1)[2] == ""


def test_a_level_inside_sram_is_an_axis_with_columns_of_its_own(folder, capsys):
    spec = folder / "sweep.yaml"
    text = spec.read_text().replace("ideal-16k", "edge-16k")
    axes = "  levels.acc.capacity: [1 KiB, 16 KiB]\n  levels.acc.ports.read: [64 bit, 512 bit]\n"
    spec.write_text(text[: text.index("  sram")] + axes)
    code, out, error = call(capsys, spec, "--workers", 1, "--csv")
    assert (code, error) == (0, CONSTANT.replace("SRAM", "acc"))
    points = pd.read_csv(StringIO(out))
    assert points["levels.acc.capacity"].tolist() == ["1 KiB"] * 2 + ["16 KiB"] * 2
    network = bs.load_workload(str(folder / "tiny.yaml"))
    formats = bs.LayerFormats.uniform(bs.parse_format("bfp8"))
    for point in points.to_dict(orient="records"):
        arch = bs.load_arch("edge-16k")
        for axis in ("levels.acc.capacity", "levels.acc.ports.read"):
            arch = replace(arch, axis, point[axis])
        result = bs.simulate_network(network, arch, formats, layers="alone")
        bits = result.traffic.groupby("level")["bits"].sum()
        for level in ("DRAM", "SRAM", "ibuf", "acc"):
            assert point[f"{level.lower()}_bits"] == bits[level]
        assert point["cycles"] == result.cycles


def test_a_sweep_is_shown_and_then_looked_up_in_every_shape(folder, capsys):
    spec = folder / "sweep.yaml"
    code, out, error = call(capsys, spec, "--workers", 1)
    assert (code, error) == (0, CONSTANT)
    assert "sweep" in out.splitlines()[0]
    lines = [line.split() for line in out.splitlines()]
    assert ["2", "tiny", "16", "KiB"] in [line[:4] for line in lines]
    assert "conv1: no mapping fits ideal-16k" in out
    assert lines[-1] == ["failed:", "1"]
    assert rows(folder / "sweep.sqlite") == 3

    code, out, _ = call(capsys, spec, "--csv")
    table = bs.sweep(spec, folder / "sweep.sqlite").tables().points
    assert code == 0
    assert out == table.to_csv(index=False, lineterminator="\n")

    _, out, _ = call(capsys, spec, "--json")
    report = json.loads(out)
    assert (report["sweep"], report["failed"]) == ("sweep", 1)
    assert report["points"][0]["dram_bits"] is None
    assert [row["dram_bits"] for row in report["points"]][1:] == table["dram_bits"].tolist()[1:]

    code, out, _ = call(capsys, spec, "--out", folder / "out")
    assert out == (
        f"wrote points.csv, points.parquet, layers.csv, layers.parquet, traffic.csv, "
        f"traffic.parquet to {folder}/out\n"
    )
    assert len(pd.read_csv(folder / "out" / "layers.csv")) == 2 * 2


def test_many_points_show_the_best_of_each_network(folder, capsys):
    spec = folder / "sweep.yaml"
    sizes = ", ".join(f"{size} B" for size in (*range(1, 12), *range(500, 540)))
    spec.write_text(spec.read_text().replace("16 B, 1 KiB, 16 KiB", sizes))
    _, out, _ = call(capsys, spec, "--workers", 1)
    assert "sweep, 51 points: the best 40 by dram, of each network" in out
    shown = [int(line.split()[0]) for line in out.splitlines() if " tiny " in line]
    costs = bs.sweep(spec, folder / "sweep.sqlite").tables().points["dram_bits"]
    assert shown == costs.dropna().sort_values(kind="stable").index[:40].tolist()


def test_where_objectives_differ_each_has_its_best_points(folder, capsys):
    spec = folder / "sweep.yaml"
    sizes = ", ".join(f"{size} B" for size in range(500, 521))
    text = spec.read_text().replace("16 B, 1 KiB, 16 KiB", sizes)
    spec.write_text(text + "  objective: [dram, latency]\n")
    _, out, _ = call(capsys, spec, "--workers", 1)
    assert "42 points: the best 20 by dram, latency, of each network" in out
    points = bs.sweep(spec, folder / "sweep.sqlite").tables().points
    wanted = [
        own.sort_values(cost, kind="stable")["point"].head(20).tolist()
        for (_, own), cost in zip(points.groupby("objective"), ("dram_bits", "cycles"), strict=True)
    ]
    shown = [int(line.split()[0]) for line in out.splitlines() if " tiny " in line]
    assert shown == wanted[0] + wanted[1]


def test_figures_have_units_that_tell_points_apart(folder, capsys):
    spec = folder / "sweep.yaml"
    spec.write_text(spec.read_text().replace("16 B, 1 KiB, 16 KiB", "1 KiB, 16 KiB"))
    _, out, _ = call(capsys, spec, "--workers", 1)
    assert "[kbit]" in out
    points = bs.sweep(spec, folder / "sweep.sqlite").tables().points
    for point in points.to_dict(orient="records"):
        assert f"{point['dram_bits'] / 1e3:,.3f}" in out
        assert f"{point['energy_pj'] / 1e3:,.3f}" in out


def test_a_file_name_is_no_markup_and_no_pattern(folder):
    spec = folder / "grid{1}[red].yaml"
    (folder / "sweep.yaml").rename(spec)
    drawn = StringIO()
    console = Console(file=drawn, force_terminal=True, width=200)
    with patch("rich.console.Console", lambda **_: console), sweep_progress(spec.stem) as show:
        show(Progress(2, 1, 0, False, None))
    assert "grid{1}[red]" in drawn.getvalue()


def test_an_interrupt_says_how_to_go_on(folder):
    spec, store = folder / "sweep.yaml", folder / "sweep.sqlite"
    rates = ", ".join(f"{rate} GB/s" for rate in range(1, 400))
    spec.write_text(spec.read_text() + f"  dram.bandwidth: [{rates}]\n")
    process = start(spec, store, "--workers", 1)
    until(lambda: rows(store) > 3)
    os.killpg(process.pid, signal.SIGINT)  # a terminal's Ctrl-C reaches the workers too
    out, error = finish(process, 130)
    kept = rows(store)
    assert out == ""
    assert error.endswith(  # after lines of progress, if it took long
        f"bfpsim: interrupted: {kept} of 1197 points are in {store}; "
        "the same command goes on from there\n"
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{}/gone.yaml"], "gone.yaml: cannot be read: No such file or directory; give a YAML"),
        (["."], ".: cannot be read: it is a folder; give a YAML file"),
        (["/"], "/: cannot be read: it is a folder; give a YAML file"),
        (["{}/tiny.yaml"], "tiny.yaml:1: name: unknown key; allowed keys: arch, networks, "),
        (["{}/sweep.yaml", "--store", "/proc/store"], "/proc/store: cannot be opened; allowed: "),
        (["{}/sweep.yaml", "--store", "{}/tiny.yaml"], "tiny.yaml: is no store; allowed: a file"),
        (["{}/sweep.yaml", "--store", "{}/other.sqlite"], "other.sqlite: is a database of anoth"),
        (["{}/sweep.yaml", "--workers", "0"], "Invalid value for '--workers': Input should be gr"),
        (["{}/sweep.yaml", "--workers", "1", "--cluster", "x"], "--cluster and --workers exclude"),
        (["{}/sweep.yaml", "--cluster", "tcp://127.0.0.1:x"], "cluster tcp://127.0.0.1:x: no sch"),
        (["{}/sweep.yaml", "--json", "--csv"], "--json, --csv and --out exclude each other"),
    ],
)
def test_bad_input_gives_one_line_and_exit_code_2(folder, capsys, arguments, message):
    with sqlite3.connect(folder / "other.sqlite") as db:
        db.execute("CREATE TABLE bookmarks (url TEXT)")
    db.close()
    code, out, error = call(capsys, *(argument.format(folder) for argument in arguments))
    assert code == 2
    assert message in error
    faults = 2 if "unknown key" in message else 1  # tiny.yaml's name and nodes
    assert error.count("\n") == faults
    assert out == ""
