"""A network run with data: in floats, with quantised operands, or on the simulated accelerator.

All three are one execution of its graph (`workloads.graph`); they differ in what multiplies.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bfpsim.arch import Arch, ArchSource, load_arch
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
from bfpsim.quant.formats import FormatError, LayerFormats
from bfpsim.quant.formats.quantize import (
    dequantize,
    quantize_activation,
    quantize_weight,
    top_exponent,
)
from bfpsim.sim.result import LayerResult, NetworkResult, repeated
from bfpsim.sim.simulate import simulate
from bfpsim.workloads import ConvLayer, GraphSource, LayerWeights, WorkloadError, load_graph
from bfpsim.workloads.graph.graph import Execution, Graph
from bfpsim.workloads.graph.product import Multiply, Runs, Values, multiply_floats

Weights = Mapping[str, LayerWeights]
Inputs = NDArray[Any] | Mapping[str, NDArray[Any]]
"""What goes into a network, any number of samples: one array, or one for each input by name.

Of a network that is described, (N, H, W, channels); of a file or a module, as that takes them.
"""


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
    """Inputs through the simulated network.

    values: the network's outputs by name
    result: counts and time of the layers, for all samples. Layers of operators that have their
        products within them (a recurrent operator, a loop) stand among them under names of their
        own
    """

    values: Mapping[str, NDArray[Any]]
    result: NetworkResult

    @property
    def outputs(self) -> NDArray[Any]:
        """The values of the first output: (N, 1, 1, classes) of a classifier that is described."""
        return next(iter(self.values.values()))

    @property
    def predictions(self) -> NDArray[np.int64]:
        """The class of each sample."""
        return _classes(self.outputs)


def infer(network: GraphSource, weights: Weights | None, inputs: Inputs) -> dict[str, Any]:
    """Return every tensor of float inference by name; of a described network, every node's output.

    Products are float64, operators between them in the types of the network: float64 of one that
    is described, else its own.
    weights: None: those that come with the network

    Raises WorkloadError, naming what it is, for a network that cannot be run, and for inputs that
    are not its own.
    """
    return _run(network, weights, inputs, multiply_floats, keep=lambda name: True)


def infer_quantised(
    network: GraphSource,
    weights: Weights | None,
    inputs: Inputs,
    formats: FormatsSource,
    tops: Mapping[str, Tops] | None = None,
) -> dict[str, Any]:
    """Return the outputs by name with every product's operands quantised, and its sums in float64.

    They are those of `run_inference`, without the accelerator, as long as no sum has more than 53
    bits.
    tops: from `calibrate`; None calibrates on these inputs

    Raises WorkloadError as `infer`, FormatError for formats that are missing.
    """
    tops = calibrate(network, weights, inputs) if tops is None else tops
    samples = _samples(network, weights, inputs)
    chosen = formats_by_layer(formats, samples[0][0].network)
    return _outputs(samples, _Quantised(chosen, tops))


def float_predictions(
    network: GraphSource, weights: Weights | None, inputs: Inputs
) -> NDArray[np.int64]:
    """The class of each sample by float inference with the unquantised weights."""
    return _classes(next(iter(_run(network, weights, inputs, multiply_floats).values())))


def calibrate(network: GraphSource, weights: Weights | None, inputs: Inputs) -> dict[str, Tops]:
    """E_top of every layer's I and O, from float inference of calibration inputs."""
    calibration = _Calibration()
    _run(network, weights, inputs, calibration)
    return calibration.tops()


def run_inference(
    network: GraphSource,
    arch: ArchSource,
    formats: FormatsSource,
    weights: Weights | None,
    images: Inputs,
    tops: Mapping[str, Tops] | None = None,
    mappings: MappingsSource | None = None,
    progress: Callable[[str], None] | None = None,
    *,
    objective: Objective = "dram",
) -> Inference:
    """Run inputs through the network, its products on the accelerator.

    Between products operators of the network's own framework run, and every operand is quantised:
    I of each layer, and W, also where it is an activation. Biases are added by the host.
    weights: None: those that come with the network
    images: of a described network (N, H, W, channels); else as `infer`
    tops: from `calibrate`; None calibrates on these inputs
    mappings: by layer name, of a described network for the batch; missing ones are the mapper's
        for the `objective`

    Raises MappingError, FormatError as `simulate`, and WorkloadError as `infer`.
    """
    arch = load_arch(arch)
    samples = _samples(network, weights, images)
    own = samples[0][0].network
    given = mappings_by_layer(mappings, own, arch)
    tops = calibrate(network, weights, images) if tops is None else tops
    formats = formats_by_layer(formats, own)
    simulated = _Simulated(own.name, arch, formats, given, tops, objective, progress)
    values = _outputs(samples, simulated)
    results = tuple(map(_together, simulated.results.values()))
    count = sum(len(runs) for runs in simulated.results.values())
    return Inference(values, NetworkResult(own.name, arch, results, count))


# --- samples -------------------------------------------------------------------------------------


def _samples(
    network: GraphSource, weights: Weights | None, inputs: Inputs
) -> Sequence[tuple[Graph, Mapping[str, NDArray[Any]]]]:
    """Return the graph with the inputs of each of its runs.

    A network that is described runs once, in a batch; a graph takes as many samples as it was made
    for, time and again.
    """
    graph = load_graph(network, weights, samples=_length(inputs))
    arrays = inputs if isinstance(inputs, Mapping) else dict.fromkeys(graph.inputs, inputs)
    if not isinstance(inputs, Mapping) and len(graph.inputs) != 1:
        graph.feeds(inputs)  # says which inputs there are
    runs = {
        len(array) // own.shape[0]
        for name, own in graph.inputs.items()
        if name in arrays
        and own.shape
        and (array := np.asarray(arrays[name])).ndim == len(own.shape)
        and array.shape != own.shape
        and array.shape[1:] == own.shape[1:]
        and len(array) % own.shape[0] == 0
    }
    if len(runs) != 1:
        return [(graph, graph.feeds(arrays))]  # which refuses what is not one run's
    (count,) = runs
    found = []
    for at in range(count):
        parts = {}
        for name, array in arrays.items():
            own = graph.inputs.get(name)
            length = own.shape[0] if own is not None and own.shape else 0
            whole = own is None or np.shape(array) == own.shape
            parts[name] = array if whole else array[at * length : (at + 1) * length]
        found.append((graph, graph.feeds(parts)))
    return found


def _length(inputs: Inputs) -> int | None:
    first = next(iter(inputs.values()), None) if isinstance(inputs, Mapping) else inputs
    return len(first) if first is not None and np.ndim(first) else None


def _run(
    network: GraphSource,
    weights: Weights | None,
    inputs: Inputs,
    multiply: Multiply,
    keep: Callable[[str], bool] = lambda name: False,
) -> dict[str, Any]:
    return _outputs(_samples(network, weights, inputs), multiply, keep)


def _outputs(
    samples: Sequence[tuple[Graph, Mapping[str, NDArray[Any]]]],
    multiply: Multiply,
    keep: Callable[[str], bool] = lambda name: False,
) -> dict[str, Any]:
    """Run all samples; tensors of several runs stand one behind the other."""
    runs = [Execution(graph, feeds, multiply).run(keep) for graph, feeds in samples]
    if len(runs) == 1:
        return runs[0]
    return {name: _joined([run[name] for run in runs]) for name in runs[0]}


def _joined(values: list[Any]) -> Any:
    arrays = [value for value in values if isinstance(value, np.ndarray) and value.ndim]
    if len(arrays) < len(values) or len({array.shape[1:] for array in arrays}) > 1:
        return values
    return np.concatenate(arrays)


def _classes(outputs: NDArray[Any]) -> NDArray[np.int64]:
    flat = outputs.reshape(outputs.shape[0], -1)
    classes: NDArray[np.int64] = flat.argmax(axis=1).astype(np.int64)
    return classes


# --- what multiplies -----------------------------------------------------------------------------


class _Calibration:
    """Multiplies floats, and notes the largest magnitude of every layer's operands."""

    def __init__(self) -> None:
        self._largest: dict[str, dict[str, float]] = {}

    def __call__(self, runs: Runs, inputs: Values, weights: Values) -> Values:
        sums = multiply_floats(runs, inputs, weights)
        name = runs.layer.name
        own = self._largest.setdefault(name, {})
        for tensor, word, values in (
            ("I", "input", inputs),
            ("O", "output", sums),
            *(() if runs.stored else (("W", "weight", weights),)),
        ):
            top_exponent(values, f"{name} {word}")  # which refuses what is not finite
            own[tensor] = max(own.get(tensor, 0.0), float(np.abs(values).max(initial=0.0)))
        return sums

    def tops(self) -> dict[str, Tops]:
        """E_top of every layer that ran."""
        return {
            name: Tops(**{tensor: top_exponent(most) for tensor, most in own.items()})
            for name, own in self._largest.items()
        }


class _Quantised:
    """Multiplies quantised operands as floats, and quantises the sums."""

    def __init__(
        self, formats: LayerFormats | Mapping[str, LayerFormats], tops: Mapping[str, Tops]
    ) -> None:
        self._formats, self._tops = formats_of(formats), tops

    def __call__(self, runs: Runs, inputs: Values, weights: Values) -> Values:
        name = runs.layer.name
        chosen, top = self._formats(name), _top(self._tops, name)
        left = _activations(inputs, chosen.I, top.I, f"{name} input")
        right = np.stack(
            [dequantize(quantize_weight(one, chosen.W, top.W, f"{name} weight")) for one in weights]
        )
        sums = multiply_floats(runs, left, right)
        return _activations(sums, chosen.O, top.O, f"{name} output")


class _Simulated:
    """Multiplies on the simulated accelerator, and keeps what each layer's runs counted.

    results: of each layer, by its name
    """

    def __init__(
        self,
        network: str,
        arch: Arch,
        formats: LayerFormats | Mapping[str, LayerFormats],
        mappings: Mapping[str, Tiling],
        tops: Mapping[str, Tops],
        objective: Objective,
        progress: Callable[[str], None] | None,
    ) -> None:
        self.results: dict[str, list[LayerResult]] = {}
        self._network, self._arch, self._formats = network, arch, formats_of(formats)
        self._given, self._tops, self._progress = mappings, tops, progress
        self._objective: Objective = objective
        self._found: dict[object, Tiling] = {}

    def __call__(self, runs: Runs, inputs: Values, weights: Values) -> Values:
        layer = runs.layer
        chosen, top = self._formats(layer.name), _top(self._tops, layer.name)
        mapping = self._mapping(layer, chosen)
        sums = []
        for left, right in zip(inputs, weights, strict=True):
            data = (
                quantize_activation(left, chosen.I, top.I, f"{layer.name} input"),
                quantize_weight(right, chosen.W, top.W, f"{layer.name} weight"),
            )
            run = simulate(
                layer, self._arch, mapping, chosen, data, output_top=top.O, network=self._network
            )
            assert run.output is not None
            sums.append(run.output)
            self.results.setdefault(layer.name, []).append(run)
        if self._progress is not None:
            self._progress(layer.name)
        return np.stack(sums)

    def _mapping(self, layer: ConvLayer, chosen: LayerFormats) -> Tiling:
        if layer.name in self._given:
            return self._given[layer.name]
        key = replace(layer, name="layer"), chosen
        if key not in self._found:
            self._found[key] = find_mapping(
                layer, self._arch, chosen, objective=self._objective, model="full"
            )
        return self._found[key]


def formats_of(source: LayerFormats | Mapping[str, LayerFormats]) -> Callable[[str], LayerFormats]:
    """Return what gives a layer's formats; raises FormatError, naming the layer, if it has none."""
    if isinstance(source, LayerFormats):
        return lambda name: source

    def formats(name: str) -> LayerFormats:
        if name not in source:
            raise FormatError(
                f"formats by layer lack {name!r}, which is within another operator; allowed: one "
                "for it, too, or one for all"
            )
        return source[name]

    return formats


def _top(tops: Mapping[str, Tops], name: str) -> Tops:
    if name not in tops:
        raise WorkloadError(
            f"layer {name!r} was not calibrated; allowed: tops of inputs that reach it"
        )
    return tops[name]


def _activations(values: Values, fmt: Any, top: int, name: str) -> Values:
    """Return (runs, N, P, Q, channels) in a format: runs are as samples."""
    flat = values.reshape(-1, *values.shape[2:])
    return dequantize(quantize_activation(flat, fmt, top, name)).reshape(values.shape)


def _together(runs: list[LayerResult]) -> LayerResult:
    """A layer's runs as one result: they count the same, and no one output is the layer's."""
    if len(runs) == 1:
        return runs[0]
    width = max(run.accumulator_width or 0 for run in runs)
    return replace(repeated(runs[0], len(runs)), quantized=None, accumulator_width=width)
