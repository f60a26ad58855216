"""Trained networks as torch modules."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from bfpsim.workloads.batch_norm import fold_batch_norm
from bfpsim.workloads.checkpoint import load_metadata, load_state
from bfpsim.workloads.layer import WorkloadError
from bfpsim.workloads.shipped import shipped_metadata, shipped_state
from bfpsim.workloads.training.family import FAMILIES


def shipped_module(name: str) -> nn.Module:
    """Return the shipped network of that name as it was trained, ready for evaluation.

    Batch normalisation is folded, and an ``nn.Identity`` stands in its place. Images are (N, 1, 28,
    28), as `workloads.normalise` makes them. Raises `WorkloadError` as `load_module`, and for a
    name for which no weights are shipped.
    """
    return _module(name, shipped_metadata(name), shipped_state(name))


def load_module(path: str | Path) -> nn.Module:
    """Return the network that `workloads.training.fashion` wrote, as `shipped_module` does.

    Raises `WorkloadError`, naming file and tensor, if the file cannot be read, does not say which
    network of which width it holds, or has not exactly that network's tensors.
    """
    return _module(str(path), load_metadata(path), load_state(path))


def _module(
    owner: str, metadata: Mapping[str, str], state: Mapping[str, NDArray[np.float32]]
) -> nn.Module:
    network, width = metadata.get("network", ""), metadata.get("width", "")
    if network not in FAMILIES:
        allowed = ", ".join(FAMILIES)
        raise WorkloadError(f"{owner}: metadata network={network!r} must be one of {allowed}")
    if not re.fullmatch("[1-9][0-9]{0,4}", width):
        raise WorkloadError(f"{owner}: metadata width={width!r} must be a whole number")
    try:
        with torch.device("meta"):  # shapes only: all values come from the file
            module = fold_batch_norm(FAMILIES[network].build(int(width)))
    except WorkloadError as error:
        raise WorkloadError(f"{owner}: {error}") from None
    _check_tensors(owner, module, state)
    tensors = {name: torch.from_numpy(tensor) for name, tensor in state.items()}
    module.load_state_dict(tensors, assign=True)
    return module.eval()


def _check_tensors(owner: str, module: nn.Module, state: Mapping[str, NDArray[np.float32]]) -> None:
    shapes = {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
    faults = {"missing": shapes.keys() - state.keys(), "not its own": state.keys() - shapes.keys()}
    for fault, names in faults.items():
        if names:
            raise WorkloadError(f"{owner}: tensors {fault}: {', '.join(sorted(names))}")
    for name, shape in shapes.items():
        if state[name].shape != shape:
            raise WorkloadError(f"{owner}: tensor {name!r} is {state[name].shape}, must be {shape}")
