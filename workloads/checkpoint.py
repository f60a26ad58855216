"""Weights on disk, and the trained network and test images that are shipped.

A checkpoint is a safetensors file with ``LAYER.weight`` (G*K, C, R, S) and ``LAYER.bias`` (G*K,)
in float32 for every layer of a network, batch normalisation folded in.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from workloads.catalog import load_workload
from workloads.layer import WorkloadError
from workloads.network import Network

# Of all pixels of Fashion-MNIST's 60,000 training images, scaled to 0..1.
PIXEL_MEAN = 0.2860
PIXEL_STD = 0.3530

# Network -> file of weights, file of test images.
_SHIPPED = {
    "resnet18-fashion": ("resnet18-fashion.safetensors", "fashion-mnist-test-1000.safetensors"),
}


@dataclass(frozen=True, slots=True)
class LayerWeights:
    """One layer's ``weight`` float32 (G*K, C, R, S) and ``bias`` float32 (G*K,)."""

    weight: NDArray[np.float32]
    bias: NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class _TensorSpec:
    """What a tensor of a file must be: ``dtype`` in the format's own code, and shape."""

    dtype: str
    shape: tuple[int, ...]


_IMAGES_SPECS = {
    "images": _TensorSpec("U8", (1000, 28, 28)),
    "labels": _TensorSpec("U8", (1000,)),
}


def normalise(images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return uint8 images (n, H, W) as the shipped network wants them: float32 (n, H, W, 1).

    Pixels are scaled to 0..1, then to the training set's mean 0 and standard deviation 1.
    """
    if images.dtype != np.uint8 or images.ndim != 3:
        raise WorkloadError(f"images: {images.dtype} {images.shape} must be uint8 (n, H, W)")
    scaled = images[..., np.newaxis].astype(np.float32) / np.float32(255)
    return (scaled - np.float32(PIXEL_MEAN)) / np.float32(PIXEL_STD)


def save_weights(
    path: str | Path,
    network: Network,
    weights: Mapping[str, LayerWeights],
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write the weights of all of a network's layers; an existing file is replaced as a whole.

    Raises `WorkloadError` for weights that `load_weights` would refuse.
    """
    tensors: dict[str, NDArray[Any]] = {}
    for name, layer in weights.items():
        tensors[f"{name}.weight"], tensors[f"{name}.bias"] = layer.weight, layer.bias
    _save(path, tensors, _weight_specs(network), metadata)


def load_weights(path: str | Path, network: Network) -> dict[str, LayerWeights]:
    """Return layer name -> weights, for every layer of ``network`` in its order.

    Raises `WorkloadError`, naming file and tensor, if the file cannot be read, a tensor is missing
    or belongs to no layer, has another shape or type, or holds NaN or Inf.
    """
    tensors = _load(path, _weight_specs(network))
    return {
        layer.name: LayerWeights(tensors[f"{layer.name}.weight"], tensors[f"{layer.name}.bias"])
        for layer in network.layers
    }


def save_images(
    path: str | Path,
    images: NDArray[np.uint8],
    labels: NDArray[np.uint8],
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write 1,000 test images uint8 (1000, 28, 28) and labels uint8 (1000,)."""
    _save(path, {"images": images, "labels": labels}, _IMAGES_SPECS, metadata)


def load_images(path: str | Path) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Return what `save_images` wrote; raises `WorkloadError` as `load_weights` does."""
    tensors = _load(path, _IMAGES_SPECS)
    return tensors["images"], tensors["labels"]


def load_metadata(path: str | Path) -> dict[str, str]:
    """Return a file's metadata: how its contents were made, and what they reach."""
    try:
        with safe_open(path, framework="numpy") as file:
            return dict(file.metadata() or {})
    except (OSError, SafetensorError) as error:
        raise _unreadable(path, error) from None


def shipped_weights(name: str) -> dict[str, LayerWeights]:
    """Return the trained weights that are shipped for a network, layer name -> weights."""
    with _shipped(name, 0) as path:
        return load_weights(path, load_workload(name))


def shipped_metadata(name: str) -> dict[str, str]:
    """Return how a network's shipped weights were trained, and their test accuracy."""
    with _shipped(name, 0) as path:
        return load_metadata(path)


def shipped_images(name: str) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Return the test images uint8 (1000, 28, 28) and labels uint8 (1000,) for a network."""
    with _shipped(name, 1) as path:
        return load_images(path)


def _shipped(name: str, which: int) -> AbstractContextManager[Path]:
    if name not in _SHIPPED:
        raise WorkloadError(
            f"workload {name!r}: no weights are shipped, only for {', '.join(_SHIPPED)}"
        )
    return as_file(files("workloads").joinpath("data", _SHIPPED[name][which]))


def _weight_specs(network: Network) -> dict[str, _TensorSpec]:
    specs = {}
    for layer in network.layers:
        specs[f"{layer.name}.weight"] = _TensorSpec("F32", layer.weight_shape)
        specs[f"{layer.name}.bias"] = _TensorSpec("F32", layer.weight_shape[:1])
    return specs


def _save(
    path: str | Path,
    tensors: Mapping[str, NDArray[Any]],
    specs: Mapping[str, _TensorSpec],
    metadata: Mapping[str, str] | None,
) -> None:
    codes = {np.dtype(np.float32): "F32", np.dtype(np.uint8): "U8"}
    found = {
        name: _TensorSpec(codes.get(tensor.dtype, str(tensor.dtype)), tensor.shape)
        for name, tensor in tensors.items()
    }
    _check_specs(path, found, specs)
    for name, tensor in tensors.items():
        _check_finite(path, name, tensor)
    contiguous = {name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()}
    # Beside, then renamed: whoever is interrupted leaves the file that was there.
    partial = Path(f"{path}.partial")
    try:
        # Not `save_file`: its files are readable by their owner alone, whatever the umask.
        partial.write_bytes(save(contiguous, dict(metadata or {})))
        os.replace(partial, path)
    except (OSError, SafetensorError) as error:
        raise WorkloadError(f"{path}: cannot be written: {_one_line(error)}") from None


def _load(path: str | Path, specs: Mapping[str, _TensorSpec]) -> dict[str, NDArray[Any]]:
    try:
        with safe_open(path, framework="numpy") as file:
            slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
            found = {
                name: _TensorSpec(part.get_dtype(), tuple(part.get_shape()))
                for name, part in slices.items()
            }
            _check_specs(path, found, specs)
            tensors = {name: file.get_tensor(name) for name in specs}
    except (OSError, SafetensorError) as error:
        raise _unreadable(path, error) from None
    for name, tensor in tensors.items():
        _check_finite(path, name, tensor)
    return tensors


def _check_specs(
    path: str | Path, found: Mapping[str, _TensorSpec], specs: Mapping[str, _TensorSpec]
) -> None:
    for name in specs:
        if name not in found:
            raise WorkloadError(f"{path}: tensor {name!r} is missing")
    for name, spec in found.items():
        if name not in specs:
            raise WorkloadError(f"{path}: tensor {name!r} belongs to nothing that is expected")
        if spec != specs[name]:
            raise WorkloadError(
                f"{path}: tensor {name!r} is {spec.dtype} {spec.shape}, "
                f"must be {specs[name].dtype} {specs[name].shape}"
            )


def _check_finite(path: str | Path, name: str, tensor: NDArray[Any]) -> None:
    if not np.all(np.isfinite(tensor)):
        raise WorkloadError(f"{path}: tensor {name!r} holds NaN or Inf")


def _unreadable(path: str | Path, error: Exception) -> WorkloadError:
    return WorkloadError(f"{path}: cannot be read as a safetensors file: {_one_line(error)}")


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
