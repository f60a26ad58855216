"""A trained network run image by image through the simulated accelerator."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from arch import Arch
from mapping.mapper import find_mapping
from mapping.nest import Mapping as Tiling
from quant.formats import LayerFormats
from quant.quantize import quantize_activation, quantize_weight, top_exponent
from sim.host import Values, apply, check_runnable, infer
from sim.result import LayerResult, NetworkResult
from sim.simulate import simulate
from workloads import LayerWeights, Network


@dataclass(frozen=True, slots=True)
class Tops:
    """E_top of a layer's input and output, calibrated once."""

    I: int  # noqa: E741 - the tensor's name in the field
    O: int  # noqa: E741


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
    network: Network, weights: dict[str, LayerWeights], images: NDArray[np.floating]
) -> NDArray[np.int64]:
    """The class of each image by float64 inference with the unquantised weights."""
    outputs = infer(network.batched(len(images)), weights, images)[network.nodes[-1].name]
    classes: NDArray[np.int64] = outputs.reshape(len(images), -1).argmax(axis=1).astype(np.int64)
    return classes


def calibrate(
    network: Network, weights: dict[str, LayerWeights], images: NDArray[np.floating]
) -> dict[str, Tops]:
    """E_top of every layer's I and O, from float inference of calibration images."""
    outputs = infer(network.batched(len(images)), weights, images)
    return {
        node.name: Tops(
            top_exponent(outputs[node.inputs[0]], f"{node.name} input"),
            top_exponent(outputs[node.name + ":sum"], f"{node.name} output"),
        )
        for node in network.nodes
        if node.layer is not None
    }


def run_inference(
    network: Network,
    arch: Arch,
    formats: LayerFormats | Mapping[str, LayerFormats],
    weights: dict[str, LayerWeights],
    images: NDArray[np.floating],
    tops: dict[str, Tops] | None = None,
    mappings: Mapping[str, Tiling] | None = None,
    progress: Callable[[str], None] | None = None,
) -> Inference:
    """Run images (N, H, W, channels) through the network, convolutions on the accelerator.

    Between layers the host adds biases, applies ReLU, pools and adds residuals in float64, and
    quantises to the next layer's I format.
    tops: from `calibrate`; None calibrates on these images
    mappings: by layer name, for the batch; missing ones are found

    Raises MappingError, FormatError as `simulate`, and WorkloadError as `check_runnable`.
    """
    check_runnable(network)
    batch = network.batched(len(images))
    tops = calibrate(network, weights, images) if tops is None else tops
    values: dict[str, Values] = {}
    results: list[LayerResult] = []
    for node in batch.nodes:
        sources = [values[name] for name in node.inputs]
        if node.op == "input":
            values[node.name] = np.asarray(images, np.float64)
            continue
        if node.layer is None:
            values[node.name] = apply(node, sources)
            continue
        layer, own = node.layer, weights[node.name]
        chosen = formats if isinstance(formats, LayerFormats) else formats[layer.name]
        mapping = (mappings or {}).get(layer.name)
        if mapping is None:
            mapping = find_mapping(layer, arch, chosen, model="full")
        top = tops[layer.name]
        inputs = quantize_activation(sources[0], chosen.I, top.I, f"{layer.name} input")
        filters = quantize_weight(own.weight, chosen.W, None, f"{layer.name} weight")
        result = simulate(
            layer,
            arch,
            mapping,
            chosen,
            (inputs, filters),
            output_top=top.O,
            network=network.name,
        )
        results.append(result)
        assert result.output is not None
        values[node.name] = result.output + own.bias
        if progress is not None:
            progress(layer.name)
    done = NetworkResult(network.name, arch, tuple(results), len(results))
    return Inference(values[batch.nodes[-1].name], done)
