"""The trained networks and test images that are shipped."""

from __future__ import annotations

from contextlib import AbstractContextManager
from importlib.resources import as_file, files
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bfpsim.workloads.catalog import load_workload
from bfpsim.workloads.checkpoint import (
    LayerWeights,
    load_images,
    load_metadata,
    load_state,
    load_weights,
)
from bfpsim.workloads.layer import WorkloadError

TRAINED = ("googlenet-fashion", "mobilenetv2-fashion", "resnet18-fashion", "vit-fashion")
"""Networks with trained weights, in a file of their name each; the test images are all one's."""

_SHIPPED_IMAGES = "fashion-mnist-test-1000"


def shipped_weights(name: str) -> dict[str, LayerWeights]:
    """Return the trained weights that are shipped for a network, as `load_weights` does."""
    with _shipped(name, name) as path:
        return load_weights(path, load_workload(name))


def shipped_state(name: str) -> dict[str, NDArray[np.float32]]:
    """Return all tensors of a network's shipped file, under its module's own names for them."""
    with _shipped(name, name) as path:
        return load_state(path)


def shipped_metadata(name: str) -> dict[str, str]:
    """Return how a network's shipped weights were trained, and their test accuracy."""
    with _shipped(name, name) as path:
        return load_metadata(path)


def shipped_images(name: str) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Return the test images uint8 (1000, 28, 28) and labels uint8 (1000,) for a network."""
    with _shipped(name, _SHIPPED_IMAGES, "images") as path:
        return load_images(path)


def _shipped(name: str, file: str, what: str = "weights") -> AbstractContextManager[Path]:
    if name not in TRAINED:
        raise WorkloadError(
            f"workload {name!r}: no {what} are shipped, only for {', '.join(TRAINED)}"
        )
    return as_file(files("bfpsim.workloads").joinpath("data", f"{file}.safetensors"))
