"""The command line: all commands, and what their errors become.

Exit codes: 0, 1 (a check failed), 2 (bad input: one line that says what is wrong and what is
allowed). Packages load inside the commands, so that `--help` is quick.
"""

from __future__ import annotations

import sys
from typing import Annotated, Any

import typer
from typer.core import TyperGroup
from typer.exceptions import TyperException

from bfpsim.commands.arch import arch_app
from bfpsim.commands.arguments import UsageError
from bfpsim.commands.emit import complain, complain_of
from bfpsim.commands.mantissa import mantissa
from bfpsim.commands.map import map_layers
from bfpsim.commands.quantize import quantize
from bfpsim.commands.report import report
from bfpsim.commands.reproduce import reproduce_app
from bfpsim.commands.rtl import rtl
from bfpsim.commands.search import search
from bfpsim.commands.simulate import simulate
from bfpsim.commands.sweep import sweep
from bfpsim.commands.validate import validate
from bfpsim.commands.workload import workload_app
from bfpsim.extras import missing_extra


class _InterruptedError(Exception):
    """A command that Ctrl-C ended; its message says what was kept."""


class _Commands(TyperGroup):
    """The commands; typer itself would end without a word at Ctrl-C."""

    def invoke(self, ctx: Any) -> Any:
        """Run a command."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as stop:
            raise _InterruptedError(str(stop) or "no result was kept") from None


app = typer.Typer(
    name="bfpsim",
    cls=_Commands,
    help="Simulate embedded accelerators that move block-floating-point data.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(arch_app, name="arch")
app.add_typer(workload_app, name="workload")
app.add_typer(reproduce_app, name="reproduce")
app.command()(quantize)
app.command()(mantissa)
app.command()(search)
app.command()(sweep)
app.command()(report)
app.command()(simulate)
app.command()(validate)
app.command()(rtl)
app.command("map")(map_layers)


def _show_version(wanted: bool) -> None:
    if wanted:
        from bfpsim import __version__

        print(f"bfpsim {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version."),
    ] = False,
) -> None:
    pass


def main() -> None:
    """Run the command line."""
    sys.exit(run(sys.argv[1:]))


def run(arguments: list[str]) -> int:
    """Run one command; its exit code."""
    try:
        code = app(arguments, prog_name="bfpsim", standalone_mode=False)
    except typer.Exit as stop:
        return stop.exit_code
    except (_InterruptedError, typer.Abort, KeyboardInterrupt) as stop:
        complain(f"interrupted: {stop}" if str(stop) else "interrupted")
        return 130
    except TyperException as error:
        if message := error.format_message():  # empty after the help of a bare command
            complain(message)
        return 2
    except UsageError as error:
        complain(str(error))
        return 2
    except ModuleNotFoundError as error:
        needed = missing_extra(error, " ".join(arguments[:2]))
        if needed is None:
            raise
        complain(needed)
        return 2
    except BrokenPipeError:
        return 0
    except OSError as error:
        complain(f"{error.filename or 'file'}: {error.strerror or error}")
        return 2
    except (MemoryError, OverflowError) as error:
        complain(f"sizes beyond what can be counted here: {error}; allowed: smaller ones")
        return 2
    except UnicodeEncodeError as error:
        lacking = error.object[error.start : error.start + 1]
        complain(
            f"the output's encoding, {error.encoding}, has no {lacking!r}; allowed: utf-8 "
            "(PYTHONIOENCODING=utf-8), or files by --out"
        )
        return 2
    except ValueError as error:
        if not isinstance(error, _bad_input()):
            raise
        complain_of(error)
        return 2
    return code if isinstance(code, int) else 0


def _bad_input() -> tuple[type[ValueError], ...]:
    """The errors that mean the user's input, not our defect."""
    from bfpsim.arch import ArchError
    from bfpsim.mapping.nest import MappingError
    from bfpsim.quant.formats import FormatError
    from bfpsim.reports.tradeoff import AccuracyError
    from bfpsim.search.bitwidth.allocation import InfeasibleError
    from bfpsim.search.store import StoreError
    from bfpsim.search.sweep.spec import SweepError
    from bfpsim.workloads import WorkloadError

    return (
        *(ArchError, MappingError, FormatError, WorkloadError),
        *(SweepError, StoreError, InfeasibleError, AccuracyError),
    )


if __name__ == "__main__":
    main()
