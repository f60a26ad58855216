"""Weights from a user's own checkpoint into a torch module."""

from __future__ import annotations

import pickle
import re
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from bfpsim.wording import reason
from bfpsim.workloads.files.text import quote
from bfpsim.workloads.images import most_unpacked
from bfpsim.workloads.importers.torch.graph import unwrapped
from bfpsim.workloads.layer import WorkloadError

# Where training scripts keep the state dict in a file that holds more.
_INSIDE = ("state_dict", "model_state_dict", "model", "state_dict_ema", "model_ema")
_COMPILED = "_orig_mod."  # what torch.compile puts before the names of what it compiles
_AVERAGED = "n_averaged"  # what torch's averaged models have besides
_NEITHER = "is no safetensors file and no state dict of torch.save"
_ALLOWED = "what torch.save(module.state_dict(), FILE) writes"


def load_into(module: nn.Module, path: str | Path) -> None:
    """Load a safetensors file, or what ``torch.save`` wrote of a state dict, into a module.

    A state dict may stand under one of the usual keys (``state_dict``, ``model``, ...). What
    wrappers add to names (``module.``, ``_orig_mod.``) need not agree, nor what stands before all
    names alike, as Lightning's ``model.``. Nothing but tensors is unpickled.

    Raises WorkloadError, naming the file, if it cannot be read, tensors are missing, are not the
    module's, have another shape or no plain values, or hold NaN or infinity; the module is then as
    it was.
    """
    module = unwrapped(module)
    tensors = module.state_dict()
    state = _renamed(_read(Path(path)), tensors)
    faults = {
        "missing": tensors.keys() - state.keys(),
        "not its own": state.keys() - tensors.keys(),
    }
    for fault, names in faults.items():
        if names:
            some = ", ".join(map(_shown, sorted(names)[:8])) + (", ..." if len(names) > 8 else "")
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
        if own.layout != torch.strided or own.device.type != "cpu" or own.is_quantized:
            raise WorkloadError(f"{path}: tensor {name!r} is not dense; allowed: plain values")
        if own.is_complex() and not tensor.is_complex():
            raise WorkloadError(
                f"{path}: tensor {name!r} is {own.dtype}; allowed: {tensor.dtype}, or real numbers"
            )
        if own.is_floating_point() and not own.isfinite().all():
            bad = int((~own.isfinite()).sum())
            raise WorkloadError(
                f"{path}: tensor {name!r}: {bad} values are NaN or infinite; allowed: finite values"
            )
    module.load_state_dict(state)


def _renamed(state: dict[str, Tensor], wanted: Iterable[str]) -> dict[str, Tensor]:
    """Return a file's tensors under a module's names, if these differ by what wrappers add.

    Else the names are the file's.
    """
    own = {_inner(name): name for name in wanted}
    found = {_inner(name): tensor for name, tensor in state.items() if name != _AVERAGED}
    for _ in range(len(min(found, key=len, default="").split("."))):
        if own.keys() == found.keys():
            return {own[name]: tensor for name, tensor in found.items()}
        if len({name.partition(".")[0] for name in found}) != 1:
            break
        found = {name.partition(".")[2]: tensor for name, tensor in found.items()}
    return state


def _inner(name: str) -> str:
    return name.replace(_COMPILED, "")


def _shown(name: str) -> str:
    shown = quote(name)
    return name if shown == f"'{name}'" else shown


def _read(path: Path) -> dict[str, Tensor]:
    content: Any
    try:
        if path.suffix == ".safetensors":
            content = load_file(path)
        else:
            _check_unpacked(path)
            content = torch.load(path, map_location="cpu", weights_only=True)
    except WorkloadError:
        raise
    except OSError as error:
        raise WorkloadError(f"{path}: cannot be read: {reason(error)}") from None
    except pickle.UnpicklingError as error:
        # torch's own words advise to load the file with weights_only=False, which runs its code.
        other = re.search(r"GLOBAL ([\w.]+)", str(error))
        holds = f"holds {other[1]}, which is no tensor" if other else "holds more than tensors"
        raise WorkloadError(f"{path}: {_NEITHER}: {holds}; allowed: {_ALLOWED}") from None
    except Exception as error:  # whatever torch trips over in damaged bytes
        first = next(iter(str(error).splitlines()), "")
        wrong = "" if "weights_only" in first else f": {type(error).__name__} {first}".rstrip()
        raise WorkloadError(f"{path}: {_NEITHER}{wrong}; allowed: {_ALLOWED}") from None
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


def _check_unpacked(path: Path) -> None:
    """Refuse an archive that unpacks to far more than it weighs; torch packs nothing."""
    if not zipfile.is_zipfile(path):
        return
    with zipfile.ZipFile(path) as packed:
        unpacked = sum(member.file_size for member in packed.infolist())
    if unpacked > most_unpacked(path.stat().st_size):
        raise WorkloadError(f"{path}: unpacks to {unpacked} bytes; allowed: what torch.save wrote")
