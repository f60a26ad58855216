"""What stands for the formats and mappings of a network's layers: names, files, one for all."""

from __future__ import annotations

from collections.abc import Mapping as ByName
from pathlib import Path

from bfpsim.arch import Arch
from bfpsim.mapping.file import load_mappings
from bfpsim.mapping.nest import Mapping, MappingError
from bfpsim.quant.formats import FormatError, FormatSource, LayerFormats, layer_formats
from bfpsim.workloads import Network

FormatsSource = FormatSource | ByName[str, FormatSource]
"""Formats for all layers, or by layer name."""

MappingsSource = ByName[str, Mapping] | str | Path
"""Mappings by layer name, or the path of a file of them."""


def formats_by_layer(
    source: FormatsSource, network: Network
) -> LayerFormats | dict[str, LayerFormats]:
    """Return formats for all layers, or for each by name; raises FormatError if one lacks."""
    if not isinstance(source, ByName) or {*source} == {"I", "W", "O"}:
        return layer_formats(source)
    for layer in network.layers:
        if layer.name not in source:
            raise FormatError(
                f"formats by layer lack {layer.name!r}; allowed: one for each layer of "
                f"{network.name}"
            )
    return {layer.name: layer_formats(source[layer.name]) for layer in network.layers}


def mappings_by_layer(
    source: MappingsSource | Mapping | None, network: Network, arch: Arch
) -> ByName[str, Mapping]:
    """Return the mappings that are given, by layer name; raises MappingError as `load_mappings`."""
    if source is None:
        return {}
    if isinstance(source, str | Path):
        return load_mappings(source, network, arch)
    if not isinstance(source, ByName):
        raise MappingError(
            f"mappings of {network.name}: {type(source).__name__}; allowed: a mapping for each "
            "layer's name, or the path of a file of them"
        )
    return source
