"""Networks from torch modules."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx, nn

from bfpsim.workloads.checkpoint import LayerWeights
from bfpsim.workloads.importers.imported import Imported
from bfpsim.workloads.importers.torch.between import append_operation
from bfpsim.workloads.importers.torch.draft import Draft
from bfpsim.workloads.importers.torch.export import aten, constants, first_line
from bfpsim.workloads.importers.torch.graph import Captured, capture, copied
from bfpsim.workloads.importers.torch.hooks import count_macs, difference
from bfpsim.workloads.importers.torch.layers import append_layer, zero_padding
from bfpsim.workloads.importers.torch.sites import owner
from bfpsim.workloads.importers.torch.view import View
from bfpsim.workloads.layer import WorkloadError
from bfpsim.workloads.network import Network
from bfpsim.workloads.node import Node

Inputs = Mapping[str, Sequence[int] | Tensor]
"""Argument of a module's forward -> its shape as torch has it, or a tensor where values matter."""

# What reads three dimensions as (N, C, L), where others read them as tokens (N, T, C).
_SIGNALS = (
    aten.conv1d.default, aten.conv_transpose1d.default, aten.max_pool1d.default,
    aten.avg_pool1d.default, aten.batch_norm.default,
)  # fmt: skip


def import_torch(module: nn.Module, shapes: Inputs | None) -> Imported:
    """Return a module in evaluation mode as a network named as its class, and its weights.

    ``shapes`` gives the forward's arguments in torch's order of dimensions, NCHW for images;
    arguments with a default may be left out from some place on. A shape stands for random values
    of the parameters' type; token numbers and the like must be given as a tensor. The module stays
    as it is.

    Layers bear the names of their submodules (`torch_sites.Site`), and batch normalisation is
    folded into them where it can be. Nodes are (N, H, W, C): tensors of rank 4 are taken for NCHW,
    of rank 3 for tokens (N, T, C) at (N, T, 1, C) or, where a 1-D convolution reads an input, for
    (N, C, L) at (N, 1, L, C), of rank 2 for (N, C) at (N, 1, 1, C), of rank 1 for (C,), of higher
    rank for (first, rest, last) at (first, rest, 1, last), unless what reads and makes them says
    otherwise. Transposing and reshaping cost nothing as long as a layer finds its channels where
    they are held (`torch_view`); otherwise the host's ``permute`` stands before it. What is no
    kind of layer is the host's, with torch's name for it and its multiply-accumulates. Parameters
    are no nodes, but for ``parameter`` where one is multiplied as an activation. Several outputs
    are gathered by a last host node, ``outputs``.

    Raises `WorkloadError` if ``shapes`` does not fit the forward's arguments, for what
    `torch_graph.capture` raises it, if weights are not finite, or if the multiply-accumulates are
    not those that the module has as it runs (`torch_hooks`).
    """
    name = type(module).__name__
    titles, inputs = _inputs(module, shapes or {})
    captured = _captured(module, inputs)
    leaves = [
        path
        for path, part in module.named_modules()
        if path and type(part).__module__.startswith("torch.nn") and not any(part.children())
    ]
    draft = Draft(name, [site.name for site in captured.sites], leaves)
    weights: dict[str, LayerWeights] = {}
    graph = captured.module.graph
    fixed = constants(graph)
    sites = {site.node: site for site in captured.sites}
    names = iter(titles)
    for node in graph.nodes:
        if node.op == "placeholder":
            _append_input(draft, captured, node, next(names))
        elif node.name in sites:
            append_layer(draft, captured, sites[node.name], node, weights)
        elif node.op == "output":
            _append_outputs(draft, node)
        elif node not in fixed and node.name in captured.shapes and zero_padding(node) is None:
            append_operation(draft, captured, node)
    network = Network(name, tuple(draft.nodes))
    _check_counts(module, inputs, captured, network)
    return Imported(network, weights)


def import_module_function(reference: str, shapes: Inputs | None) -> Imported:
    """Import the module that `make_module` makes: `import_torch`."""
    return import_torch(make_module(reference), shapes)


def make_module(reference: str) -> nn.Module:
    """Return the module that a function makes, or that is there.

    ``reference`` is ``package.module:name`` or ``path/to/file.py:name``; the name is that of a
    function without parameters, which is called, or of a module. The current folder, or the
    file's, is searched for what is imported.

    Raises `WorkloadError` if there is no such thing, it fails, or gives no module.
    """
    place, colon, name = str(reference).rpartition(":")
    if not (place and colon and name.isidentifier()):
        raise WorkloadError(
            f"workload {reference!r} must be package.module:function or path/to/file.py:function"
        )
    path = Path(place) if place.endswith(".py") else None
    if path is not None and not path.is_file():
        raise WorkloadError(f"workload {reference!r}: there is no file {place}")
    with _searched(Path.cwd() if path is None else path.resolve().parent):
        load = _named(place) if path is None else _file(path)
        found = _tried(reference, f"importing {place}", load)
        if not hasattr(found, name):
            raise WorkloadError(f"workload {reference!r}: {place} has no attribute {name!r}")
        made = getattr(found, name)
        if callable(made) and not isinstance(made, nn.Module):
            made = _tried(reference, f"{name}()", made)
    if not isinstance(made, nn.Module):
        raise WorkloadError(
            f"workload {reference!r}: {name} gives {type(made).__name__}, must be a "
            "torch.nn.Module or a function without parameters that returns one"
        )
    return made


def _inputs(module: nn.Module, shapes: Inputs) -> tuple[list[str], tuple[Tensor, ...]]:
    """Return the names and values of the forward's arguments that ``shapes`` gives."""
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    parameters = inspect.signature(module.forward).parameters.values()
    arguments = {p.name: p.default is p.empty for p in parameters if p.kind in positional}
    owner = f"module {type(module).__name__}"
    allowed = ", ".join(
        name if needed else f"{name} (optional)" for name, needed in arguments.items()
    )
    for name in shapes:
        if name not in arguments:
            raise WorkloadError(
                f"{owner}: shapes has {name!r}, its forward's arguments are {allowed}"
            )
    given = [name for name in arguments if name in shapes]
    for name, needed in arguments.items():
        if name not in shapes and (needed or name in list(arguments)[: len(given)]):
            raise WorkloadError(
                f"{owner}: shapes must give {name!r}; its forward's arguments are {allowed}"
            )
    types = (each.dtype for each in module.parameters() if each.is_floating_point())
    dtype, generator = next(types, torch.float32), torch.Generator().manual_seed(0)
    return given, tuple(_tensor(owner, name, shapes[name], dtype, generator) for name in given)


def _tensor(
    owner: str,
    name: str,
    shape: Sequence[int] | Tensor,
    dtype: torch.dtype,
    generator: torch.Generator,
) -> Tensor:
    if isinstance(shape, Tensor):
        return shape
    extents = list(shape)
    if not all(isinstance(extent, int) and extent > 0 for extent in extents):
        raise WorkloadError(f"{owner}: shape {tuple(extents)} of {name!r} must be of ints >= 1")
    return torch.randn(extents, generator=generator).to(dtype)


def _captured(module: nn.Module, inputs: tuple[Tensor, ...]) -> Captured:
    """Capture the module; an error of one with embeddings says how to give token numbers."""
    try:
        return capture(module, inputs)
    except WorkloadError as error:
        embeds = any(isinstance(part, nn.Embedding | nn.EmbeddingBag) for part in module.modules())
        if not embeds or not all(x.is_floating_point() for x in inputs):
            raise
        raise WorkloadError(
            f"{error}; a shape stands for random floats: give token numbers as a tensor, from "
            "Python"
        ) from None


def _append_input(draft: Draft, captured: Captured, node: fx.Node, name: str) -> None:
    if node.users:
        shape = captured.shapes[node.name]
        signal = len(shape) == 3 and any(reader.target in _SIGNALS for reader in node.users)
        view = View.of(draft.free(name), shape, channels_first=signal or None)
        draft.append(Node(view.node, "input", input_shape=view.held))
        draft.views[node] = view


def _append_outputs(draft: Draft, node: fx.Node) -> None:
    """See to it that the last node is the network's output."""
    nodes = [draft.views[x].node for x in node.all_input_nodes if x in draft.views]
    if not nodes:
        raise WorkloadError(f"module {draft.name}: no output depends on an input")
    if len(nodes) > 1 or nodes[0] != draft.nodes[-1].name:
        draft.host(draft.free("outputs"), "outputs", nodes, draft.shape(nodes[0]))


def _check_counts(
    module: nn.Module, inputs: tuple[Tensor, ...], captured: Captured, network: Network
) -> None:
    """Refuse a network whose layers' and host's multiply-accumulates are not the module's."""
    paths = {part: path for path, part in module.named_modules()}
    nodes = {node.name: node for node in network.nodes}
    counts: Counter[str] = Counter()
    for site in captured.sites:
        node = nodes.get(site.name)
        # Phases of a transposed convolution also count taps that meet the padding.
        own = site.macs
        if site.kind != "transposed" and node is not None and node.layer is not None:
            own = node.layer.macs * node.repeats
        counts[site.owner] += own
    for each in captured.module.graph.nodes:
        if each.name in captured.host_macs:
            counts[paths[module.get_submodule(owner(each))]] += captured.host_macs[each.name]
    running = count_macs(copied(module), inputs)
    # The sums decide: within `torch.no_grad()` an export does not tell which submodule runs.
    found = difference(counts, running)
    if found is not None and sum(counts.values()) != sum(running.values()):
        path, captured_macs, running_macs = found
        raise WorkloadError(
            f"module {network.name}: the captured graph has {sum(counts.values())} "
            f"multiply-accumulates, the running module {sum(running.values())}; they differ "
            f"first in {path or network.name!r}, {captured_macs} and {running_macs}"
        )


def _tried(reference: str, what: str, call: Callable[[], Any]) -> Any:
    try:
        return call()
    except (Exception, SystemExit) as error:  # whatever the user's code raises
        raise WorkloadError(f"workload {reference!r}: {what} fails: {first_line(error)}") from None


def _named(name: str) -> Callable[[], Any]:
    return lambda: importlib.import_module(name)


def _file(path: Path) -> Callable[[], Any]:
    def load() -> Any:
        # No name that an import could find, so that no module is taken for another.
        spec = importlib.util.spec_from_file_location(str(path.resolve()), path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = module  # dataclasses look their module up
        try:
            spec.loader.exec_module(module)
        except BaseException:
            del sys.modules[spec.name]
            raise
        return module

    return load


@contextmanager
def _searched(folder: Path) -> Iterator[None]:
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))
