"""A trained network run image by image through the simulated accelerator."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from bfpsim.arch import ArchSource, load_arch
from bfpsim.mapping.mapper import find_mapping
from bfpsim.mapping.nest import Mapping as Tiling
from bfpsim.mapping.objective import Objective
from bfpsim.mapping.sources import (
    FormatsSource,
    MappingsSource,
    formats_by_layer,
    mappings_by_layer,
)
from bfpsim.objects import brief
from bfpsim.quant.formats import LayerFormats
from bfpsim.quant.formats.quantize import quantize_activation, quantize_weight, top_exponent
from bfpsim.sim.host import Values, apply, by_head, by_sample, check_runnable, infer
from bfpsim.sim.result import LayerResult, NetworkResult, repeated
from bfpsim.sim.simulate import simulate
from bfpsim.workloads import LayerWeights, NetworkSource, Node, load_workload


@dataclass(frozen=True, slots=True)
class Tops:
    """E_top of a layer's input and output, calibrated once.

    W: of the second operand of a product of activations; None for stored weights, which are their
        own calibration
    """

    I: int  # noqa: E741 - the tensor's name in the field
    O: int  # noqa: E741
    W: int | None = None


@brief
@dataclass(frozen=True, eq=False)
class Inference:
    """Images through the simulated network.

    outputs: the last node's values, (N, 1, 1, classes) for a classifier
    result: counts and time of the layers, for the whole batch
    """

    outputs: Values
    result: NetworkResult

    @property
    def predictions(self) -> NDArray[np.int64]:
        """The class of each image."""
        flat = self.outputs.reshape(self.outputs.shape[0], -1)
        classes: NDArray[np.int64] = flat.argmax(axis=1).astype(np.int64)
        return classes


def float_predictions(
    network: NetworkSource, weights: Mapping[str, LayerWeights], images: NDArray[np.floating]
) -> NDArray[np.int64]:
    """The class of each image by float64 inference with the unquantised weights."""
    network = load_workload(network)
    outputs = infer(network.batched(len(images)), weights, images)[network.nodes[-1].name]
    classes: NDArray[np.int64] = outputs.reshape(len(images), -1).argmax(axis=1).astype(np.int64)
    return classes


def calibrate(
    network: NetworkSource, weights: Mapping[str, LayerWeights], images: NDArray[np.floating]
) -> dict[str, Tops]:
    """E_top of every layer's I and O, from float inference of calibration images."""
    network = load_workload(network)
    outputs = infer(network.batched(len(images)), weights, images)
    tops = {}
    for node in network.nodes:
        if node.layer is not None:
            first, *second = (top_exponent(outputs[x], f"{node.name} input") for x in node.inputs)
            sums = top_exponent(outputs[node.name + ":sum"], f"{node.name} output")
            tops[node.name] = Tops(first, sums, *second)
    return tops


def run_inference(
    network: NetworkSource,
    arch: ArchSource,
    formats: FormatsSource,
    weights: Mapping[str, LayerWeights],
    images: NDArray[np.floating],
    tops: dict[str, Tops] | None = None,
    mappings: MappingsSource | None = None,
    progress: Callable[[str], None] | None = None,
    *,
    objective: Objective = "dram",
) -> Inference:
    """Run images (N, H, W, channels) through the network, its layers on the accelerator.

    Between layers the host adds biases, activates, pools, normalises and adds residuals in float64,
    and quantises to the next layer's I format; the second operand of a product of activations to
    its W format.
    tops: from `calibrate`; None calibrates on these images
    mappings: by layer name, for the batch; missing ones are the mapper's for the `objective`

    Raises MappingError, FormatError as `simulate`, and WorkloadError as `check_runnable`.
    """
    network = load_workload(network)
    arch = load_arch(arch)
    formats = formats_by_layer(formats, network)
    given = mappings_by_layer(mappings, network, arch)
    check_runnable(network, weights)
    batch = network.batched(len(images))
    tops = calibrate(network, weights, images) if tops is None else tops
    found: dict[object, Tiling] = {}
    values: dict[str, Values] = {}
    results: list[LayerResult] = []
    for node in batch.nodes:
        sources, layer = [values[name] for name in node.inputs], node.layer
        if node.op == "input":
            values[node.name] = np.asarray(images, np.float64)
            continue
        if layer is None:
            values[node.name] = apply(batch, node, sources, weights.get(node.name))
            continue
        chosen = formats if isinstance(formats, LayerFormats) else formats[layer.name]
        mapping = given.get(layer.name)
        if mapping is None:
            key = replace(layer, name="layer"), chosen
            if key not in found:
                found[key] = find_mapping(layer, arch, chosen, objective=objective, model="full")
            mapping = found[key]
        top = tops[layer.name]
        runs = []
        for left, right in _operands(node, sources, weights):
            inputs = quantize_activation(left, chosen.I, top.I, f"{layer.name} input")
            filters = quantize_weight(right, chosen.W, top.W, f"{layer.name} weight")
            data = inputs, filters
            runs.append(
                simulate(layer, arch, mapping, chosen, data, output_top=top.O, network=network.name)
            )
        outputs = np.concatenate([_output(run) for run in runs])
        results.append(_together(runs))
        if node.op == "matmul":
            values[node.name] = by_sample(outputs, len(images))
        else:
            values[node.name] = outputs + weights[layer.name].bias
        if progress is not None:
            progress(layer.name)
    done = NetworkResult(network.name, arch, tuple(results), sum(batch.repeats.values()))
    return Inference(values[batch.nodes[-1].name], done)


def _operands(
    node: Node, sources: list[Values], weights: Mapping[str, LayerWeights]
) -> list[tuple[Values, NDArray[np.floating]]]:
    """What each of a layer's runs multiplies; only a product of activations has several."""
    assert node.layer is not None
    if node.op != "matmul":
        return [(sources[0], weights[node.name].weight)]
    lefts, rights = by_head(node.layer, sources[0], sources[1])
    return [(left[np.newaxis], right) for left, right in zip(lefts, rights, strict=True)]


def _output(run: LayerResult) -> Values:
    assert run.output is not None
    return run.output


def _together(runs: list[LayerResult]) -> LayerResult:
    """A layer's runs as one result: they count the same, and no one output is the layer's."""
    if len(runs) == 1:
        return runs[0]
    width = max(run.accumulator_width or 0 for run in runs)
    return replace(repeated(runs[0], len(runs)), quantized=None, accumulator_width=width)
