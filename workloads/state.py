"""Weights from a user's own checkpoint into a torch module."""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from bfpsim.workloads.layer import WorkloadError

# Where training scripts keep the state dict in a file that holds more.
_INSIDE = ("state_dict", "model_state_dict", "model", "state_dict_ema", "model_ema")
_PARALLEL = "module."  # what DataParallel puts before every name


def load_into(module: nn.Module, path: str | Path) -> None:
    """Load a safetensors file, or what ``torch.save`` wrote of a state dict, into a module.

    A state dict may stand under one of the usual keys (``state_dict``, ``model``, ...), and its
    names behind ``module.``. Nothing but tensors is unpickled.

    Raises WorkloadError, naming the file, if it cannot be read, tensors are missing, are not the
    module's, have another shape, or hold NaN or infinity; the module is then as it was.
    """
    state = _read(Path(path))
    if state and all(name.startswith(_PARALLEL) for name in state):
        state = {name[len(_PARALLEL) :]: tensor for name, tensor in state.items()}
    tensors = module.state_dict()
    faults = {
        "missing": tensors.keys() - state.keys(),
        "not its own": state.keys() - tensors.keys(),
    }
    for fault, names in faults.items():
        if names:
            some = ", ".join(sorted(names)[:8]) + (", ..." if len(names) > 8 else "")
            raise WorkloadError(
                f"{path}: {len(names)} tensors {fault} for {type(module).__name__}: {some}; "
                f"allowed: exactly its {len(tensors)}"
            )
    for name, tensor in tensors.items():
        own = state[name]
        if own.shape != tensor.shape:
            raise WorkloadError(
                f"{path}: tensor {name!r} is {tuple(own.shape)}; allowed: {tuple(tensor.shape)}"
            )
        if own.is_floating_point() and not own.isfinite().all():
            bad = int((~own.isfinite()).sum())
            raise WorkloadError(
                f"{path}: tensor {name!r}: {bad} values are NaN or infinite; allowed: finite values"
            )
    module.load_state_dict(state)


def _read(path: Path) -> dict[str, Tensor]:
    content: Any
    try:
        if path.suffix == ".safetensors":
            content = load_file(path)
        else:
            content = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise WorkloadError(f"{path}: cannot be read: {error.strerror or error}") from None
    except (
        SafetensorError, RuntimeError, ValueError, EOFError, KeyError,
        pickle.UnpicklingError, zipfile.BadZipFile,
    ) as error:  # fmt: skip
        first = next(iter(str(error).splitlines()), type(error).__name__)
        raise WorkloadError(
            f"{path}: is no safetensors file and no state dict of torch.save: {first}"
        ) from None
    for key in _INSIDE:
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
            break
    if not isinstance(content, Mapping) or not all(
        isinstance(name, str) and isinstance(tensor, Tensor) for name, tensor in content.items()
    ):
        raise WorkloadError(
            f"{path}: holds {type(content).__name__}; allowed: a state dict, name to tensor"
        )
    return dict(content)
