"""Simulate a layer or a network."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal, get_args, overload

from bfpsim.arch import load_arch
from bfpsim.mapping.fit import check
from bfpsim.mapping.inner import with_insides
from bfpsim.mapping.mapper import find_mapping
from bfpsim.mapping.models import stored
from bfpsim.mapping.nest import Mapping as Tiling
from bfpsim.mapping.nest import MappingError
from bfpsim.mapping.sources import formats_by_layer, mappings_by_layer
from bfpsim.quant.formats import BFP, Format, FormatError, LayerFormats, Rounding, layer_formats
from bfpsim.sim.accelerator import Accelerator, Tally
from bfpsim.sim.result import LayerResult, NetworkResult, repeated
from bfpsim.workloads import ConvLayer, WorkloadError, load_workload

Layers = Literal["program", "alone"]
"""How a network's layers run: as one program, or each by itself."""
LAYERS: tuple[Layers, ...] = get_args(Layers)

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import ArrayLike, NDArray

    from bfpsim.arch import Arch, ArchSource
    from bfpsim.mapping.objective import Objective
    from bfpsim.mapping.sources import FormatsSource, MappingsSource
    from bfpsim.quant.formats import FormatSource
    from bfpsim.quant.formats.blocks import Shape
    from bfpsim.quant.formats.quantize import Quantized
    from bfpsim.sim.functional import Data
    from bfpsim.sim.outputs import PackedOutput
    from bfpsim.sim.program import ProgramResult
    from bfpsim.workloads import NetworkSource

    Operand = ArrayLike | Quantized


@overload
def simulate(
    layer: ConvLayer,
    arch: ArchSource,
    mapping: Tiling | None = None,
    formats: FormatSource = "bfp8",
    data: tuple[Operand, Operand] | None = None,
    *,
    output_top: int | None = None,
    network: str = "",
) -> LayerResult: ...
@overload
def simulate(
    layer: NetworkSource,
    arch: ArchSource,
    mapping: MappingsSource | None = None,
    formats: FormatsSource = "bfp8",
    *,
    mappings: MappingsSource | None = None,
    layers: Literal["program"] = "program",
) -> ProgramResult: ...
@overload
def simulate(
    layer: NetworkSource,
    arch: ArchSource,
    mapping: MappingsSource | None = None,
    formats: FormatsSource = "bfp8",
    *,
    mappings: MappingsSource | None = None,
    layers: Literal["alone"],
) -> NetworkResult: ...
def simulate(
    layer: ConvLayer | NetworkSource,
    arch: ArchSource,
    mapping: Any = None,
    formats: Any = "bfp8",
    data: tuple[Operand, Operand] | None = None,
    *,
    output_top: int | None = None,
    network: str = "",
    mappings: MappingsSource | None = None,
    layers: Layers = "program",
) -> LayerResult | NetworkResult | ProgramResult:
    """Run one layer on the event-driven accelerator, or a network (`simulate_network`).

    layer: a layer; or a network, its name, file or torch module
    arch: an architecture, a shipped name or a YAML file
    mapping: of the layer; of a network by layer name, or a file of them. None: that of the fewest
        DRAM bits, bursts included. On a machine with levels inside SRAM, one that says nothing of
        them (no `inner`) gets the insides of least movement energy
    formats: of I, W and O, one for all, or by name; of a network also by layer name
    data: (inputs (N, H, W, channels), weights (filters, C, R, S)) for a functional run, floats or
        already `Quantized` in the formats of I and W. Torch's tensors, with gradients or without,
        are as torch lays them out, inputs (N, channels, H, W), where their extents say no other.
        Without data the same transfers carry sizes only, and count the same
    output_top: E_top of O; None calibrates it from the layer's exact sums
    network: the name that the traffic table shows
    mappings: of a network, as ``mapping``
    layers: of a network: "program", or each layer "alone"

    Raises MappingError for a mapping that is not legal, FormatError for data that does not suit,
    and as `load_arch`, `load_workload` and `layer_formats`.
    """
    if not isinstance(layer, ConvLayer):
        others = data, output_top, network
        return _simulate_network(layer, arch, formats, mapping, mappings, layers, *others)
    if mappings is not None:
        raise MappingError(
            f"mappings= with the layer {layer.name!r}; allowed: mapping=, or with a network"
        )
    arch, formats = load_arch(arch), layer_formats(formats)
    if mapping is None:
        mapping = find_mapping(layer, arch, formats, model="full")
    elif not isinstance(mapping, Tiling):
        raise MappingError(
            f"mapping {mapping!r:.80} of the layer {layer.name!r}; allowed: a Mapping, or None"
        )
    mapping = with_insides(layer, arch, mapping, formats)
    if data is None:
        tally = Accelerator(layer, arch, mapping, formats).run()
        return _result(network, layer, arch, mapping, formats, tally)
    moving, outputs = _load(layer, arch, mapping, formats, data, output_top)
    tally = Accelerator(layer, arch, mapping, formats, moving).run()
    result = _result(network, layer, arch, mapping, formats, tally)
    return replace(result, quantized=outputs.read(), accumulator_width=moving.accumulator_width)


def _simulate_network(
    source: NetworkSource,
    arch: ArchSource,
    formats: FormatsSource,
    mapping: MappingsSource | None,
    mappings: MappingsSource | None,
    layers: Layers,
    *others: object,
) -> NetworkResult | ProgramResult:
    """Check what `simulate` was given for a network, and run it."""
    own = load_workload(source)
    data, output_top, name = others
    if data is not None or output_top is not None or name:
        raise WorkloadError(
            f"network {own.name}: data=, output_top= and network= are of a single layer; allowed: "
            "run_inference(network, arch, formats, weights, images)"
        )
    if mapping is not None and mappings is not None:
        raise MappingError(f"network {own.name}: mapping= and mappings=; allowed: one of the two")
    given = mapping if mappings is None else mappings
    if layers == "alone":
        return simulate_network(own, arch, formats, given, layers="alone")
    return simulate_network(own, arch, formats, given, layers=layers)


@overload
def simulate_network(
    network: NetworkSource,
    arch: ArchSource,
    formats: FormatsSource = "bfp8",
    mappings: MappingsSource | None = None,
    progress: Callable[[str], None] | None = None,
    *,
    objective: Objective = "dram",
    layers: Literal["program"] = "program",
) -> ProgramResult: ...
@overload
def simulate_network(
    network: NetworkSource,
    arch: ArchSource,
    formats: FormatsSource = "bfp8",
    mappings: MappingsSource | None = None,
    progress: Callable[[str], None] | None = None,
    *,
    objective: Objective = "dram",
    layers: Literal["alone"],
) -> NetworkResult: ...
def simulate_network(
    network: NetworkSource,
    arch: ArchSource,
    formats: FormatsSource = "bfp8",
    mappings: MappingsSource | None = None,
    progress: Callable[[str], None] | None = None,
    *,
    objective: Objective = "dram",
    layers: Layers = "program",
) -> ProgramResult | NetworkResult:
    """Run a network, sizes only: as one program, or layer by layer.

    network, arch: themselves, names or files
    formats: for all layers, or by layer name
    mappings: by layer name, or a file of them; layers without one get the mapper's
    progress: called with the name of each layer or operation
    objective: what is made least, bursts included: "dram" bits; of layers alone also another as in
        `find_mapping`
    layers: "program": all operations on one clock, activations stay on chip where that moves least
        DRAM bits. "alone": each layer by itself on an empty machine, what stands between them free

    Raises MappingError, naming the layer, if one has no legal mapping.
    """
    if layers not in LAYERS:
        raise WorkloadError(f"layers={layers!r:.40}; allowed: {', '.join(LAYERS)}")
    if layers == "alone":
        return simulate_layers(network, arch, formats, mappings, progress, objective=objective)
    if objective != "dram":
        raise MappingError(
            f"objective {objective!r} of a program; allowed: dram, or layers='alone'"
        )
    from bfpsim.sim.program import plan_program

    network, arch = load_workload(network), load_arch(arch)
    network.check_layers()
    planned = plan_program(
        network,
        arch,
        formats_by_layer(formats, network),
        mappings_by_layer(mappings, network, arch),
    )
    return planned.run(progress=progress)


def simulate_layers(
    network: NetworkSource,
    arch: ArchSource,
    formats: FormatsSource,
    mappings: MappingsSource | None = None,
    progress: Callable[[str], None] | None = None,
    *,
    objective: Objective = "dram",
) -> NetworkResult:
    """Run every layer of a network by itself, sizes only.

    Layers that are equal but for their names (with equal formats and mappings) run once.
    network, arch: themselves, names or files
    formats: for all layers, or by layer name
    mappings: by layer name, or a file of them; layers without one get the mapper's
    progress: called with each layer's name when it is done
    objective: what the mapper makes least, bursts included: "dram" bits, or another as in
        `find_mapping`

    Raises MappingError, naming the layer, if a layer has no legal mapping.
    """
    network, arch = load_workload(network), load_arch(arch)
    formats, given = (
        formats_by_layer(formats, network), mappings_by_layer(mappings, network, arch)
    )  # fmt: skip
    known: dict[object, LayerResult] = {}
    found: dict[object, Tiling] = {}
    results = []
    repeats = network.repeats
    for layer in network.layers:
        layer_formats = formats if isinstance(formats, LayerFormats) else formats[layer.name]
        key = (replace(layer, name="layer"), layer_formats)
        if layer.name in given:
            mapping = given[layer.name]
        else:
            if key not in found:
                found[key] = find_mapping(
                    layer, arch, layer_formats, objective=objective, model="full"
                )
            mapping = found[key]
        run = (*key, mapping)
        if run not in known:
            known[run] = simulate(layer, arch, mapping, layer_formats, network=network.name)
        results.append(replace(repeated(known[run], repeats[layer.name]), layer=layer))
        if progress is not None:
            progress(layer.name)
    return NetworkResult(network.name, arch, tuple(results), len(known))


def _result(
    network: str,
    layer: ConvLayer,
    arch: Arch,
    mapping: Tiling,
    formats: LayerFormats,
    tally: Tally,
) -> LayerResult:
    return LayerResult(
        network,
        layer,
        arch,
        mapping,
        formats,
        tally.counts,
        tally.cycles,
        tally.steady_cycles,
        tally.fill_cycles,
        tally.port_cycles,
        tally.stalls,
        tally.dram_busy,
        tally.peaks,
        tally.steps,
        tally.transfers,
        tally.timeline,
        activates=tally.activates,
    )


def _load(
    layer: ConvLayer,
    arch: Arch,
    mapping: Tiling,
    formats: LayerFormats,
    data: tuple[Operand, Operand],
    top: int | None,
) -> tuple[Data, PackedOutput]:
    """Quantise the operands, put them in DRAM, calibrate the output; what moves, and O in DRAM."""
    import numpy as np

    from bfpsim.quant.formats import ActivationLayout, WeightLayout
    from bfpsim.quant.formats.quantize import quantize_activation, quantize_weight
    from bfpsim.sim.copies import PackedInput, PackedWeight
    from bfpsim.sim.functional import Data, output_top
    from bfpsim.sim.outputs import Forms, PackedOutput

    if isinstance(formats.O, BFP) and formats.O.rounding is Rounding.STOCHASTIC:
        raise FormatError(
            f"{layer.name}: O format {formats.O} rounds stochastically; allowed: a deterministic "
            "rounding, so that every mapping gives the same output"
        )
    inputs = _operand(
        _inputs(data[0], layer.input_shape),
        formats.I,
        layer.input_shape,
        f"{layer.name} input",
        quantize_activation,
    )
    weights = _operand(
        _weights(data[1], layer.weight_shape),
        formats.W,
        layer.weight_shape,
        f"{layer.name} weight",
        quantize_weight,
    )
    if top is None:
        top = output_top(layer, inputs, weights)
    kept = stored(layer, arch)
    if kept.input_shape != layer.input_shape:  # padding: fetch stores the zeros around I
        before, after, left, right = layer.paddings
        around = ((0, 0), (before, after), (left, right), (0, 0))
        codes = inputs.codes
        if codes.size:
            codes = np.pad(codes, around, constant_values=formats.I.zero_code)
        inputs = replace(inputs, fields=np.pad(inputs.fields, around), codes=codes)
    nest = check(kept, arch, mapping, formats)
    forms = Forms(formats.O, top, arch.pe_array.accumulator_bits)
    outputs = PackedOutput(ActivationLayout(kept.output_shape, formats.O), forms)
    moving = Data(
        nest,
        formats,
        arch,
        PackedInput(inputs, ActivationLayout(kept.input_shape, formats.I)),
        PackedWeight(weights, WeightLayout(kept.weight_shape, formats.W)),
        outputs,
        forms,
    )
    return moving, outputs


def _torch_values(given: object) -> NDArray[np.float64] | None:
    """The values of a torch tensor, without its gradient; None of anything else."""
    torch = sys.modules.get("torch")
    if torch is None or not isinstance(given, torch.Tensor):
        return None
    values: NDArray[np.float64] = given.detach().cpu().double().numpy()
    return values


def _inputs(given: Operand, shape: Shape) -> Operand:
    """Inputs as they are; of torch's tensors (N, channels, H, W), (N, channels, W), (N, H,
    channels) and (N, channels), where they are that, as (N, H, W, channels).
    """
    values = _torch_values(given)
    if values is None:
        return given
    n, h, w, channels = shape
    if values.shape == (n, channels, h, w):
        return values.transpose(0, 2, 3, 1)
    if h == 1 and values.shape == (n, channels, w):
        return values.transpose(0, 2, 1).reshape(shape)
    return values.reshape(shape) if values.shape == _squeezed(shape, 1, 2) else values


def _weights(given: Operand, shape: Shape) -> Operand:
    """Weights as they are; of torch's tensors (filters, C) and (filters, C, S), too."""
    values = _torch_values(given)
    if values is None:
        return given
    return values.reshape(shape) if values.shape == _squeezed(shape, 2, 3) else values


def _squeezed(shape: Shape, *axes: int) -> Shape:
    """A shape without those of the axes along which it is 1."""
    return tuple(extent for at, extent in enumerate(shape) if at not in axes or extent != 1)


def _operand(
    given: Operand,
    fmt: Format,
    shape: Shape,
    name: str,
    quantizer: Callable[[ArrayLike, Format, int | None, str], Quantized],
) -> Quantized:
    import numpy as np

    from bfpsim.quant.formats.quantize import Quantized

    if isinstance(given, Quantized):
        if given.fmt != fmt:
            raise FormatError(f"{name} is quantised as {given.fmt}; allowed: {fmt}")
        q = given
    else:
        array = np.asarray(given, np.float64)
        if array.shape != shape:
            raise FormatError(f"{name} has shape {array.shape}; allowed: {shape}")
        q = quantizer(array, fmt, None, name)
    if q.shape != shape:
        raise FormatError(f"{name} has shape {q.shape}; allowed: {shape}")
    return q
