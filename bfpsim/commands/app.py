"""The command line: arguments in, tables and files out.

Exit codes: 0, 1 (a check failed), 2 (bad input: one line that says what is wrong and what is
allowed). Packages load inside the commands, so that `--help` is quick.
"""

from __future__ import annotations

import json
import sys
import warnings
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast

import typer
from typer.exceptions import TyperException

from bfpsim.commands.arguments import (
    ArchName,
    Csv,
    FormatName,
    Json,
    NetworkName,
    Out,
    ShapeOption,
    UsageError,
    check_writable,
    load,
    one_of,
    select,
)
from bfpsim.commands.emit import (
    curve_report,
    emit,
    mapping_report,
    print_table,
    simulation_report,
    solver_report,
    validation_report,
)
from bfpsim.commands.mantissa import mantissa
from bfpsim.commands.progress import progress_bar
from bfpsim.commands.quantize import quantize
from bfpsim.commands.report import report
from bfpsim.commands.reproduce import reproduce_app
from bfpsim.commands.search import search
from bfpsim.commands.sweep import sweep
from bfpsim.commands.workload import workload_app

if TYPE_CHECKING:
    import pandas as pd

    from bfpsim.arch import Arch
    from bfpsim.quant.formats import LayerFormats
    from bfpsim.search.solvers import Method
    from bfpsim.sim.result import NetworkResult
    from bfpsim.workloads import Network

app = typer.Typer(
    name="bfpsim",
    help="Simulate embedded accelerators that move block-floating-point data.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
arch_app = typer.Typer(help="Architecture files: list, show, check, schema.", no_args_is_help=True)
app.add_typer(arch_app, name="arch")
app.add_typer(workload_app, name="workload")
app.add_typer(reproduce_app, name="reproduce")
app.command()(quantize)
app.command()(mantissa)
app.command()(search)
app.command()(sweep)
app.command()(report)


class _Solver(StrEnum):
    """Methods of `search.solvers`."""

    ENUMERATE = "enumerate"
    SCIP = "scip"
    RELAXED = "relaxed"


def _show_version(wanted: bool) -> None:
    if wanted:
        from bfpsim import __version__

        print(f"bfpsim {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="And stop.")
    ] = False,
) -> None:
    pass


@app.command()
def simulate(
    network: NetworkName,
    arch: ArchName = "edge-64k",
    format: FormatName = "bfp8",
    shape: ShapeOption = None,
    layer: Annotated[
        str | None, typer.Option(help="Only this layer; needed for --order and --tile.")
    ] = None,
    order: Annotated[
        str | None, typer.Option(help="Loop order between tiles, outer to inner, e.g. KPQC.")
    ] = None,
    tile: Annotated[
        str | None, typer.Option(help="Tile sizes, e.g. K=16,C=64; others are whole.")
    ] = None,
    images: Annotated[
        str | None,
        typer.Option(
            help="Run real data: 'shipped', or an IDX file of images (.gz too).", metavar="FILE"
        ),
    ] = None,
    weights: Annotated[
        str | None,
        typer.Option(help="Weights for --images: a safetensors file.", metavar="FILE"),
    ] = None,
    labels: Annotated[
        str | None, typer.Option(help="Labels for --images: an IDX file.", metavar="FILE")
    ] = None,
    count: Annotated[int, typer.Option(min=1, help="How many images to run.")] = 10,
    trace: Annotated[
        Path | None,
        typer.Option(
            help="Write the timeline for Perfetto too: a .json or .json.gz file.", metavar="FILE"
        ),
    ] = None,
    as_json: Json = False,
    as_csv: Csv = False,
    out: Out = None,
) -> None:
    """Run a network, or one layer, on the event-driven accelerator.

    Layers without a given mapping run under the one that moves the fewest DRAM bits. With
    --images the packed data itself moves, and predictions are compared with float inference.
    """
    one_of(as_json, as_csv, out)
    _check_trace(trace)
    spec, net, formats = load(arch, network, format, shape)
    if images is not None:
        if layer or order or tile:
            raise UsageError("--images runs the whole network; leave out --layer, --order, --tile")
        frames, result, summary = _run_images(spec, net, formats, images, weights, labels, count)
        report = simulation_report(result, formats, frames, summary)
        emit(report, as_json, as_csv, out)
        _write_trace(result, trace)
        return
    if weights or labels:
        raise UsageError("--weights and --labels need --images")
    from bfpsim.sim.simulate import simulate_network

    net, mappings = select(net, layer, order, tile)
    with progress_bar(f"simulating {net.name} on {spec.name}", len(net.layers)) as done:
        result = simulate_network(net, spec, formats, mappings, done)
    emit(simulation_report(result, formats), as_json, as_csv, out)
    _write_trace(result, trace)


@app.command()
def validate(
    network: NetworkName,
    arch: ArchName = "edge-64k",
    format: FormatName = "bfp8",
    shape: ShapeOption = None,
    layer: Annotated[str | None, typer.Option(help="Only this layer.")] = None,
    order: Annotated[str | None, typer.Option(help="Loop order, with --layer.")] = None,
    tile: Annotated[str | None, typer.Option(help="Tile sizes, with --layer.")] = None,
    as_json: Json = False,
    as_csv: Csv = False,
    out: Out = None,
) -> None:
    """Check the paper's and the exact data-movement model against the simulation.

    Per layer and in total: bits by each model, and what each effect that the paper's model leaves
    out explains. Exit code 1 if the exact model and the simulation differ in a single bit.
    """
    one_of(as_json, as_csv, out)
    spec, net, formats = load(arch, network, format, shape)
    from bfpsim.sim.validate import validate as run

    net, mappings = select(net, layer, order, tile)
    with progress_bar(f"validating {net.name} on {spec.name}", len(net.layers)) as done:
        result = run(net, spec, formats, mappings, done)
    emit(validation_report(result, formats), as_json, as_csv, out)
    if not result.agrees:
        wrong = ", ".join(v.layer for v in result.layers if not v.agrees)
        _complain(f"the exact model and the simulation differ in: {wrong}")
        raise typer.Exit(1)


@app.command("map")
def map_layers(
    network: NetworkName,
    arch: ArchName = "edge-64k",
    format: FormatName = "bfp8",
    shape: ShapeOption = None,
    layer: Annotated[str | None, typer.Option(help="Only this layer.")] = None,
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
        list[_Solver] | None,
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
    as_json: Json = False,
    as_csv: Csv = False,
    out: Out = None,
) -> None:
    """Find the best mapping of every layer: proven least by the exact model.

    With --rescore the simulator has the last word, and the table says what trusting the model
    would have cost. With --solver, the same problem by enumeration, as an integer program for SCIP,
    and as the paper relaxes it. With --curve, and --out, the staircase as CSV and PNG.
    """
    one_of(as_json, as_csv, out)
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
        from bfpsim.search.curve import traffic_curves

        emit(curve_report(traffic_curves(net, spec, formats)), as_json, as_csv, out)
        return
    if solver:
        from bfpsim.search.solvers import compare_solvers

        with progress_bar(f"solving {net.name}", len(net.unique_layers) * len(solver)) as done:
            methods = cast("list[Method]", [method.value for method in solver])
            frame = compare_solvers(net, spec, formats, methods, seconds, done)
        emit(solver_report(frame), as_json, as_csv, out)
        return
    from bfpsim.search.mappings import map_network

    with progress_bar(f"mapping {net.name} on {spec.name}", len(net.unique_layers)) as done:
        frame = map_network(net, spec, formats, objective, model, rescore, done)
    emit(mapping_report(frame), as_json, as_csv, out)


@arch_app.command("list")
def arch_list() -> None:
    """Name the shipped architectures."""
    from bfpsim.arch import load_arch, shipped
    from bfpsim.reports.tables import arch_table

    print_table(arch_table([load_arch(name) for name in shipped()]))


@arch_app.command("show")
def arch_show(name: Annotated[str, typer.Argument(help="A shipped name or a YAML file.")]) -> None:
    """Print an architecture as YAML, defaults filled in."""
    from bfpsim.arch import dump_arch, load_arch

    sys.stdout.write(dump_arch(load_arch(name)))


@arch_app.command("check")
def arch_check(
    files: Annotated[list[str], typer.Argument(help="YAML files or shipped names.")],
) -> None:
    """Say whether files are valid; exit code 2 with one line per file that is not."""
    from bfpsim.arch import ArchError, load_arch

    bad = 0
    for file in files:
        try:
            spec = load_arch(file)
        except ArchError as error:
            bad += 1
            _complain(str(error))
        else:
            print(f"{file}: valid ({spec.name})")
    if bad:
        raise typer.Exit(2)


@arch_app.command("schema")
def arch_schema() -> None:
    """Print the JSON schema of architecture files, for editors."""
    from bfpsim.arch import json_schema

    print(json.dumps(json_schema(), indent=2))


def main() -> None:
    """Run the command line."""
    sys.exit(run(sys.argv[1:]))


def run(arguments: list[str]) -> int:
    """Run one command; its exit code."""
    try:
        code = app(arguments, prog_name="bfpsim", standalone_mode=False)
    except typer.Exit as stop:
        return stop.exit_code
    except (typer.Abort, KeyboardInterrupt):
        _complain("interrupted")
        return 130
    except TyperException as error:
        if message := error.format_message():  # empty after the help of a bare command
            _complain(message)
        return 2
    except UsageError as error:
        _complain(str(error))
        return 2
    except BrokenPipeError:
        return 0
    except OSError as error:
        _complain(f"{error.filename or 'file'}: {error.strerror or error}")
        return 2
    except (MemoryError, OverflowError) as error:
        _complain(f"sizes beyond what can be counted here: {error}; allowed: smaller ones")
        return 2
    except ValueError as error:
        if not isinstance(error, _bad_input()):
            raise
        _complain(str(error))
        return 2
    return code if isinstance(code, int) else 0


def _bad_input() -> tuple[type[ValueError], ...]:
    """The errors that mean the user's input, not our defect."""
    from bfpsim.arch import ArchError
    from bfpsim.mapping.nest import MappingError
    from bfpsim.quant.formats import FormatError
    from bfpsim.reports.store.tradeoff import AccuracyError
    from bfpsim.search.bitwidth.allocation import InfeasibleError
    from bfpsim.search.store import StoreError
    from bfpsim.search.sweep.spec import SweepError
    from bfpsim.workloads import WorkloadError

    return (
        *(ArchError, MappingError, FormatError, WorkloadError),
        *(SweepError, StoreError, InfeasibleError, AccuracyError),
    )


def _complain(message: str) -> None:
    print(f"bfpsim: {' '.join(message.split())}", file=sys.stderr)


def _check_trace(path: Path | None) -> None:
    """Raise UsageError before the work, if a trace could not be written after it."""
    if path is None:
        return
    from bfpsim.reports.trace import SUFFIXES

    if not path.name.endswith(SUFFIXES):
        raise UsageError(f"--trace {path}; allowed: a name that ends in {' or '.join(SUFFIXES)}")
    check_writable("--trace", path)


def _write_trace(result: NetworkResult, path: Path | None) -> None:
    if path is None:
        return
    from bfpsim.reports.trace import write_trace

    with warnings.catch_warnings(record=True, action="always") as caught:
        write_trace(result, path)
    for warning in caught:
        _complain(str(warning.message))


def _run_images(
    spec: Arch,
    net: Network,
    formats: LayerFormats,
    images: str,
    weights: str | None,
    labels: str | None,
    count: int,
) -> tuple[dict[str, pd.DataFrame], NetworkResult, dict[str, Any]]:
    import pandas as pd

    from bfpsim.sim.inference import float_predictions, run_inference
    from bfpsim.workloads import load_weights, normalise, read_images, shipped_weights

    own = shipped_weights(net.name) if weights is None else load_weights(weights, net)
    chosen = read_images(net, images, labels, count)
    batch = normalise(chosen.pixels)
    with progress_bar(f"running {count} images on {spec.name}", len(net.layers)) as done:
        inference = run_inference(net, spec, formats, own, batch, progress=done)
    classes = pd.DataFrame({"image": range(count), "simulated": inference.predictions})
    classes["float"] = float_predictions(net, own, batch)
    summary = {
        "images": count,
        "equal_to_float": int((classes["simulated"] == classes["float"]).sum()),
    }
    if chosen.labels is not None:
        classes["label"] = chosen.labels.astype(int)
        summary["right"] = int((classes["simulated"] == classes["label"]).sum())
        summary["right_in_float"] = int((classes["float"] == classes["label"]).sum())
    return {"predictions": classes}, inference.result, summary


if __name__ == "__main__":
    main()
