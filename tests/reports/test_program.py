"""A program's tables, figure and trace: rows that add up, in every shape alike."""

import io
import json
from collections import defaultdict
from itertools import pairwise
from math import fsum

import pandas as pd
import pytest

from bfpsim.arch import load_arch, replace
from bfpsim.reports.occupancy import capacities, occupancy_frame, plot_occupancy
from bfpsim.reports.program import activations_frame, operations_frame, program_report
from bfpsim.reports.trace import write_trace
from bfpsim.search.experiments.program import compare_program
from tests.programs import small_branches

MACHINES = {
    "shared": {"sram.capacity": "3 KiB"},
    "split": {
        "sram": {
            "input": {"capacity": "2 KiB", "width": "64 bit", "energy": "0.16 pJ/bit"},
            "weight": {"capacity": "1 KiB", "width": "64 bit", "energy": "0.16 pJ/bit"},
            "output": {"capacity": "1 KiB", "width": "64 bit", "energy": "0.16 pJ/bit"},
        }
    },
    "priced": {"sram.capacity": "6 KiB", "sram.double_buffered": True, "dram.background": "1 mW"},
}


@pytest.fixture(scope="module")
def network():
    return small_branches()


@pytest.fixture(scope="module", params=list(MACHINES))
def compared(network, request):
    arch = replace(load_arch("ideal-16k"), "vector", {"lanes": 4, "energy": "1 pJ"})
    for path, value in MACHINES[request.param].items():
        arch = replace(arch, path, value)
    return compare_program(network, arch, "bfp8")


def test_rows_add_up_to_the_totals(compared):
    result = compared.program
    rows, traffic = operations_frame(result), result.traffic
    summary = json.loads(program_report(compared, "bfp8").to_json())
    assert list(rows["operation"]) == [own.name for own in result.operations]
    for level in ("DRAM", "SRAM"):
        column = f"{level.lower()}_bits"
        assert rows[column].sum() == summary[column]
        assert rows[column].sum() == traffic.loc[traffic["level"] == level, "bits"].sum()
    of_v = traffic[(traffic["level"] == "DRAM") & (traffic["tensor"] == "V")]
    assert summary["vector_bits"] == of_v["bits"].sum()
    assert rows["cycles"].sum() == summary["cycles"] == rows["end"].max()
    assert rows["compute_cycles"].sum() == summary["compute_cycles"]
    assert fsum(traffic["energy_pj"]) == pytest.approx(summary["energy_pj"], rel=1e-12)
    assert summary["all_energy_pj"] == pytest.approx(rows["all_energy_pj"].sum(), rel=1e-12)
    parts = result.energy.to_frame()[:-2]  # both totals stand below
    assert fsum(parts["energy_pj"]) == pytest.approx(summary["all_energy_pj"], rel=1e-12)


def test_json_and_csv_hold_the_tables(compared, tmp_path):
    report = program_report(compared, "bfp8")
    written = json.loads(report.to_json())
    files = {path.name for path in report.write(tmp_path)}
    assert {"occupancy.csv", "occupancy.png", "operations.csv", "summary.json"} <= files
    for name, frame in report.frames.items():
        columns = list(frame.columns)
        rows = [[row[column] for column in columns] for row in written[name]]
        assert rows == frame.astype(object).to_numpy().tolist()
        read = pd.read_csv(tmp_path / f"{name}.csv", keep_default_na=False)
        assert list(read.columns) == columns
        for column in frame.select_dtypes("number"):
            assert read[column].tolist() == frame[column].tolist()
    first = pd.read_csv(io.StringIO(report.to_csv()))
    assert first["bits"].sum() == compared.program.traffic["bits"].sum()


def test_what_stays_never_crosses_the_channel(compared):
    result = compared.program
    rows = activations_frame(result).set_index("activation")
    stays = set(rows.index[rows["stays"]])
    assert stays == set(result.allocation.sizes)
    assert (rows["stays_bits"] > 0).equals(rows["stays"])
    for own in result.operations:
        if own.operation.writes.activation in stays:
            written = [own.counts.total("DRAM", tensor, "write") for tensor in "OV"]
            assert sum(written) == 0, own.name


def test_figures_of_a_comparison_are_differences_of_its_runs(compared):
    figures = compared.figures
    assert compared.apart.allocation.sizes == {}
    assert figures["residency_saves_bits"] >= 0
    moved = compared.program.traffic.query("level == 'DRAM'")["bits"].sum()
    assert figures["nothing_stays_dram_bits"] - figures["residency_saves_bits"] == moved
    assert figures["overlap_saves_cycles"] == figures["one_by_one_cycles"] - compared.program.cycles
    assert figures["alone_cycles"] == sum(own.cycles for own in compared.alone.layers)


def test_occupancy_never_exceeds_the_capacity_and_ends_empty(compared):
    result = compared.program
    frame, room = occupancy_frame(result), capacities(result)
    shares = ["stays_bits", "W_bits", "I_bits", "O_bits", "V_bits"]
    assert (frame[shares] >= 0).all(axis=None)
    assert (frame[shares].sum(axis=1) == frame["held_bits"]).all()
    assert not frame.duplicated(["memory", "cycle"]).any()
    for memory, own in frame.groupby("memory"):
        assert own["held_bits"].max() <= room[memory] == own["capacity_bits"].iloc[0]
        assert own["cycle"].is_monotonic_increasing
        assert own["held_bits"].iloc[-1] == 0
        # Changes one by one, up to each cycle.
        for row in own.itertuples():
            before = [c for c in result.changes if c.cycle <= row.cycle and c.memory == memory]
            assert sum(c.bits for c in before) == row.held_bits
            stay = {c.owner[0] for c in before} & set(result.allocation.sizes)
            held = sum(c.bits for c in before if c.owner[1] == "" and c.owner[0] in stay)
            assert held == row.stays_bits


def test_equal_programs_make_equal_figures(compared, tmp_path):
    for name in ("one", "two"):
        plot_occupancy(compared.program, tmp_path / f"{name}.png")
    assert (tmp_path / "one.png").read_bytes() == (tmp_path / "two.png").read_bytes()


def test_a_trace_has_no_two_slices_of_a_thread_at_once_and_counters_within_capacity(
    compared, tmp_path
):
    result = compared.program
    write_trace(result, tmp_path / "trace.json")
    events = json.loads((tmp_path / "trace.json").read_text())["traceEvents"]
    threads = {e["tid"]: e["args"]["name"] for e in events if e["name"] == "thread_name"}
    slices = defaultdict(list)
    for event in events:
        if event["ph"] == "X":
            slices[threads[event["tid"]]].append((event["ts"], event["ts"] + event["dur"]))
        elif event["ph"] == "C":
            memory = event["name"].removesuffix(" [bit]")
            assert 0 <= sum(event["args"].values()) <= capacities(result)[memory]
    serial = ("PE array", "vector unit", "vector operation waits", "DRAM channel", "operations")
    assert {*slices} >= {*serial} - {"vector operation waits"}
    for thread in serial:
        own = sorted(slices[thread])
        assert all(end <= start for (_, end), (start, _) in pairwise(own)), thread
    assert sum(end - start for start, end in slices["operations"]) == result.cycles
    busy = sum(end - start for start, end in slices["DRAM channel"])
    assert busy == sum(own.dram_busy_cycles for own in result.operations)
