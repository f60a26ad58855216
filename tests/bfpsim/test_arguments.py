"""Groups of options: spelled as their fields, in their place, and handed on as one value."""

import inspect
from dataclasses import dataclass
from typing import Annotated

import typer
from typer.testing import CliRunner

from bfpsim.commands.arguments import with_groups


@dataclass(frozen=True)
class Size:
    width: Annotated[int, typer.Option(min=1, help="Across.")] = 1
    high: Annotated[bool, typer.Option("--high", help="Very.")] = False


def paint(name: str, *, first: str = "a", size: Size, last: int = 3) -> None:
    """Paint."""
    print(name, first, size, last)


def test_fields_stand_where_the_group_stands() -> None:
    command = with_groups(paint)
    assert list(inspect.signature(command).parameters) == ["name", "first", "width", "high", "last"]
    assert (command.__name__, command.__doc__) == ("paint", "Paint.")


def test_the_command_gets_the_group() -> None:
    app = typer.Typer()
    app.command()(with_groups(paint))
    runner = CliRunner()
    assert runner.invoke(app, ["x"]).output == f"x a {Size()} 3\n"
    given = runner.invoke(app, ["x", "--high", "--last", "4", "--width", "2"])
    assert given.output == f"x a {Size(2, True)} 4\n"
    assert runner.invoke(app, ["x", "--width", "0"]).exit_code == 2
    assert "Across." in runner.invoke(app, ["--help"]).output
