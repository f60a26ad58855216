"""A workload from wherever it is: a shipped name, a file, a Python function, a torch module."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from numpy.typing import NDArray

from bfpsim.wording import same
from bfpsim.workloads import catalog
from bfpsim.workloads.checkpoint import LayerWeights
from bfpsim.workloads.layer import WorkloadError
from bfpsim.workloads.network import Network
from bfpsim.workloads.shipped import shipped_weights

if TYPE_CHECKING:
    from torch.nn import Module

    from bfpsim.workloads.graph.graph import Graph
    from bfpsim.workloads.importers.draft import Imported

Shapes = Mapping[str, Sequence[int] | NDArray[Any]]
"""Input name -> its shape as the model has it, such as (1, 3, 224, 224), or its value.

A value is a numpy array of an ONNX graph's input (a number decides which branch runs), or a tensor
of a torch module's.
"""

NetworkSource: TypeAlias = "Network | str | Path | Module"
"""A network, or what stands for one, as `load_workload` takes it."""
GraphSource: TypeAlias = "Graph | NetworkSource"
"""A graph, or what stands for one, as `load_graph` takes it."""

_TEXT_FILES = (".yaml", ".yml", ".csv")
_ALSO = (
    "a .yaml, .yml, .csv or .onnx file, or package.module:function or file.py:function that makes "
    "a torch module"
)


def load_workload(source: NetworkSource, shapes: Shapes | None = None) -> Network:
    """Return the network that ``source`` stands for; one itself as it is.

    It is the name of a shipped network, a file (``.yaml`` or ``.yml``; ``.csv``, a network's own or
    SCALE-Sim's, told apart by their headers; ``.onnx``), ``package.module:function`` or
    ``file.py:function``, a function without parameters that returns a torch module, or a torch
    module itself.

    ``shapes`` gives the input's shape of a torch module, and sets the open extents of an ONNX
    graph, or the values of inputs that decide what runs; other sources have shapes of their own.

    Raises `WorkloadError` if there is no such thing, or for whatever is wrong in it.
    """
    if isinstance(source, Network):
        if shapes:
            raise WorkloadError(f"network {source.name}: shapes are refused, it has its own")
        return source
    own = _import(source, shapes)
    return _describe(str(source)) if own is None else own.network


def load_with_weights(
    source: str | Path | Module, shapes: Shapes | None = None
) -> tuple[Network, Mapping[str, LayerWeights]]:
    """Return what `load_workload` does, and the weights that come with it, by layer name.

    Some shipped networks have weights, files of shapes alone have none. Raises `WorkloadError`
    likewise.
    """
    own = _import(source, shapes)
    if own is not None:
        return own.network, own.weights
    return _describe(str(source)), _own_weights(str(source))


def load_graph(
    source: GraphSource,
    weights: Mapping[str, LayerWeights] | None = None,
    shapes: Shapes | None = None,
    *,
    samples: int | None = None,
) -> Graph:
    """Return what `load_workload` takes as a graph that can be run with data; one itself as it is.

    weights: by layer name; None: those that come with the source. Given, an ONNX file or a module
        is run as its `Network` alone describes it
    shapes: as in `load_workload`
    samples: the batch of a network that is described; a graph of a file or a module has its own

    Raises `WorkloadError` as `load_workload`, and for a network that cannot be run.
    """
    from bfpsim.workloads.graph.graph import Graph

    if isinstance(source, Graph):
        return source
    own = None if isinstance(source, Network) else _import(source, shapes)
    if own is not None and weights is None:
        return own.graph
    if isinstance(source, Network):
        network = source
    else:
        network = _describe(str(source)) if own is None else own.network
        if weights is None:
            weights = _own_weights(str(source))
    from bfpsim.workloads.graph.described import describe

    batched = network if samples is None else network.batched(samples)
    return describe(batched, weights or {})


def runs_code(source: object) -> bool:
    """Return whether loading ``source`` calls a function that it names."""
    if not isinstance(source, str | Path):
        return False
    return Path(source).suffix.lower() not in (*_TEXT_FILES, ".onnx") and ":" in str(source)


def save_workload(network: NetworkSource, path: str | Path) -> None:
    """Write a network as a ``.yaml``, ``.yml`` or ``.csv`` file that `load_workload` reads back.

    Raises `WorkloadError` for any other ending, or if the file cannot be written.
    """
    from bfpsim.workloads.files.network_csv import write_csv
    from bfpsim.workloads.files.network_yaml import write_yaml

    network = load_workload(network)
    match Path(path).suffix.lower():
        case ".yaml" | ".yml":
            write_yaml(network, path)
        case ".csv":
            write_csv(network, path)
        case suffix:
            raise WorkloadError(f"{path}: ending {suffix!r} is refused; allowed: .yaml, .yml, .csv")


def _own_weights(source: str) -> Mapping[str, LayerWeights]:
    try:
        return shipped_weights(same(source, catalog.names()) or source)
    except WorkloadError:  # none are shipped
        return {}


def _import(source: str | Path | Module, shapes: Shapes | None) -> Imported | None:
    """Return what an importer makes of the source; None for one that needs none."""
    # Whoever has a module has imported torch; nobody else must wait for it.
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(source, torch.nn.Module):
        from bfpsim.workloads.importers.torch.module import import_torch

        return import_torch(source, shapes)
    if not isinstance(source, str | Path):
        raise WorkloadError(
            f"workload {source!r} must be a shipped name, {_ALSO}, or such a module"
        )
    text, suffix = str(source), Path(source).suffix.lower()
    if suffix == ".onnx":
        from bfpsim.workloads.importers.onnx.model import import_onnx

        return import_onnx(text, shapes)
    if runs_code(source):
        try:
            from bfpsim.workloads.importers.torch.module import import_module_function
        except ModuleNotFoundError as error:
            if error.name != "torch":
                raise
            raise WorkloadError(
                f"workload {text!r} needs torch, which is not installed: pip install bfpsim[torch]"
            ) from None
        return import_module_function(text, shapes)
    if shapes:
        raise WorkloadError(
            f"workload {text!r}: shapes of {', '.join(shapes)} are refused, it has its own; "
            "allowed: for .onnx files and torch modules"
        )
    return None


def _describe(source: str) -> Network:
    """Return the network that a file describes in text, or a shipped one."""
    suffix = Path(source).suffix.lower()
    if suffix in (".yaml", ".yml"):
        from bfpsim.workloads.files.network_yaml import read_yaml

        return read_yaml(source)
    if suffix == ".csv":
        from bfpsim.workloads.files.network_csv import read_csv
        from bfpsim.workloads.files.scale_sim import is_topology, read_scale_sim
        from bfpsim.workloads.files.text import read_text

        return read_scale_sim(source) if is_topology(read_text(source)) else read_csv(source)
    try:
        return catalog.load_workload(source)
    except WorkloadError as error:
        if os.path.isdir(source):
            raise WorkloadError(
                f"workload {source!r} is a folder; allowed: a shipped name, {_ALSO}"
            ) from None
        raise WorkloadError(f"{error}; also allowed: {_ALSO}") from None
