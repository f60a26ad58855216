"""Files that would crash, hang, or run what they should not: one line each, and exit code 2."""

import base64
import io
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from rich.console import Console

from bfpsim.commands import emit
from bfpsim.commands.app import run
from bfpsim.commands.progress import progress
from bfpsim.search.store import Store

ONE_NODE = "nodes:\n- {{name: i, op: input, shape: [1, 8, 8, 3]}}\n- {{name: {}, op: conv, {}}}\n"
MODULE = "import torch\n\n\ndef make():\n    return torch.nn.Conv2d(1, 4, 3)\n"
ACCURACIES = "label,energy_pj,accuracy_loss\n"
BIG_IDX = bytes([0, 0, 8, 4, 0, 0, 0, 0]) + b"\xff" * 12
LEGACY = base64.b64decode("gAKKCmz8nEb5IGqoUBkugAJN")  # the first bytes of a legacy torch.save
ESCAPE = "name: t\n" + ONE_NODE.format('"c\\e[31mred"', "inputs: [i], K: 16")
TOKENS = (
    "name: huge\nnodes:\n- {name: i, op: input, shape: [1, 1, 1000000000, 1000000000]}\n"
    "- {name: c, op: linear, inputs: [i], K: 1000000000}\n"
)
IMAGES = ["quantize", "resnet18-fashion", "-f", "bfp8"]


def no_arrays() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as packed:
        packed.writestr("images.npy", b"hello")
        packed.writestr("labels.npy", b"x")
    return file.getvalue()


@pytest.mark.parametrize(
    ("name", "content", "arguments", "message"),
    [
        ("huge.yaml", TOKENS, ["workload", "show", "F"], "F:3: network 'huge': node 'i': input_sh"),
        ("escape.yaml", ESCAPE, ["workload", "show", "F"], r"F:4: layer 'c\x1b[31mred': holds the"),
        (
            *("\x1b[31m.yaml", ESCAPE, ["workload", "show", "F"]),
            r"\x1b[31m.yaml:4: layer 'c\x1b[31mred': holds the control character '\x1b'; allowed:",
        ),
        (
            *("key.yaml", "name: x\n[[a]]: 1\n", ["arch", "check", "F"]),
            "F:2: a key is a list or a mapping; write keys as text",
        ),
        (
            *(
                "digits.csv",
                f"Layer, M, N, K,\nG, 1, 2, 3, {'1' * 5000}",
                ["workload", "show", "F"],
            ),
            "F:2: batch '1111",
        ),
        (
            "sweep.yaml",
            'arch: ideal-64k\nnetworks: ["os:abort"]\nformats: [bfp8]\n',
            ["sweep", "F", "--store", "F.sqlite"],
            "F:2: networks.0: 'os:abort' would be run as it is loaded; allowed: a network's name",
        ),
        (
            "sweep.yaml",
            'arch: ideal-64k\nnetworks: ["os:abort"]\nformats: [bfp8]\n',
            ["report", "STORE", "--out", "OUT", "--sweep", "F"],
            "F:2: networks.0: 'os:abort' would be run as it is loaded; allowed: a network's name",
        ),
        (
            *("cells.csv", f"{ACCURACIES}x,a,1e6,\n", ["report", "STORE", "--out", "OUT"]),
            "F:2: 4 cells; allowed: 3, as the header has",
        ),
        ("m.npz", no_arrays(), [*IMAGES, "--data", "F"], "F: 'images' is no array; allowed: what"),
        (
            *("big.idx", BIG_IDX, [*IMAGES, "--data", "F", "--labels", "F"]),
            "F: IDX shape (0, 4294967295, 4294967295, 4294967295); allowed: at most 8 extents",
        ),
        (
            *("cut.pt", LEGACY, ["quantize", "made.py:make", "--weights", "F"]),
            "F: is no safetensors file and no state dict of torch.save",
        ),
    ],
    ids=lambda value: str(value)[:30],
)
def test_one_line_and_nothing_written(
    tmp_path, monkeypatch, capsys, name, content, arguments, message
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "made.py").write_text(MODULE)
    path = tmp_path / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    with Store(tmp_path / "store") as store:
        store.put_error("point", "f" * 64, "no mapping fits")
    if name == "cells.csv":
        arguments = [*arguments, "--accuracy", "F"]
    places = {"F": str(path), "STORE": str(tmp_path / "store"), "OUT": str(tmp_path / "out")}
    places["F.sqlite"] = f"{path}.sqlite"
    before = sorted(tmp_path.iterdir())
    assert run([places.get(part, part) for part in arguments]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("bfpsim: ")
    assert message.replace("F:", f"{name}:") in printed.err
    assert printed.err.count("\n") == 1
    assert printed.err.rstrip("\n").isprintable()
    assert "weights_only" not in printed.err
    now = sorted(path for path in tmp_path.iterdir() if path.name != "__pycache__")
    assert [path for path in now if not path.name.startswith("store")] == [
        path for path in before if not path.name.startswith("store")
    ]


def test_names_in_tables_act_on_no_terminal(monkeypatch, capsys) -> None:
    from bfpsim.reports.style import make_table, numbers

    table = make_table("a\x1b[2Jb [red]c", "name\x07")
    numbers(table, "x")
    table.add_row("\x1b]0;title\x07 [/nothing] [link=x]y", "1")
    emit.print_table(table)
    printed = capsys.readouterr().out
    assert "\x1b" not in printed
    assert "\x07" not in printed
    assert r"\x1b]0;title" in printed
    assert "[/nothing] [link=x]y" in printed
    emit.complain("bad \x1b[31m\x9b\u202e\nname \ud800")
    assert capsys.readouterr().err == "bfpsim: bad \\x1b[31m\\x9b\\u202e name \\ud800\n"
    emit.complain("x" * 1_000_000)
    assert len(capsys.readouterr().err) < 20_000


@pytest.mark.parametrize("steps", [None, 2])
def test_progress_shows_names_as_they_are(monkeypatch, steps) -> None:
    shown = io.StringIO()
    terminal = Console(file=shown, force_terminal=True, width=100)
    monkeypatch.setattr("rich.console.Console", lambda **_: terminal)
    with progress("on [/x] a\x1b]0;b", steps) as step:
        step("layer [/y] c\x1b]0;d")
    assert "\x1b]0;" not in shown.getvalue()
    assert r"a\x1b]0;b" in shown.getvalue()
    assert "[/x]" in shown.getvalue()


def test_an_encoding_without_the_units_letters_is_named(tmp_path) -> None:
    command = [sys.executable, "-m", "bfpsim.commands.app", "workload", "show", "net.csv", "--csv"]
    (tmp_path / "net.csv").write_text("Layer, M, N, K,\nµ, 1, 2, 3,\n", "utf-8")
    env = {"PYTHONIOENCODING": "ascii", "PYTHONPATH": str(Path(__file__).parents[2]), "PATH": ""}
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr == (
        "bfpsim: the output's encoding, ascii, has no '\\xb5'; allowed: utf-8 "
        "(PYTHONIOENCODING=utf-8), or files by --out\n"
    )
    assert done.stdout == ""
