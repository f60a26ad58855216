"""What stands for the formats and mappings of a network's layers: names, files, one for all."""

from __future__ import annotations

from collections.abc import Mapping as ByName
from pathlib import Path

from bfpsim.arch import Arch
from bfpsim.mapping.file import load_mappings
from bfpsim.mapping.nest import Mapping, MappingError
from bfpsim.quant.formats import (
    TENSORS,
    FormatError,
    FormatSource,
    LayerFormats,
    layer_formats,
    parse_format,
)
from bfpsim.workloads import Network, Shapes

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


def formats_title(source: FormatsSource) -> str:
    """Formats in one line: one for all layers, or those of I, W and O that several layers have."""
    if not isinstance(source, ByName) or {*source} == {"I", "W", "O"}:
        return str(layer_formats(source))
    every = [layer_formats(each) for each in source.values()]
    if len({*every}) == 1:
        return str(every[0])
    of_tensors = (
        (tensor, dict.fromkeys(str(each.of(tensor)) for each in every)) for tensor in TENSORS
    )
    return " ".join(f"{tensor}={', '.join(names)}" for tensor, names in of_tensors)


def stored_formats(
    source: object, network: Network, shapes: Shapes | None = None, otherwise: str = "bfp8"
) -> dict[str, LayerFormats]:
    """Return the formats that an ONNX file stores its tensors in, by layer; none of other sources.

    None either of a file that stores nothing but floats.

    network: what `load_workload` made of the source
    otherwise: the format of tensors in what no format here is, and of layers that the file has
        written as other operators

    Raises WorkloadError for a file that cannot be read.
    """
    if not isinstance(source, str | Path) or Path(source).suffix.lower() != ".onnx":
        return {}
    from bfpsim.workloads.importers.onnx.stored import stored_formats as names_of

    stored = names_of(source, shapes)
    if not stored:
        return {}
    nothing = (None, None, None)
    return {
        layer.name: LayerFormats(
            *(
                parse_format(name or otherwise)
                for name in (stored[layer.name].names if layer.name in stored else nothing)
            )
        )
        for layer in network.layers
    }


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
