"""The `arch` commands: what architectures there are, what one consists of, and checking files."""

from __future__ import annotations

import json
import sys
from typing import Annotated

import typer

from bfpsim.commands.emit import complain_of, print_table, say

arch_app = typer.Typer(help="Architecture files: list, show, check, schema.", no_args_is_help=True)


@arch_app.command("list")
def list_architectures() -> None:
    """Name the shipped architectures."""
    from bfpsim.arch import load_arch, shipped
    from bfpsim.reports.tables import arch_table

    print_table(arch_table([load_arch(name) for name in shipped()]))


@arch_app.command("show")
def show(name: Annotated[str, typer.Argument(help="A shipped name or a YAML file.")]) -> None:
    """Print an architecture as YAML, defaults filled in."""
    from bfpsim.arch import dump_arch, load_arch

    sys.stdout.write(dump_arch(load_arch(name)))


@arch_app.command("check")
def check(
    files: Annotated[
        list[str], typer.Argument(metavar="FILE", help="A YAML file or shipped name.")
    ],
) -> None:
    """Say whether files are valid; exit code 2 with a line for each fault of those that are not.

    Of a valid one whose SRAM has no port limits: by how much a full array exceeds its width.
    Of one without a vector unit: who does what is no product.
    """
    from bfpsim.arch import ArchError, load_arch
    from bfpsim.reports.tables import demand_text
    from bfpsim.sim.demand import full_array

    bad = 0
    for file in files:
        try:
            spec = load_arch(file)
        except ArchError as error:
            bad += 1
            complain_of(error)
        else:
            say(f"{file}: valid ({spec.name})")
            for line in demand_text(full_array(spec), "in a cycle of all lanes"):
                say(f"{file}: {line}")
            if spec.vector is None:
                say(f"{file}: no vector unit: the host does what is no product, free of charge")
    if bad:
        raise typer.Exit(2)


@arch_app.command("schema")
def schema() -> None:
    """Print the JSON schema of architecture files, for editors."""
    from bfpsim.arch import json_schema

    print(json.dumps(json_schema(), indent=2))
