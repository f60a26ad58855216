"""The arch commands, in process, and architecture files that are refused."""

import json
from pathlib import Path

import pytest

from bfpsim.arch import dump_arch, load_arch
from bfpsim.commands.app import run


def call(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = run(list(arguments))
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_arch_commands(capsys, tmp_path: Path) -> None:
    code, text, _ = call(capsys, "arch", "list")
    assert code == 0
    assert "ideal-512k" in text
    code, text, _ = call(capsys, "arch", "show", "ideal-64k-split")
    file = tmp_path / "copy.yaml"
    file.write_text(text)
    assert load_arch(file) == load_arch("ideal-64k-split")
    code, text, _ = call(capsys, "arch", "check", str(file), "ideal-16k")
    assert (code, text.count("valid")) == (0, 2)
    code, text, _ = call(capsys, "arch", "schema")
    assert "sram" in json.loads(text)["properties"]


def arch_file(tmp_path: Path, old: str, new: str) -> str:
    text = dump_arch(load_arch("ideal-64k"))
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
        ("size: 16, dim: C", "size: 0, dim: C", "size"),
    ],
)
def test_bad_architectures(capsys, tmp_path: Path, old: str, new: str, expected: str) -> None:
    file = arch_file(tmp_path, old, new)
    code, out, error = call(capsys, "simulate", "resnet18", "--arch", file)
    assert (code, out, error.count("\n")) == (2, "", 1)
    assert expected in error
    assert "my.yaml" in error
