"""The `map` command: the best mapping of every layer."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, cast

import typer

from bfpsim.commands.arguments import (
    ArchName,
    FormatName,
    LayerName,
    NetworkName,
    ObjectiveName,
    ShapeOption,
    UsageError,
    ValueOption,
    check_writable,
    load,
    select,
    tile_sizes,
    with_groups,
)
from bfpsim.commands.emit import Output, say
from bfpsim.commands.progress import progress

if TYPE_CHECKING:
    from bfpsim.search.solvers import Method


class Solver(StrEnum):
    """Methods of `search.solvers`."""

    ENUMERATE = "enumerate"
    SCIP = "scip"
    RELAXED = "relaxed"


@dataclass(frozen=True)
class MappingOutput(Output):
    """Options that say where the mappings go."""

    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            help="Write the tables, and mappings.yaml for --mappings of other commands, into this "
            "folder; if the name ends in .yaml, the mappings alone into that file.",
        ),
    ] = None

    @property
    def file(self) -> Path | None:
        """The file of mappings, where --out names one."""
        named = self.out is not None and self.out.suffix in (".yaml", ".yml")
        return self.out if named else None

    def check_place(self, out: Path) -> None:
        """Raise UsageError if no file could be written there, or in there."""
        if self.file is None:
            super().check_place(out)
        else:
            check_writable("--out", out)


@with_groups
def map_layers(
    network: NetworkName,
    *,
    arch: ArchName = "edge-64k",
    format: FormatName = "bfp8",
    shape: ShapeOption = None,
    value: ValueOption = None,
    layer: LayerName = None,
    objective: ObjectiveName = "dram",
    model: Annotated[
        Literal["exact", "full"],
        typer.Option(help="Price mappings by payload (exact) or by whole bursts (full)."),
    ] = "exact",
    order: Annotated[
        str | None,
        typer.Option(
            help="Constraint: loop order, outer to inner; a dimension that it lacks is not cut."
        ),
    ] = None,
    tile: Annotated[
        str | None, typer.Option(help="Constraint: tile sizes, e.g. K=16,P=1; others are free.")
    ] = None,
    max_tile: Annotated[
        str | None, typer.Option(help="Constraint: largest tile sizes, e.g. K=32,C=64.")
    ] = None,
    rescore: Annotated[
        int | None,
        typer.Option(min=1, help="Simulate this many of the model's best, take the least."),
    ] = None,
    solver: Annotated[
        list[Solver] | None,
        typer.Option(
            help="Solve the tiling so, and report bounds, gaps and times; give several to compare."
        ),
    ] = None,
    seconds: Annotated[
        float,
        typer.Option(min=0.001, help="Seconds that each loop order may take, with --solver."),
    ] = 20.0,
    curve: Annotated[
        bool, typer.Option("--curve", help="Least DRAM traffic at every SRAM capacity instead.")
    ] = False,
    front: Annotated[
        bool,
        typer.Option(
            "--front",
            help="Instead all mappings of which none has fewer DRAM bits and fewer cycles.",
        ),
    ] = False,
    output: MappingOutput,
) -> None:
    """Find the best mapping of every layer: proven least by the exact model.

    With --order, --tile and --max-tile it is the least of those that keep to them. With --rescore
    the simulator has the last word, and the table says what trusting the model would have cost.
    With --solver, the same problem by enumeration, as an integer program for SCIP, and as the paper
    relaxes it. With --curve, and --out, the staircase as CSV and PNG. With --front, what fewer
    cycles cost in DRAM bits.
    """
    output.check()
    plain = rescore is None and objective == "dram" and model == "exact"
    plain = plain and order is None and tile is None and max_tile is None
    if curve and (solver or not plain):
        raise UsageError(
            "--curve is of DRAM payload over all tilings; leave out --rescore, --objective, "
            "--model, --order, --tile, --max-tile and --solver"
        )
    if solver and not plain:
        raise UsageError(
            "--solver minimises DRAM payload over all tilings; leave out --rescore, --objective, "
            "--model, --order, --tile and --max-tile"
        )
    if front and (curve or solver or not plain):
        raise UsageError(
            "--front is of DRAM bits and cycles over all tilings; leave out --rescore, "
            "--objective, --model, --order, --tile, --max-tile, --solver and --curve"
        )
    if output.file is not None and (curve or solver or front):
        raise UsageError(
            f"--out {output.file} is of one mapping a layer, which --curve, --solver and --front "
            "are not; allowed: a folder"
        )
    spec, net, formats = load(arch, network, format, shape, value)
    net = select(net, layer)
    if curve:
        from bfpsim.reports.capacity import curve_report
        from bfpsim.search.curve import traffic_curves

        output.emit(curve_report(traffic_curves(net, spec, formats)))
        return
    from bfpsim.reports.mapping import (
        front_report,
        mapping_report,
        solver_report,
        write_mappings,
    )
    from bfpsim.search.mappings import map_fronts, map_network

    if solver:
        from bfpsim.search.solvers import compare_solvers

        methods = cast("list[Method]", [method.value for method in solver])
        with progress(f"solving {net.name}", len(net.unique_layers) * len(solver)) as step:
            frame = compare_solvers(net, spec, formats, methods, seconds, step)
        output.emit(solver_report(frame))
        return
    if front:
        with progress(f"mapping {net.name} on {spec.name}", len(net.unique_layers)) as step:
            frame = map_fronts(net, spec, formats, step)
        output.emit(front_report(frame))
        return
    from bfpsim.mapping.constraints import Constraints

    constraints = Constraints(order, tile_sizes("--tile", tile), tile_sizes("--max-tile", max_tile))
    with progress(f"mapping {net.name} on {spec.name}", len(net.unique_layers)) as step:
        frame = map_network(net, spec, formats, objective, model, rescore, step, constraints)
    if output.file is None:
        output.emit(mapping_report(frame))
    else:
        write_mappings(frame, output.file)
        say(f"wrote {output.file}")
