"""A day's work on the command line: help, progress, interruptions, places that take no file."""

import os
import re
from io import StringIO
from pathlib import Path

import pytest
import typer
from rich.console import Console
from typer.main import get_command

from bfpsim.commands import progress as bars
from bfpsim.commands.app import app, run
from bfpsim.search.sweep.run import Progress


def call(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = run(list(arguments))
    return code, *capsys.readouterr()


def commands(group, *path: str):
    """Every command with its words."""
    for name, command in getattr(group, "commands", {}).items():
        yield (*path, name), command
        yield from commands(command, *path, name)


COMMANDS = dict(commands(get_command(app)))


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_help_shows_every_word_of_it(capsys, monkeypatch, words: tuple[str, ...]) -> None:
    """What stands in square brackets is markup, and would be missing."""
    monkeypatch.setenv("COLUMNS", "200")
    code, shown, _ = call(capsys, *words, "-h")
    assert code == 0
    shown_words = " ".join(re.sub(r"[│╭╮╰╯─]", " ", shown).split())
    for parameter in COMMANDS[words].params:
        text = " ".join((getattr(parameter, "help", None) or "").split())
        # A long text is beside other columns; each line of it is there.
        for part in re.findall(r"[^ ]+", text):
            assert part in shown_words, (words, parameter.name, part)
    assert not re.search(r" \.( |$)", shown_words)
    assert "...]..." not in shown_words


def test_shells_can_complete_commands(capsys, monkeypatch) -> None:
    assert "--install-completion" in call(capsys, "-h")[1]
    monkeypatch.setenv("_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION", "1")
    with pytest.raises(SystemExit):
        run(["--show-completion", "bash"])
    assert "_BFPSIM_COMPLETE=complete_bash" in capsys.readouterr().out


def test_progress_is_a_line_now_and_then_where_there_is_no_terminal(capsys, monkeypatch) -> None:
    now = 0.0
    monkeypatch.setattr(bars, "_EVERY", 10.0)
    monkeypatch.setattr("time.monotonic", lambda: now)
    with bars.progress("mapping net", 40) as step:
        for number in range(40):
            now += 3.0
            step(f"layer{number}")
    out, error = capsys.readouterr()
    assert out == ""
    lines = error.splitlines()
    assert lines[0] == "bfpsim: mapping net: layer3 (4 of 40)"  # at 12 s
    assert len(lines) == 40 * 3 // 12
    with bars.progress("searching net", None) as step:
        now += 11.0
        step("round 2")
    assert capsys.readouterr().err == "bfpsim: searching net: round 2\n"
    with bars.sweep_progress("grid") as show:
        show(Progress(9, 1, 0, False, None))
        now += 11.0
        show(Progress(9, 4, 1, False, None))
        show(Progress(9, 5, 1, False, None))
    assert capsys.readouterr().err == "bfpsim: grid: 4 of 9 points; 1 failed\n"


def test_on_a_terminal_progress_is_a_bar_alone(capsys, monkeypatch) -> None:
    drawn = StringIO()
    console = Console(file=drawn, force_terminal=True, width=100)
    monkeypatch.setattr("rich.console.Console", lambda **_: console)
    monkeypatch.setattr(bars, "_EVERY", 0.0)
    with bars.progress("mapping net", 2) as step:
        step("one")
    assert "mapping net" in drawn.getvalue()
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("arguments", "place", "said"),
    [
        (
            ["simulate", "resnet18", "--layer", "fc"],
            "bfpsim.sim.simulate.simulate_layers",
            "no result was kept",
        ),
        (["map", "resnet18"], "bfpsim.search.mappings.map_network", "no result was kept"),
        (["validate", "resnet18"], "bfpsim.sim.validate.validate", "no result was kept"),
        (
            ["search", "resnet18"],
            "bfpsim.search.experiments.answer.choose_formats",
            "no stage was kept; with --store FILE the same command goes on from what is finished",
        ),
        (
            ["search", "resnet18", "--store", "s.sqlite"],
            "bfpsim.search.experiments.answer.choose_formats",
            "finished stages are in s.sqlite; the same command goes on from there",
        ),
        (
            ["reproduce", "alpha", "resnet18-fashion", "--work", "work"],
            "bfpsim.search.experiments.bitq.reproduce_alpha",
            "finished stages are in work; the same command goes on from there",
        ),
        (
            ["reproduce", "energy", "resnet18"],
            "bfpsim.search.experiments.bitq.reproduce_energy",
            "no result was kept",
        ),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_an_interruption_says_what_was_kept(
    capsys, monkeypatch, tmp_path: Path, arguments: list[str], place: str, said: str
) -> None:
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(place, interrupted)
    code, out, error = call(capsys, *arguments)
    assert (code, out, error.strip()) == (130, "", f"bfpsim: interrupted: {said}")
    assert os.listdir(tmp_path) == []


def test_the_hour_of_the_paper_s_networks_is_announced_first(capsys, monkeypatch) -> None:
    def none(*_, **__):
        assert "about an hour" in capsys.readouterr().err
        raise typer.Exit(7)

    monkeypatch.setattr("bfpsim.search.experiments.bitq.reproduce_energy", none)
    assert run(["reproduce", "energy"]) == 7

    def quiet(*_, **__):
        assert capsys.readouterr().err == ""
        raise typer.Exit(7)

    monkeypatch.setattr("bfpsim.search.experiments.bitq.reproduce_energy", quiet)
    assert run(["reproduce", "energy", "resnet18"]) == 7


@pytest.mark.parametrize(
    "arguments",
    [
        ["simulate", "nothing", "--out", "/proc/here"],
        ["simulate", "nothing", "--out", "file/sub"],
        ["map", "nothing", "--out", "/proc/m.yaml"],
        ["simulate", "nothing", "--trace", "/proc/t.json"],
        ["search", "nothing", "--store", "/proc/s.sqlite"],
        ["search", "nothing", "--sensitivity", "/proc/s.csv"],
        ["report", "nothing", "--out", "/proc/here"],
        ["reproduce", "alpha", "resnet18-fashion", "--work", "/proc/work"],
        ["workload", "import", "nothing", "--out", "/proc/here"],
    ],
    ids=" ".join,
)
def test_places_that_take_no_file_are_refused_before_the_work(
    capsys, monkeypatch, tmp_path: Path, arguments: list[str]
) -> None:
    """Before the network's name is even looked at, which is wrong."""
    monkeypatch.chdir(tmp_path)
    Path("file").touch()
    code, _, error = call(capsys, *arguments)
    assert (code, error.count("\n")) == (2, 1)
    assert "nothing can be written in" in error
    assert arguments[-2] in error
    assert os.listdir(tmp_path) == ["file"]
