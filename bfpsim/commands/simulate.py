"""The `simulate` command: a network, or one layer, on the event-driven accelerator."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bfpsim.commands.arguments import (
    ArchName,
    FormatName,
    NetworkName,
    ShapeOption,
    UsageError,
    ValueOption,
    check_writable,
    load,
    shapes,
    with_groups,
)
from bfpsim.commands.emit import Output, complain, terminal_width
from bfpsim.commands.mappings import MappingOptions
from bfpsim.commands.progress import progress

if TYPE_CHECKING:
    from bfpsim.arch import Arch
    from bfpsim.mapping.nest import Mapping
    from bfpsim.mapping.objective import Objective
    from bfpsim.quant.formats import LayerFormats
    from bfpsim.search.experiments.inference import ImageRun
    from bfpsim.sim.program import ProgramResult
    from bfpsim.sim.result import NetworkResult
    from bfpsim.sim.simulate import Layers
    from bfpsim.workloads import Network, Shapes


STORED = "stored"
"""The formats that an ONNX file stores its tensors in; of other networks bfp8."""


@with_groups
def simulate(
    network: NetworkName,
    *,
    arch: ArchName = "edge-64k",
    format: FormatName = STORED,
    shape: ShapeOption = None,
    value: ValueOption = None,
    choice: MappingOptions,
    layers: Annotated[
        str | None,
        typer.Option(
            help="'program': all operations on one clock, and what fits stays on chip; 'alone': "
            "each layer by itself, and what stands between them free. Of one --layer and of "
            "--images: alone.",
            metavar="program|alone",
            show_default="program",
        ),
    ] = None,
    images: Annotated[
        str | None,
        typer.Option(
            help="Run real data: 'shipped', an IDX file of images (.gz too), or, through an .onnx "
            "file, an .npz file of arrays named as its inputs.",
            metavar="FILE",
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
    output: Output,
) -> None:
    """Run a network, or one layer, on the event-driven accelerator.

    A network runs as one program: which activations stay on chip, and every layer's mapping in what
    room is left, are chosen for the fewest DRAM bits, unless mappings are given. Layers alone run
    under the mappings that are the least by --objective. Without a format an ONNX file of quantised
    tensors runs in those that it stores, anything else in bfp8. With --images the packed data
    itself moves, and predictions are compared with float inference.
    """
    output.check()
    choice.check()
    _check_trace(trace)
    spec, net, uniform = load(arch, network, "bfp8" if format == STORED else format, shape, value)
    formats: LayerFormats | dict[str, LayerFormats] = uniform
    if format == STORED:
        from bfpsim.mapping.sources import stored_formats

        formats = stored_formats(network, net, shapes(shape, value)) or uniform
        if formats is not uniform:
            complain(f"{network} runs in the formats that it stores; --format gives others")
    if images is not None and (choice.layer or choice.mappings):
        raise UsageError(
            "--images runs the whole network, all images at once, under mappings of its own; leave "
            "out --layer and --mappings"
        )
    if images is None and (weights or labels):
        raise UsageError("--weights and --labels need --images")
    from bfpsim.reports.tables import simulation_report
    from bfpsim.sim.simulate import simulate_layers

    how = _layers(layers, choice, images)
    objective = choice.objective or "dram"
    if images is not None:
        files = images, weights, labels
        own = network.lower().endswith(".onnx") and weights is None
        if own and how == "program":
            raise UsageError(
                f"--layers program: {network} runs with its own data layer by layer; leave it out"
            )
        sizes = shapes(shape, value)
        run = (
            _run_file(spec, network, sizes, formats, objective, images, labels, count)
            if own
            else _run_images(spec, net, formats, objective, how, *files, count)
        )
        output.emit(simulation_report(run.result, formats, run, terminal_width()))
        _write_trace(run.result, trace)
        return
    net, mappings = choice.choose(net, spec)
    if how == "program":
        _run_program(spec, net, formats, mappings, trace, output)
        return
    with progress(f"simulating {net.name} on {spec.name}", len(net.layers)) as step:
        result = simulate_layers(net, spec, formats, mappings, step, objective=objective)
    output.emit(simulation_report(result, formats, width=terminal_width()))
    _write_trace(result, trace)


def _layers(given: str | None, choice: MappingOptions, images: str | None) -> Layers:
    """How the layers run; raises UsageError, before the work, for what does not go together."""
    if given is not None and given not in ("program", "alone"):
        raise UsageError(f"--layers {given!r}; allowed: program, alone")
    if given == "program" and choice.layer is not None:
        raise UsageError("--layers program is of a network; leave out --layer")
    if choice.objective not in (None, "dram"):
        if given == "program":
            raise UsageError(f"--objective {choice.objective} is of --layers alone; allowed: dram")
        return "alone"
    if given is None and (choice.layer is not None or images is not None):
        return "alone"
    return "alone" if given == "alone" else "program"


def _run_program(
    spec: Arch,
    net: Network,
    formats: LayerFormats | dict[str, LayerFormats],
    mappings: dict[str, Mapping] | None,
    trace: Path | None,
    output: Output,
) -> None:
    from bfpsim.reports.tables import simulation_report
    from bfpsim.search.experiments.program import compare_program

    with progress(f"simulating {net.name} on {spec.name}", 3 * len(net.layers)) as step:
        compared = compare_program(net, spec, formats, mappings, step)
    result = compared.program
    output.emit(simulation_report(compared, formats, width=terminal_width()))
    _write_trace(result, trace)


def _run_images(
    spec: Arch,
    net: Network,
    formats: LayerFormats | dict[str, LayerFormats],
    objective: Objective,
    how: Layers,
    images: str,
    weights: str | None,
    labels: str | None,
    count: int,
) -> ImageRun:
    from bfpsim.search.experiments.inference import run_images
    from bfpsim.workloads import load_weights, normalise, read_images, shipped_weights

    own = shipped_weights(net.name) if weights is None else load_weights(weights, net)
    chosen = read_images(net, images, labels, count)
    with progress(f"running {count} images on {spec.name}", len(net.layers)) as step:
        pixels = normalise(chosen.pixels)
        known = chosen.labels
        return run_images(
            net, spec, formats, own, pixels, known, step, objective=objective, layers=how
        )


def _run_file(
    spec: Arch,
    network: str,
    sizes: Shapes | None,
    formats: LayerFormats | dict[str, LayerFormats],
    objective: Objective,
    images: str,
    labels: str | None,
    count: int,
) -> ImageRun:
    """Run an ONNX file with its own weights, on images of one channel or on any inputs."""
    from bfpsim.search.experiments.inference import run_images
    from bfpsim.workloads import load_graph
    from bfpsim.workloads.samples import one_channel, read_inputs

    graph = load_graph(network, shapes=sizes)
    if images.endswith(".npz"):
        if labels is not None:
            raise UsageError(f"{images} brings its own labels; leave out {labels}")
        inputs, classes = read_inputs(Path(images), graph.inputs, count)
    else:
        inputs, classes = one_channel(graph.inputs, images, labels, count)
    with progress(f"running {count} samples on {spec.name}", len(graph.network.layers)) as step:
        return run_images(graph, spec, formats, None, inputs, classes, step, objective=objective)


def _check_trace(path: Path | None) -> None:
    """Raise UsageError before the work, if a trace could not be written after it."""
    if path is None:
        return
    from bfpsim.reports.trace import SUFFIXES

    if not path.name.endswith(SUFFIXES):
        raise UsageError(f"--trace {path}; allowed: a name that ends in {' or '.join(SUFFIXES)}")
    check_writable("--trace", path)


def _write_trace(result: NetworkResult | ProgramResult, path: Path | None) -> None:
    if path is None:
        return
    from bfpsim.reports.trace import write_trace

    with warnings.catch_warnings(record=True, action="always") as caught:
        write_trace(result, path)
    for warning in caught:
        complain(str(warning.message))
