"""Networks from torch modules."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, fx, nn

from bfpsim.workloads.graph.graph import Input
from bfpsim.workloads.importers.draft import Imported
from bfpsim.workloads.importers.torch.export import aten, constants, first_line
from bfpsim.workloads.importers.torch.graph import Captured, capture, copied
from bfpsim.workloads.importers.torch.operations import (
    OperationDraft,
    append_layer,
    append_operation,
    zero_padding,
)
from bfpsim.workloads.importers.torch.run import TorchOperation
from bfpsim.workloads.importers.view import Arrangement
from bfpsim.workloads.layer import WorkloadError

Inputs = Mapping[str, Sequence[int] | NDArray[Any] | Tensor]
"""Argument of a module's forward -> its shape as torch has it, or its value where that matters."""

# What reads three dimensions as (N, C, L), where others read them as tokens (N, T, C).
_SIGNALS = (
    aten.conv1d.default, aten.conv_transpose1d.default, aten.max_pool1d.default,
    aten.avg_pool1d.default, aten.batch_norm.default,
)  # fmt: skip


_HALF = (torch.float16, torch.bfloat16)


def import_torch(module: nn.Module, shapes: Inputs | None) -> Imported:
    """Return a module in evaluation mode as a network named as its class, and its weights.

    ``shapes`` gives the forward's arguments in torch's order of dimensions, NCHW for images;
    arguments with a default may be left out from some place on. A shape stands for random values
    of the parameters' type; token numbers and the like must be given as a tensor. The module stays
    as it is; one in half precision is imported as float32 if it computes in that, too.

    Layers bear the names of their submodules (`torch.sites.Site`), and batch normalisation is
    folded into them where it can be. Nodes are (N, H, W, C): tensors of rank 4 are taken for NCHW,
    of rank 3 for tokens (N, T, C) at (N, T, 1, C) or, where a 1-D convolution reads an input, for
    (N, C, L) at (N, 1, L, C), of rank 2 for (N, C) at (N, 1, 1, C), of rank 1 for (C,), of higher
    rank for (first, rest, last) at (first, rest, 1, last), unless what reads and makes them says
    otherwise. Transposing and reshaping cost nothing as long as a layer finds its channels where
    they are held (`importers.view`); otherwise the host's ``permute`` stands before it. What is no
    kind of layer is the host's, with torch's name for it and its multiply-accumulates. Parameters
    are no nodes, but for ``parameter`` where one is multiplied as an activation. Several outputs
    are gathered by a last host node, ``outputs``.

    Raises `WorkloadError` if ``shapes`` does not fit the forward's arguments, for what
    `torch.graph.capture` raises it, or if weights are not finite.
    """
    module = copied(module)
    name = type(module).__name__
    captured, titles = _captured(module, shapes or {})
    leaves = [
        path
        for path, part in module.named_modules()
        if path and type(part).__module__.startswith("torch.nn") and not any(part.children())
    ]
    draft = OperationDraft(name, captured, leaves)
    graph = captured.module.graph
    fixed = constants(graph)
    sites = {site.node: site for site in captured.sites}
    names = iter(titles)
    inputs: dict[str, Input] = {}
    for node in graph.nodes:
        if node.op == "placeholder":
            _append_input(draft, node, next(names), inputs)
        elif node.name in sites:
            append_layer(draft, sites[node.name], node)
        elif node.op == "output":
            _append_outputs(draft, node)
        elif node not in fixed and node.name in captured.shapes and zero_padding(node) is None:
            append_operation(draft, node)
        elif node not in fixed and node.name not in captured.shapes and node.op == "call_function":
            draft.note(node, TorchOperation(node))  # several results at once
    outputs = [draft.inputs.get(x, x.name) for x in graph.output_node().all_input_nodes]
    return draft.finish(inputs, outputs, draft.constants)


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
    with _search_path(Path.cwd() if path is None else path.resolve().parent):
        load = _package(place) if path is None else _file(path)
        content = _attempt(reference, f"importing {place}", load)
        if not hasattr(content, name):
            raise WorkloadError(f"workload {reference!r}: {place} has no attribute {name!r}")
        module = getattr(content, name)
        if callable(module) and not isinstance(module, nn.Module):
            module = _attempt(reference, f"{name}()", module)
    if not isinstance(module, nn.Module):
        raise WorkloadError(
            f"workload {reference!r}: {name} gives {type(module).__name__}, must be a "
            "torch.nn.Module or a function without parameters that returns one"
        )
    return module


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
    names = [name for name in arguments if name in shapes]
    for name, needed in arguments.items():
        if name not in shapes and (needed or name in list(arguments)[: len(names)]):
            raise WorkloadError(
                f"{owner}: shapes must give {name!r}; its forward's arguments are {allowed}"
            )
    types = (each.dtype for each in module.parameters() if each.is_floating_point())
    dtype, generator = next(types, torch.float32), torch.Generator().manual_seed(0)
    return names, tuple(_tensor(owner, name, shapes[name], dtype, generator) for name in names)


def _tensor(
    owner: str,
    name: str,
    shape: Sequence[int] | NDArray[Any] | Tensor,
    dtype: torch.dtype,
    generator: torch.Generator,
) -> Tensor:
    if isinstance(shape, Tensor):
        return shape
    if isinstance(shape, np.ndarray):
        return torch.from_numpy(shape)
    extents = list(shape)
    if not all(isinstance(extent, int) and extent > 0 for extent in extents):
        raise WorkloadError(f"{owner}: shape {tuple(extents)} of {name!r} must be of ints >= 1")
    return torch.randn(extents, generator=generator).to(dtype)


def _captured(module: nn.Module, shapes: Inputs) -> tuple[Captured, list[str]]:
    """Capture the module; return the names of its inputs, too.

    An error of one with embeddings says how to give token numbers.
    """
    titles, inputs = _inputs(module, shapes)
    if any(each.dtype in _HALF for each in (*module.parameters(), *module.buffers(), *inputs)):
        try:
            return capture(_single(copied(module)), tuple(map(_single, inputs))), titles
        except WorkloadError:  # its forward insists on its own type
            pass
    try:
        return capture(module, inputs), titles
    except WorkloadError as error:
        embeds = any(isinstance(part, nn.Embedding | nn.EmbeddingBag) for part in module.modules())
        if not embeds or not all(x.is_floating_point() for x in inputs):
            raise
        raise WorkloadError(
            f"{error}; a shape stands for random floats: give token numbers as a tensor, from "
            "Python"
        ) from None


def _single(value: Any) -> Any:
    """Return a tensor, or a module changed in place, with float32 in the place of halves."""
    if isinstance(value, nn.Module):
        return value._apply(_single)  # type: ignore[no-untyped-call]
    return value.float() if value.dtype in _HALF else value


def _append_input(
    draft: OperationDraft, node: fx.Node, name: str, inputs: dict[str, Input]
) -> None:
    if node.users:
        dims = draft.dims(node)
        draft.inputs[node] = name
        inputs[name] = Input(dims, np.dtype(str(node.meta["val"].dtype).removeprefix("torch.")))
        signal = len(dims) == 3 and any(reader.target in _SIGNALS for reader in node.users)
        arrangement = (Arrangement.channels_first if signal else Arrangement.usual)(len(dims))
        draft.views[node] = draft.input(draft.names.free(name), dims, arrangement)


def _append_outputs(draft: OperationDraft, node: fx.Node) -> None:
    """See to it that the last node is the network's output."""
    nodes = [draft.views[x].node for x in node.all_input_nodes if x in draft.views]
    if not nodes:
        raise WorkloadError(f"module {draft.name}: no output depends on an input")
    if len(nodes) > 1 or nodes[0] != draft.last:
        sources = dict.fromkeys(nodes)
        draft.host(draft.names.free("outputs"), "outputs", sources, draft.shape(nodes[0]))


def _attempt(reference: str, what: str, call: Callable[[], Any]) -> Any:
    try:
        return call()
    except (Exception, SystemExit) as error:  # whatever the user's code raises
        raise WorkloadError(f"workload {reference!r}: {what} fails: {first_line(error)}") from None


def _package(name: str) -> Callable[[], Any]:
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
def _search_path(folder: Path) -> Iterator[None]:
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))
