"""A trained network run as one program, with data: its packed activations stay on chip or move."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from bfpsim.arch import ArchSource, load_arch
from bfpsim.mapping.sources import (
    FormatsSource,
    MappingsSource,
    formats_by_layer,
    mappings_by_layer,
)
from bfpsim.objects import brief
from bfpsim.quant.formats.quantize import top_exponent
from bfpsim.sim.contents import Contents
from bfpsim.sim.inference import infer
from bfpsim.sim.program import ProgramResult, plan_program
from bfpsim.workloads import LayerWeights, Network, NetworkSource, WorkloadError, load_workload
from bfpsim.workloads.graph.described import node_evaluator

if TYPE_CHECKING:
    from bfpsim.workloads.program import Program

Values = NDArray[np.float64]


@brief
@dataclass(frozen=True, eq=False)
class ProgramInference:
    """Images through a network's program.

    outputs: the last node's values (N, H, W, channels), (N, 1, 1, classes) of a classifier
    activations: the values of every stored activation by name
    result: counts and time, for the whole batch
    """

    outputs: Values
    activations: Mapping[str, Values]
    result: ProgramResult

    @property
    def predictions(self) -> NDArray[np.int64]:
        """The class of each image."""
        flat = self.outputs.reshape(len(self.outputs), -1)
        classes: NDArray[np.int64] = flat.argmax(axis=1).astype(np.int64)
        return classes


def run_program(
    network: NetworkSource,
    arch: ArchSource,
    formats: FormatsSource,
    weights: Mapping[str, LayerWeights],
    images: NDArray[np.floating],
    mappings: MappingsSource | None = None,
    progress: Callable[[str], None] | None = None,
) -> ProgramInference:
    """Run images through the network as one program, all in a batch.

    Every activation is quantised once, as it is stored, in the format of O of the product that
    writes it, under an E_top calibrated on these images in floats. Products read it as it is, so
    their I must be in that format.

    network: described, with weights for each layer; images: (N, H, W, channels)
    mappings: by layer name, for the batch; missing ones are chosen with what stays on chip
    progress: called with the name of each operation as it ends

    Raises MappingError if an operation fits in no case, FormatError for formats that differ between
    writer and reader, and WorkloadError for a network that cannot be run with data.
    """
    own, arch = load_workload(network), load_arch(arch)
    if len(own.nodes) and sum(node.op == "input" for node in own.nodes) != 1:
        raise WorkloadError(f"{own.name} has several inputs; allowed: one, the images")
    batch = own.batched(len(images))
    chosen = formats_by_layer(formats, batch)
    planned = plan_program(batch, arch, chosen, mappings_by_layer(mappings, batch, arch))
    program = planned.plan.program
    values = infer(batch, weights, images)
    stored = values | constants(program, batch, weights)
    tops = {name: top_exponent(stored[name], name) for name in program.activations}
    given = {
        name: np.asarray(stored[name], np.float64)
        for name, activation in program.activations.items()
        if activation.origin != "operation"
    }
    evaluate = node_evaluator(batch, weights)
    contents = Contents(planned.plan, arch, weights, given, tops, evaluate)
    result = planned.run(contents, progress)
    activations = {name: contents.output(name) for name in program.activations}
    return ProgramInference(activations[own.nodes[-1].name], activations, result)


def constants(
    program: Program, network: Network, weights: Mapping[str, LayerWeights]
) -> dict[str, Values]:
    """What a program adds to activations, by name: learned parameters of whole maps."""
    found = {}
    for node in network.nodes:
        name = f"{node.name}.parameter"
        if name in program.activations:
            own = weights[node.name]
            whole = np.broadcast_to(own.weight + own.bias, network.shape(node.name))
            found[name] = np.asarray(whole, np.float64)
    return found
