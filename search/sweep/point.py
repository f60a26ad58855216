"""One point of a sweep, and the key that names its result."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from bfpsim.arch import Arch
from bfpsim.mapping.mapper import Model
from bfpsim.mapping.objective import Objective
from bfpsim.quant.formats import LayerFormats
from bfpsim.search.store import code_digest
from bfpsim.sim.simulate import Layers
from bfpsim.workloads import ConvLayer, Network
from bfpsim.workloads.files.row import all_values

SCHEMA = 2
"""The schema of records: a new number for every change of what they hold."""

POINTS = "point"
"""The kind under which a store keeps points."""

_DECIDING = ("arch", "mapping", "quant", "sim", "workloads", "search/sweep")
"""Packages whose code and tables decide what a record says."""


@dataclass(frozen=True)
class Point:
    """A network on an architecture, each layer in its formats and under its best mapping.

    formats: of each layer, in the network's order
    objective, model: what the mappings minimise, and what prices them, as in `find_mapping`
    ladder: whether to set the analytical models against the simulation
    axes: how the sweep spells the hardware that sets this point apart, as (dotted path, value);
        no part of what the point is
    layers: how they run; as a program they have no models
    """

    network: Network
    arch: Arch
    formats: tuple[LayerFormats, ...]
    objective: Objective = "dram"
    model: Model = "full"
    ladder: bool = True
    axes: tuple[tuple[str, Any], ...] = field(default=(), compare=False)
    layers: Layers = "alone"

    @property
    def formats_name(self) -> str:
        """The formats if all layers have the same, else "by layer"."""
        return str(self.formats[0]) if len(set(self.formats)) == 1 else "by layer"

    @property
    def formats_by_layer(self) -> dict[str, LayerFormats]:
        """Layer name -> its formats."""
        return {
            layer.name: formats
            for layer, formats in zip(self.network.layers, self.formats, strict=True)
        }

    @cached_property
    def key(self) -> str:
        """SHA-256 of everything that decides the result, the program's code included."""
        repeats = self.network.repeats
        layers = [
            (*_sizes(layer), repeats[layer.name], str(formats.I), str(formats.W), str(formats.O))
            for layer, formats in zip(self.network.layers, self.formats, strict=True)
        ]
        deciding = {
            "schema": SCHEMA,
            "program": program(),
            "network": self.network.name,
            "layers": layers,
            "arch": self.arch.model_dump(),
            "objective": self.objective,
            "model": self.model,
            "ladder": self.ladder,
        }
        if self.layers == "program":  # what stands between the layers, and how they are joined
            deciding["graph"] = [all_values(node) for node in self.network.nodes]
        text = json.dumps(deciding, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()


def program() -> str:
    """SHA-256 of the code that decides results: other code, other keys."""
    return code_digest(_DECIDING)


def _sizes(layer: ConvLayer) -> tuple[object, ...]:
    """All that `ConvLayer` holds, in its normal form."""
    return (
        *(layer.name, *layer.dims.values(), layer.height, layer.width),
        *(layer.strides, layer.paddings, layer.dilations),
    )
