"""The `map` command: the best mapping of every layer."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Literal, cast

import typer

from bfpsim.commands.arguments import (
    ArchName,
    FormatName,
    LayerName,
    NetworkName,
    ShapeOption,
    UsageError,
    load,
    select,
    with_groups,
)
from bfpsim.commands.emit import Output
from bfpsim.commands.progress import progress

if TYPE_CHECKING:
    from bfpsim.search.solvers import Method


class Solver(StrEnum):
    """Methods of `search.solvers`."""

    ENUMERATE = "enumerate"
    SCIP = "scip"
    RELAXED = "relaxed"


@with_groups
def map_layers(
    network: NetworkName,
    *,
    arch: ArchName = "ideal-64k",
    format: FormatName = "bfp8",
    shape: ShapeOption = None,
    layer: LayerName = None,
    objective: Annotated[
        Literal["dram", "energy", "latency"], typer.Option(help="What is to be least.")
    ] = "dram",
    model: Annotated[
        Literal["exact", "full"],
        typer.Option(help="Price mappings by payload (exact) or by whole bursts (full)."),
    ] = "exact",
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
        float, typer.Option(min=0.001, help="Time limit of each loop order, with --solver [s].")
    ] = 20.0,
    curve: Annotated[
        bool, typer.Option("--curve", help="Least DRAM traffic at every SRAM capacity instead.")
    ] = False,
    output: Output,
) -> None:
    """Find the best mapping of every layer: proven least by the exact model.

    With --rescore the simulator has the last word, and the table says what trusting the model
    would have cost. With --solver, the same problem by enumeration, as an integer program for SCIP,
    and as the paper relaxes it. With --curve, and --out, the staircase as CSV and PNG.
    """
    output.check()
    plain = rescore is None and objective == "dram" and model == "exact"
    if curve and (solver or not plain):
        raise UsageError(
            "--curve is of DRAM payload over all tilings; leave out --rescore, --objective, "
            "--model and --solver"
        )
    if solver and not plain:
        raise UsageError(
            "--solver minimises DRAM payload; leave out --rescore, --objective and --model"
        )
    spec, net, formats = load(arch, network, format, shape)
    net, _ = select(net, layer, None, None)
    if curve:
        from bfpsim.reports.capacity import curve_report
        from bfpsim.search.curve import traffic_curves

        output.emit(curve_report(traffic_curves(net, spec, formats)))
        return
    from bfpsim.reports.mapping import mapping_report, solver_report

    if solver:
        from bfpsim.search.solvers import compare_solvers

        methods = cast("list[Method]", [method.value for method in solver])
        with progress(f"solving {net.name}", len(net.unique_layers) * len(solver)) as step:
            frame = compare_solvers(net, spec, formats, methods, seconds, step)
        output.emit(solver_report(frame))
        return
    from bfpsim.search.mappings import map_network

    with progress(f"mapping {net.name} on {spec.name}", len(net.unique_layers)) as step:
        frame = map_network(net, spec, formats, objective, model, rescore, step)
    output.emit(mapping_report(frame))
