"""The examples that take seconds run, and answer their question."""

import re
import runpy
from collections.abc import Callable
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parent.parent / "examples"


@pytest.fixture
def printed(capsys, monkeypatch) -> Callable[..., list[str]]:
    """Run an example as a program, and return its lines."""

    def printed(name: str, *arguments: str) -> list[str]:
        monkeypatch.setattr("sys.argv", [name, *arguments])
        runpy.run_path(str(EXAMPLES / name), run_name="__main__")
        return capsys.readouterr().out.splitlines()

    return printed


def test_how_large_must_my_buffer_be(printed) -> None:
    *sizes, answer = printed("buffer_size.py")
    above = [float(re.search(r"([\d.]+)% above", line)[1]) for line in sizes]
    assert above == sorted(above, reverse=True)
    enough = float(re.fullmatch(r"within 1% from ([\d.]+) KiB on", answer)[1])
    for line, share in zip(sizes, above, strict=True):
        assert (int(line.split()[0]) >= enough) == (share <= 1)


def test_which_format_is_narrow_enough(printed) -> None:
    _, *rows = printed("which_format.py", "--images", "20")
    costs = [[float(cell.replace(",", "")) for cell in row.split()[1:3]] for row in rows]
    assert [row.split()[0] for row in rows] == ["bfp16", "bfp8", "bfp5e2b16"]
    assert costs == sorted(costs, reverse=True)
    assert [row.split()[3] for row in rows[:2]] == ["100.0%", "100.0%"]


def test_was_the_analytical_model_good_enough(printed) -> None:
    *layers, total, agrees = printed("model_error.py")
    off = [abs(float(re.search(r"off by ([+-][\d.]+)%", line)[1])) for line in layers]
    assert len(off) == 5
    assert off == sorted(off, reverse=True)
    assert re.match(r"resnet18-fashion as a whole: off by [+-]", total)
    assert agrees == "the exact model agrees"
