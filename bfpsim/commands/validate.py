"""The `validate` command: the data-movement models against the simulation."""

from __future__ import annotations

from typing import Annotated

import typer

from bfpsim.commands.arguments import (
    ArchName,
    FormatName,
    LayerName,
    NetworkName,
    ShapeOption,
    load,
    select,
    with_groups,
)
from bfpsim.commands.emit import Output, complain, terminal_width
from bfpsim.commands.progress import progress


@with_groups
def validate(
    network: NetworkName,
    *,
    arch: ArchName = "ideal-64k",
    format: FormatName = "bfp8",
    shape: ShapeOption = None,
    layer: LayerName = None,
    order: Annotated[str | None, typer.Option(help="Loop order, with --layer.")] = None,
    tile: Annotated[str | None, typer.Option(help="Tile sizes, with --layer.")] = None,
    output: Output,
) -> None:
    """Check the paper's and the exact data-movement model against the simulation.

    Per layer and in total: bits by each model, and what each effect that the paper's model leaves
    out explains. Exit code 1 if the exact model and the simulation differ in a single bit.
    """
    output.check()
    spec, net, formats = load(arch, network, format, shape)
    from bfpsim.reports.tables import validation_report
    from bfpsim.sim.validate import validate as run

    net, mappings = select(net, layer, order, tile)
    with progress(f"validating {net.name} on {spec.name}", len(net.layers)) as step:
        result = run(net, spec, formats, mappings, step)
    output.emit(validation_report(result, formats, terminal_width()))
    if not result.agrees:
        wrong = ", ".join(own.layer for own in result.layers if not own.agrees)
        complain(f"the exact model and the simulation differ in: {wrong}")
        raise typer.Exit(1)
