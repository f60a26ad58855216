"""The `rtl` command: the PE array as hardware."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bfpsim.commands.arguments import FormatName, check_writable, with_groups
from bfpsim.commands.emit import Output, complain, say
from bfpsim.commands.progress import progress


@with_groups
def rtl(
    arch: Annotated[
        str, typer.Argument(metavar="ARCH", help="A shipped architecture's name, or a YAML file.")
    ],
    *,
    format: FormatName = "bfp8",
    stages: Annotated[
        int, typer.Option(min=0, max=2, help="Pipeline registers in each PE, a cycle each.")
    ] = 0,
    entries: Annotated[
        int | None,
        typer.Option(
            min=1, help="Sums per bank of accumulators; else what their level has room for, or 256."
        ),
    ] = None,
    verilog: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write Verilog into this file.")
    ] = None,
    trials: Annotated[
        int, typer.Option(min=0, help="Random layers to run in RTL and in the simulator.")
    ] = 0,
    output: Output,
) -> None:
    """Generate the PE array in RTL: what it is made of, its Verilog, and that it does the same.

    With --trials, random layers run on the array in Amaranth's simulator and in bfpsim's; exit code
    1 if a sum, a result or a cycle differs from what it should be.
    """
    output.check()
    if verilog is not None:
        check_writable("--verilog", verilog)
    from bfpsim.arch import load_arch
    from bfpsim.quant.formats import layer_formats
    from bfpsim.reports.rtl import rtl_report
    from bfpsim.sim.rtl.design import design_of

    spec, formats = load_arch(arch), layer_formats(format)
    design = design_of(spec, formats, stages=stages, entries=entries)
    if verilog is not None:
        from bfpsim.sim.rtl.verilog import to_verilog
        from bfpsim.workloads.files.atomic import write_atomic

        write_atomic(verilog, to_verilog(design, spec.name))
    done = []
    if trials:
        from bfpsim.sim.rtl.trial import trials as run

        with progress(f"running random layers on {spec.name}", trials) as step:
            for trial in run(spec, formats, trials, stages=stages, entries=entries):
                done.append(trial)
                step(f"{len(done)}")
    output.emit(rtl_report(spec.name, design, done))
    if verilog is not None:
        say(f"wrote {verilog}")
    wrong = sum(not trial.agrees for trial in done)
    if wrong:
        complain(f"RTL and simulator differ in {wrong} of {len(done)} layers")
        raise typer.Exit(1)
