"""Weights and images on disk.

A checkpoint is a safetensors file in float32 with ``LAYER.weight`` and, if it has one,
``LAYER.bias`` (G*K,) for every layer of a network, batch normalisation folded in. A weight is
(G*K, C, R, S), or as torch has it: (K, C) of a linear layer, (G*K, C, S) of a 1-D convolution.
Tensors named after the network's host nodes may stand beside them: a layer_norm's weight and bias,
(C,) each; what an add_parameter adds, without a suffix, (1, H, W, C) or (1, tokens, C).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from bfpsim.workloads.files.atomic import write_atomic
from bfpsim.workloads.layer import ConvLayer, WorkloadError
from bfpsim.workloads.network import Network
from bfpsim.workloads.node import Node

if TYPE_CHECKING:
    from bfpsim.workloads.load import NetworkSource

# Of all pixels of Fashion-MNIST's 60,000 training images, scaled to 0..1.
PIXEL_MEAN = 0.2860
PIXEL_STD = 0.3530


@dataclass(frozen=True, slots=True)
class LayerWeights:
    """One layer's ``weight`` float32 (G*K, C, R, S) and ``bias`` float32 (G*K,).

    Of a host node, ``bias`` (C,) and ``weight`` (C,) if it is a layer_norm, (1, H, W, C) if an
    add_parameter.
    """

    weight: NDArray[np.float32]
    bias: NDArray[np.float32]


_Shapes = tuple[tuple[int, ...], ...]


@dataclass(frozen=True, slots=True)
class _TensorSpec:
    """What a tensor of a file must be: its type in the format's own code, and one of ``shapes``."""

    dtype: str
    shapes: _Shapes
    optional: bool = False


_Specs = Mapping[str, _TensorSpec]
_Headers = Mapping[str, tuple[str, tuple[int, ...]]]  # name -> dtype and shape

_IMAGES_SPECS = {
    "images": _TensorSpec("U8", ((1000, 28, 28),)),
    "labels": _TensorSpec("U8", ((1000,),)),
}

# Operations of the PE array whose second operand is stored, not computed.
_WEIGHTED = ("conv", "conv1d", "linear", "transposed")


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
    network: NetworkSource,
    weights: Mapping[str, LayerWeights],
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write the weights of all of a network's layers; an existing file is replaced as a whole.

    Raises `WorkloadError` for weights that `load_weights` would refuse.
    """
    network = _network(network)
    weight_names = {node.name: _weight_name(node) for node in network.nodes}
    tensors: dict[str, NDArray[Any]] = {}
    for name, own in weights.items():
        tensors[weight_names.get(name, f"{name}.weight")] = own.weight
        tensors[f"{name}.bias"] = own.bias
    _save(path, tensors, _weight_specs(network), metadata)


def load_weights(path: str | Path, network: NetworkSource) -> dict[str, LayerWeights]:
    """Return layer name -> weights, for every layer of ``network`` that has some, in its order.

    A layer without a bias has one of zeros. Products of two activations (``matmul``) have no
    weights. Host nodes that normalise or add a parameter are there, too, if the file has theirs;
    other tensors of host nodes, whose names are a node's or begin with it and a dot, are left
    alone.

    Raises `WorkloadError`, naming file and tensor, if the file cannot be read, a weight is missing,
    a tensor belongs to no layer and no host node, or has another shape or type, or holds NaN or
    Inf.
    """
    network = _network(network)
    hosts = tuple(node.name for node in network.nodes if node.op == "host")
    tensors = _load(path, _weight_specs(network), hosts)
    weights = {}
    for node, shapes in _weighted(network):
        weight = tensors.get(_weight_name(node))
        if weight is not None:
            none = np.zeros(network.shape(node.name)[3], np.float32)
            bias = tensors.get(f"{node.name}.bias", none)
            weights[node.name] = LayerWeights(weight.reshape(shapes[0]), bias)
    return weights


def save_state(
    path: str | Path, state: Mapping[str, NDArray[Any]], metadata: Mapping[str, str] | None = None
) -> None:
    """Write all of a module's tensors, float32, under the module's own names for them.

    Raises `WorkloadError` for a tensor of another type, or one that holds NaN or Inf.
    """
    specs = {name: _TensorSpec("F32", (tensor.shape,)) for name, tensor in state.items()}
    _save(path, state, specs, metadata)


def load_state(path: str | Path) -> dict[str, NDArray[np.float32]]:
    """Return what `save_state` wrote; raises `WorkloadError` where that would have."""
    try:
        with safe_open(path, framework="numpy") as file:
            shapes = {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise _unreadable(path, error) from None
    return _load(path, {name: _TensorSpec("F32", (tuple(each),)) for name, each in shapes.items()})


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
    """Return a file's metadata, sorted: how its contents were made, and what they reach."""
    try:
        with safe_open(path, framework="numpy") as file:
            return dict(sorted((file.metadata() or {}).items()))
    except (OSError, SafetensorError) as error:
        raise _unreadable(path, error) from None


def _weighted(network: Network) -> Iterator[tuple[Node, _Shapes]]:
    """Yield each node that has a weight, and the shapes that may have in a file; ours first."""
    for node in network.nodes:
        _, rows, cols, channels = network.shape(node.name)
        if node.layer is not None and node.op in _WEIGHTED:
            yield node, _layer_shapes(node.layer)
        elif node.function == "layer_norm":
            yield node, ((channels,),)
        elif node.function == "add_parameter":
            yield node, ((1, rows, cols, channels), (1, rows * cols, channels))


def _layer_shapes(layer: ConvLayer) -> _Shapes:
    filters, channels, rows, cols = layer.weight_shape
    shapes: _Shapes = (layer.weight_shape,)
    if rows == 1:
        shapes += ((filters, channels, cols),)
    if rows == cols == 1:
        shapes += ((filters, channels),)
    return shapes


def _weight_name(node: Node) -> str:
    return node.name if node.function == "add_parameter" else f"{node.name}.weight"


def _weight_specs(network: Network) -> dict[str, _TensorSpec]:
    specs = {}
    for node, shapes in _weighted(network):
        bias = ((network.shape(node.name)[3],),)
        specs[_weight_name(node)] = _TensorSpec("F32", shapes, optional=node.op == "host")
        specs[f"{node.name}.bias"] = _TensorSpec("F32", bias, optional=True)
    return specs


def _save(
    path: str | Path,
    tensors: Mapping[str, NDArray[Any]],
    specs: _Specs,
    metadata: Mapping[str, str] | None,
) -> None:
    codes = {np.dtype(np.float32): "F32", np.dtype(np.uint8): "U8"}
    headers = {
        name: (codes.get(tensor.dtype, str(tensor.dtype)), tensor.shape)
        for name, tensor in tensors.items()
    }
    _check_specs(path, headers, specs)
    if not tensors:
        raise WorkloadError(f"{path}: there are no tensors to write")
    for name, tensor in tensors.items():
        _check_finite(path, name, tensor)
    contiguous = {name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()}
    try:
        # Not `save_file`: its files are readable by their owner alone, whatever the umask.
        write_atomic(path, _in_order(save(contiguous, dict(metadata or {}))))
    except (OSError, SafetensorError) as error:
        raise WorkloadError(f"{path}: cannot be written: {_one_line(error)}") from None


def _in_order(data: bytes) -> bytes:
    """Return a safetensors file with its metadata sorted, which `save` writes in any order."""
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size])
    header["__metadata__"] = dict(sorted(header.get("__metadata__", {}).items()))
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    assert len(text) <= size  # spaces, as the format allows, fill up the rest
    return data[:8] + text.ljust(size) + data[8 + size :]


def _load(path: str | Path, specs: _Specs, owners: tuple[str, ...] = ()) -> dict[str, NDArray[Any]]:
    """Return the tensors of ``specs``; those named after one of the owners may be there too."""
    try:
        with safe_open(path, framework="numpy") as file:
            slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
            headers = {
                name: (part.get_dtype(), tuple(part.get_shape())) for name, part in slices.items()
            }
            own = {
                name: each
                for name, each in headers.items()
                if name in specs or not _belongs(name, owners)
            }
            _check_specs(path, own, specs)
            tensors = {name: file.get_tensor(name) for name in own}
    except (OSError, SafetensorError) as error:
        raise _unreadable(path, error) from None
    for name, tensor in tensors.items():
        _check_finite(path, name, tensor)
    return tensors


def _belongs(tensor: str, owners: tuple[str, ...]) -> bool:
    return any(tensor == owner or tensor.startswith(f"{owner}.") for owner in owners)


def _check_specs(path: str | Path, headers: _Headers, specs: _Specs) -> None:
    for name, spec in specs.items():
        if name not in headers and not spec.optional:
            raise WorkloadError(f"{path}: tensor {name!r} is missing")
    for name, (dtype, shape) in headers.items():
        if name not in specs:
            raise WorkloadError(f"{path}: tensor {name!r} belongs to nothing that is expected")
        spec = specs[name]
        if dtype != spec.dtype or shape not in spec.shapes:
            allowed = " or ".join(map(str, spec.shapes))
            raise WorkloadError(
                f"{path}: tensor {name!r} is {dtype} {shape}, must be {spec.dtype} {allowed}"
            )


def _check_finite(path: str | Path, name: str, tensor: NDArray[Any]) -> None:
    if not np.all(np.isfinite(tensor)):
        raise WorkloadError(f"{path}: tensor {name!r} holds NaN or Inf")


def _unreadable(path: str | Path, error: Exception) -> WorkloadError:
    return WorkloadError(f"{path}: cannot be read as a safetensors file: {_one_line(error)}")


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())


def _network(source: NetworkSource) -> Network:
    from bfpsim.workloads.load import load_workload  # which reads the weights of what it loads

    return load_workload(source)
