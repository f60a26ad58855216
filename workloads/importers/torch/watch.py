"""A module watched as it runs: the random numbers that it draws, the values that decide its way."""

from __future__ import annotations

import inspect
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakIdKeyDictionary

_LIBRARY = str(Path(torch.__file__).parent)
_PACKAGE = str(Path(__file__).parent)


class Watch(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Watches the operations of a run.

    inputs: the tensors whose names `reads` gives
    draws: each operator that draws random numbers, and where the module calls it
    reads: for each value that Python reads (``if``, ``int``, ``range``), the inputs that it comes
        from and where, and where alone
    """

    def __init__(self, inputs: Mapping[str, Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.draws: list[str] = []
        self.reads: list[tuple[str, str]] = []
        self._sources: Any = WeakIdKeyDictionary()  # tensor -> names of inputs
        for name, tensor in inputs.items():
            self._sources[tensor] = {name}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        sources: set[str] = set()
        for tensor in _tensors((args, kwargs)):
            sources |= self._sources.get(tensor, set())
        for tensor in _tensors(result):
            self._sources[tensor] = sources | self._sources.get(tensor, set())
        if torch.Tag.nondeterministic_seeded in func.tags:
            self.draws.append(f"{func}{_place(traceback.extract_stack()[:-1])}")
        if func is torch.ops.aten._local_scalar_dense.default:
            names = ", ".join(repr(name) for name in sorted(sources)) or "its own tensors"
            where = _place(traceback.extract_stack()[:-1])
            self.reads.append((f"{names}{where}", where))
        return result


def watch(module: nn.Module, inputs: tuple[Tensor, ...]) -> Watch:
    """Run a module without gradients; what is seen until it fails, if it does."""
    names = inspect.signature(module.forward).parameters
    given = tuple(x.clone() for x in inputs)
    watched = Watch(dict(zip(names, given, strict=False)))
    try:
        with watched, torch.no_grad(), torch.random.fork_rng(devices=[]):
            module(*given)
    except Exception:  # whatever a module's own code raises
        pass
    return watched


def deciding_values(module: nn.Module, inputs: tuple[Tensor, ...], error: Exception) -> str:
    """Return whose values, and where, a forward goes by that failed as it was captured; or ""."""
    where = place(error)
    reads = watch(module, inputs).reads if where else []
    return next((read for read, line in reads if line == where), "")


def place(error: Exception) -> str:
    """Return where a module's own code raised: " (net.py:8: if x.sum() > 0:)", or ""."""
    return _place(traceback.extract_tb(error.__traceback__))


def _place(frames: list[traceback.FrameSummary]) -> str:
    """Return the innermost line that is neither torch's nor an importer's, but within these."""
    for frame in reversed(frames):
        if frame.filename.startswith(_PACKAGE):
            if frame.name == "__torch_function__":  # around each function that the module calls
                continue
            break
        if not frame.filename.startswith(_LIBRARY) and Path(frame.filename).suffix:
            line = f": {frame.line}" if frame.line else ""
            return f" ({Path(frame.filename).name}:{frame.lineno}{line})"
    return ""


def _tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]
