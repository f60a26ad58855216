"""Results handed to the user: a table on the terminal, JSON, CSV, or files in a folder."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bfpsim.commands.arguments import UsageError, check_place

if TYPE_CHECKING:
    from rich.console import RenderableType

    from bfpsim.reports.report import Report
    from bfpsim.reports.style import Ending


_LONGEST = 10_000  # characters of a message


FigureEndings = Annotated[
    str,
    typer.Option(
        "--figures",
        metavar="ENDINGS",
        help="What figures are written as: png, pdf or svg, several joined by commas.",
    ),
]


def endings(chosen: str) -> tuple[Ending, ...]:
    """The endings of figures' files; raises UsageError for one that is none."""
    from bfpsim.reports.style import ENDINGS

    words = dict.fromkeys(word.strip().lower() for word in chosen.split(","))
    made = tuple(ending for ending in ENDINGS if ending in words)
    if len(made) < len(words):
        raise UsageError(f"--figures {chosen!r}; allowed: {', '.join(ENDINGS)}, joined by commas")
    return made


@dataclass(frozen=True)
class Output:
    """Options that say where a report goes."""

    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV instead of a table.")] = False
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Write the tables into this folder.")
    ] = None
    figures: FigureEndings = "png"

    def check(self) -> None:
        """Raise UsageError, before the work, for several outputs, or a place that takes none."""
        if self.as_json + self.as_csv + (self.out is not None) > 1:
            raise UsageError("--json, --csv and --out exclude each other; give one")
        if self.figures != "png" and self.out is None:
            raise UsageError("--figures needs --out, the folder that they are written into")
        endings(self.figures)
        if self.out is not None:
            self.check_place(self.out)

    def check_place(self, out: Path) -> None:
        """Raise UsageError if --out is a file."""
        check_folder(out)

    def emit(self, report: Report) -> None:
        """Print a report, or write its files."""
        if self.as_json:
            print(report.to_json())
        elif self.as_csv:
            sys.stdout.write(report.to_csv())
        elif self.out is not None:
            files = ", ".join(path.name for path in report.write(self.out, endings(self.figures)))
            say(f"wrote {files} to {self.out}")
        else:
            print_table(report.table)
            for line in report.lines:
                say(line)


def check_folder(out: Path, option: str = "--out") -> None:
    """Raise UsageError, before the work, if files could not be written into a folder after it."""
    if out.exists() and not out.is_dir():
        raise UsageError(f"{option} {out} is a file; allowed: a folder, new or existing")
    check_place(f"{option} {out}", out)


@contextmanager
def kept(what: str) -> Iterator[None]:
    """A block whose interruption says what is kept of its work."""
    try:
        yield
    except KeyboardInterrupt as stop:
        raise KeyboardInterrupt(str(stop) or what) from None


def shown(text: str) -> str:
    """Return text with its control characters as escapes, lines as they are."""
    if text.isprintable():  # as nearly all is: nothing to load
        return text
    from bfpsim.workloads.files.text import visible

    return visible(text)


def complain(message: str) -> None:
    """Print one line on stderr."""
    line = " ".join(message.split())
    if len(line) > _LONGEST:
        line = f"{line[: _LONGEST // 2]} ... {line[-_LONGEST // 2 :]}"
    print(f"bfpsim: {shown(line)}", file=sys.stderr)


def complain_of(error: Exception) -> None:
    """Print an error's message on stderr, and its notes (more faults of a file), a line each."""
    for fault in (str(error), *getattr(error, "__notes__", ())):
        complain(fault)


def say(line: str) -> None:
    """Print one line on stdout."""
    print(shown(line))


def print_table(table: RenderableType) -> None:
    """Print a table at the terminal's width, or at 200 columns where there is no terminal."""
    from rich.console import Console
    from rich.segment import Segment, Segments

    console = Console(width=terminal_width())
    # Names come from files: what acts on a terminal is shown, not done.
    parts = (
        part if part.control else Segment(shown(part.text), part.style)
        for part in console.render(table)
    )
    console.print(Segments(list(parts)), end="")


def terminal_width() -> int:
    """Columns of the terminal; 200 where there is none."""
    from rich.console import Console

    console = Console()
    return console.width if console.is_terminal else 200
