"""Real images through the simulated accelerator, and in floats beside it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from bfpsim.arch import ArchSource
from bfpsim.mapping.objective import Objective
from bfpsim.mapping.sources import FormatsSource
from bfpsim.objects import brief
from bfpsim.sim.inference import Inference, Inputs, float_predictions, run_inference
from bfpsim.sim.program import ProgramResult
from bfpsim.sim.program_inference import ProgramInference, run_program
from bfpsim.sim.result import NetworkResult
from bfpsim.sim.simulate import Layers
from bfpsim.workloads import GraphSource, LayerWeights, WorkloadError
from bfpsim.workloads.graph.graph import Graph

if TYPE_CHECKING:
    import pandas as pd


@brief
@dataclass(frozen=True, eq=False)
class ImageRun:
    """Images through the accelerator.

    result: counts and time of the layers, or of the program, for all images
    predictions: a row per image: image, simulated and float (classes), and label if it is known
    """

    result: NetworkResult | ProgramResult
    predictions: pd.DataFrame


def run_images(
    network: GraphSource,
    arch: ArchSource,
    formats: FormatsSource,
    weights: Mapping[str, LayerWeights] | None,
    images: Inputs,
    labels: NDArray[np.integer] | None = None,
    progress: Callable[[str], None] | None = None,
    *,
    objective: Objective = "dram",
    layers: Layers = "alone",
) -> ImageRun:
    """Run images through a network whose packed data moves, and compare with float inference.

    images: (N, H, W, channels), normalised; of a graph, its inputs by name; labels: (N,)
    progress: called with each layer's name when it is done
    objective: what the mappings of layers alone are the least of
    layers: "alone": each by itself, the host between them, I and O quantised apart. "program":
        all operations on one clock, every activation stored once

    Raises as `run_inference` or `run_program`.
    """
    import pandas as pd

    inference: Inference | ProgramInference
    if layers == "program":
        if isinstance(network, Graph) or isinstance(images, Mapping) or weights is None:
            raise WorkloadError(
                "a program with data is of a network that is described, with weights and images; "
                "allowed: layers='alone'"
            )
        inference = run_program(network, arch, formats, weights, images, progress=progress)
    else:
        inference = run_inference(
            network, arch, formats, weights, images, progress=progress, objective=objective
        )
    simulated = inference.predictions
    classes = pd.DataFrame({"image": range(len(simulated)), "simulated": simulated})
    classes["float"] = float_predictions(network, weights, images)
    if labels is not None:
        classes["label"] = labels.astype(int)
    return ImageRun(inference.result, classes)
