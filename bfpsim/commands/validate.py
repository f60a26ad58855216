"""The `validate` command: the data-movement models against the simulation."""

from __future__ import annotations

import typer

from bfpsim.commands.arguments import (
    ArchName,
    FormatName,
    NetworkName,
    ShapeOption,
    ValueOption,
    load,
    with_groups,
)
from bfpsim.commands.emit import Output, complain, terminal_width
from bfpsim.commands.mappings import MappingOptions
from bfpsim.commands.progress import progress


@with_groups
def validate(
    network: NetworkName,
    *,
    arch: ArchName = "edge-64k",
    format: FormatName = "bfp8",
    shape: ShapeOption = None,
    value: ValueOption = None,
    choice: MappingOptions,
    output: Output,
) -> None:
    """Check the paper's and the exact data-movement model against the simulation.

    Per layer and in total: bits by each model, and what each effect that the paper's model leaves
    out explains. Exit code 1 if the exact model and the simulation differ in a single bit.
    """
    output.check()
    choice.check()
    spec, net, formats = load(arch, network, format, shape, value)
    from bfpsim.reports.tables import validation_report
    from bfpsim.sim.validate import validate as run

    net, mappings = choice.choose(net, spec)
    objective = choice.objective or "dram"
    with progress(f"validating {net.name} on {spec.name}", len(net.layers)) as step:
        result = run(net, spec, formats, mappings, step, objective=objective)
    output.emit(validation_report(result, formats, terminal_width()))
    if not result.agrees:
        wrong = ", ".join(own.layer for own in result.layers if not own.agrees)
        complain(f"the exact model and the simulation differ in: {wrong}")
        raise typer.Exit(1)
