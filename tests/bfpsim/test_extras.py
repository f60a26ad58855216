"""Without torch and amaranth: what needs them says so in one line, all else works."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

import bfpsim as bs
from bfpsim.extras import missing_extra

BLOCKED = """
import json, sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "numba", "PIL", "amaranth"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Blocked())
"""

COMMANDS = """
import contextlib, io
from bfpsim.commands.app import run

results = []
for arguments in json.loads(sys.argv[1]):
    out, error = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(error):
        code = run(arguments)
    results.append((code, out.getvalue(), error.getvalue()))
print(json.dumps(results))
"""


def blocked(code: str, *arguments: str) -> str:
    """What a program prints that can import neither torch nor amaranth."""
    run = subprocess.run(
        [sys.executable, "-c", BLOCKED + code, *arguments],
        capture_output=True, text=True, check=False, timeout=100,
        cwd=Path(__file__).parents[2],
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    return run.stdout


def test_commands(tmp_path) -> None:
    network = tmp_path / "tiny.csv"
    tiny = bs.NetworkBuilder("tiny")
    tiny.conv("c2", tiny.conv("c1", tiny.input("image", (1, 8, 8, 4)), 8, 3), 4, 1)
    bs.save_workload(tiny.network(), network)
    (tmp_path / "net.py").write_text("import torch\n")
    need = [
        ["quantize", "resnet18-fashion"],
        ["mantissa", "vit-fashion"],
        ["search", "resnet18-fashion"],
        ["quantize", f"{tmp_path / 'net.py'}:make"],
        ["search", f"{tmp_path / 'net.py'}:make"],
        ["simulate", f"{tmp_path / 'net.py'}:make"],
        ["workload", "import", f"{tmp_path / 'net.py'}:make", "--out", str(tmp_path / "x.yaml")],
    ]
    hardware = [["rtl", "edge-64k", "--verilog", str(tmp_path / "x.v")]]
    hardware += [["rtl", "edge-64k", "--trials", "1"]]
    work = [
        ["search", str(network), "--workers", "1"],
        ["simulate", str(network)],
        ["validate", str(network)],
        ["map", str(network)],
        ["workload", "show", str(network)],
        ["arch", "list"],
        ["rtl", "edge-64k"],
    ]
    results = json.loads(blocked(COMMANDS, json.dumps(need + hardware + work)))
    for arguments, (code, _, error) in zip(need, results, strict=False):
        assert (code, error.count("\n")) == (2, 1), (arguments, error)
        assert "needs torch, which is not installed: pip install bfpsim[torch]\n" in error
    for arguments, (code, _, error) in zip(hardware, results[len(need) :], strict=False):
        assert (code, error.count("\n")) == (2, 1), (arguments, error)
        assert "needs amaranth, which is not installed: pip install bfpsim[rtl]\n" in error
    for arguments, (code, out, error) in zip(work, results[-len(work) :], strict=True):
        assert (code, bool(out)) == (0, True), (arguments, error)


def test_names_of_the_public_api() -> None:
    text = blocked(
        "import bfpsim as bs\n"
        "for use in (lambda: bs.quantize_model, lambda: bs.Codings, lambda: bs.fine_tune,\n"
        "            lambda: bs.load_workload('net.py:make')):\n"
        "    try: use()\n"
        "    except (ImportError, bs.WorkloadError) as error: print(error)\n"
        "print(bs.load_workload('resnet18').name, bs.BFP(8, 3, 16))\n"
    )
    assert text.splitlines() == [
        *(
            f"{name} needs torch, which is not installed: pip install bfpsim[torch]"
            for name in (
                "bfpsim.quantize_model", "bfpsim.Codings", "bfpsim.fine_tune",
                "workload 'net.py:make'",
            )
        ),
        "resnet18 bfp8e3b16",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("module", "line"),
    [
        ("numba.core", "x needs numba, which is not installed: pip install bfpsim[torch]"),
        ("PIL", "x needs PIL, which is not installed: pip install bfpsim[torch]"),
        ("amaranth.hdl", "x needs amaranth, which is not installed: pip install bfpsim[rtl]"),
        ("torchvision", None),
        (None, None),
    ],
)
def test_which_extra_brings_a_module(module, line) -> None:
    assert missing_extra(ModuleNotFoundError("", name=module), "x") == line
