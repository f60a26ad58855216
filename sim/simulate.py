"""Simulate a layer or a network."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from bfpsim.mapping.fit import check
from bfpsim.mapping.inner import with_insides
from bfpsim.mapping.mapper import find_mapping
from bfpsim.mapping.models import stored
from bfpsim.mapping.nest import Mapping as Tiling
from bfpsim.quant.formats import BFP, Format, FormatError, LayerFormats, Rounding
from bfpsim.sim.accelerator import Accelerator, Tally
from bfpsim.sim.result import LayerResult, NetworkResult, repeated

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    from bfpsim.arch import Arch
    from bfpsim.mapping.objective import Objective
    from bfpsim.quant.formats.blocks import Shape
    from bfpsim.quant.formats.quantize import Quantized
    from bfpsim.sim.functional import Data
    from bfpsim.workloads import ConvLayer, Network

    Operand = ArrayLike | Quantized


def simulate(
    layer: ConvLayer,
    arch: Arch,
    mapping: Tiling,
    formats: LayerFormats,
    data: tuple[Operand, Operand] | None = None,
    *,
    output_top: int | None = None,
    network: str = "",
) -> LayerResult:
    """Run one layer on the event-driven accelerator.

    mapping: on a machine with levels inside SRAM, one that says nothing of them (no `inner`) gets
        the insides of least movement energy
    data: (inputs (N, H, W, channels), weights (filters, C, R, S)) for a functional run, floats or
        already `Quantized` in the formats of I and W. Without data the same transfers carry sizes
        only, and count the same.
    output_top: E_top of O; None calibrates it from the layer's exact sums
    network: the name that the traffic table shows

    Raises MappingError for a mapping that is not legal, FormatError for data that does not suit.
    """
    mapping = with_insides(layer, arch, mapping, formats)
    loaded = None
    if data is not None:
        loaded = _load(layer, arch, mapping, formats, data, output_top)
    tally = Accelerator(layer, arch, mapping, formats, loaded).run()
    return _result(network, layer, arch, mapping, formats, tally, loaded)


def simulate_network(
    network: Network,
    arch: Arch,
    formats: LayerFormats | Mapping[str, LayerFormats],
    mappings: Mapping[str, Tiling] | None = None,
    progress: Callable[[str], None] | None = None,
    *,
    objective: Objective = "dram",
) -> NetworkResult:
    """Run every layer of a network, sizes only.

    Layers that are equal but for their names (with equal formats and mappings) run once.
    formats: for all layers, or by layer name
    mappings: by layer name; layers without one get the mapper's
    progress: called with each layer's name when it is done
    objective: what the mapper makes least, bursts included: "dram" bits, or another as in
        `find_mapping`

    Raises MappingError, naming the layer, if a layer has no legal mapping.
    """
    known: dict[object, LayerResult] = {}
    found: dict[object, Tiling] = {}
    results = []
    repeats = network.repeats
    for layer in network.layers:
        layer_formats = formats if isinstance(formats, LayerFormats) else formats[layer.name]
        key = (replace(layer, name="layer"), layer_formats)
        if mappings is not None and layer.name in mappings:
            mapping = mappings[layer.name]
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
    data: Data | None,
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
        None if data is None else data.output(),
        None if data is None else data.accumulator_width,
    )


def _load(
    layer: ConvLayer,
    arch: Arch,
    mapping: Tiling,
    formats: LayerFormats,
    data: tuple[Operand, Operand],
    top: int | None,
) -> Data:
    """Quantise the operands, put them in DRAM, calibrate the output."""
    import numpy as np

    from bfpsim.quant.formats.quantize import quantize_activation, quantize_weight
    from bfpsim.sim.functional import Data, output_top

    if isinstance(formats.O, BFP) and formats.O.rounding is Rounding.STOCHASTIC:
        raise FormatError(
            f"{layer.name}: O format {formats.O} rounds stochastically; allowed: a deterministic "
            "rounding, so that every mapping gives the same output"
        )
    inputs = _operand(
        data[0], formats.I, layer.input_shape, f"{layer.name} input", quantize_activation
    )
    weights = _operand(
        data[1], formats.W, layer.weight_shape, f"{layer.name} weight", quantize_weight
    )
    if top is None:
        top = output_top(layer, inputs, weights)
    kept = stored(layer, arch)
    if kept.input_shape != layer.input_shape:  # padding: fetch stores the zeros around I
        before, after, left, right = layer.paddings
        around = ((0, 0), (before, after), (left, right), (0, 0))
        codes = inputs.codes
        if codes.size:
            codes = np.pad(codes, around, constant_values=(1 << formats.I.exponent_bits) - 1)
        inputs = replace(inputs, fields=np.pad(inputs.fields, around), codes=codes)
    nest = check(kept, arch, mapping, formats)
    return Data(nest, formats, arch, inputs, weights, top)


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
