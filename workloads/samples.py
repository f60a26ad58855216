"""Arrays by name in numpy's .npz files: inputs of any network, what they should give, images."""

from __future__ import annotations

import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bfpsim.workloads.checkpoint import normalise
from bfpsim.workloads.graph.graph import Input
from bfpsim.workloads.images import most_unpacked, read_idx
from bfpsim.workloads.layer import WorkloadError
from bfpsim.workloads.shipped import shipped_images

Arrays = dict[str, NDArray[Any]]


def read_npz(path: Path, names: Iterable[str] | None = None) -> Arrays:
    """Return the arrays of a numpy ``.npz`` file: all of them, or those of these names.

    Raises WorkloadError, naming the file, for one that cannot be read, holds something else or
    lacks a name, and for members that unpack to far more than the file weighs.
    """
    try:
        with path.open("rb") as stream:
            if stream.read(6) == b"\x93NUMPY":
                raise WorkloadError(f"{path}: is one array (.npy); allowed: an .npz file")
            stream.seek(0)
            with zipfile.ZipFile(stream) as packed:
                _check_members(path, packed)
            stream.seek(0)
            loaded = np.load(stream, allow_pickle=False)
            own = list(loaded)
            wanted = own if names is None else [*names]
            arrays = {name: loaded[name] for name in wanted if name in own}
    except WorkloadError:
        raise
    except Exception as error:  # whatever numpy and zipfile trip over in damaged bytes
        reason = (error.strerror if isinstance(error, OSError) else None) or error
        raise WorkloadError(
            f"{path}: cannot be read as an .npz file: {' '.join(str(reason).split())}"
        ) from None
    for name in wanted:
        if name not in arrays:
            others = ", ".join(map(repr, own[:8])) or "none"
            raise WorkloadError(
                f"{path}: has no array {name!r}, only {others}; allowed: "
                f"{' and '.join(map(repr, wanted))}"
            )
        if not isinstance(arrays[name], np.ndarray):
            raise WorkloadError(f"{path}: {name!r} is no array; allowed: what numpy.savez wrote")
    return arrays


def read_inputs(
    path: Path, inputs: Mapping[str, Input], count: int
) -> tuple[Arrays, NDArray[Any] | None]:
    """Return the first samples of a graph's inputs from an ``.npz`` file, and ``labels`` if any.

    inputs: of the graph; each is an array of its name, samples along the first axis

    Raises WorkloadError as `read_npz`, for arrays that are no inputs, and for too few samples.
    """
    arrays = read_npz(path)
    labels = arrays.pop("labels", None) if "labels" not in inputs else None
    missing = [name for name in inputs if name not in arrays]
    others = [name for name in arrays if name not in inputs]
    if missing or others:
        wrong = f"has no array {missing[0]!r}" if missing else f"has an array {others[0]!r}"
        raise WorkloadError(
            f"{path}: {wrong}; allowed: {', '.join(map(repr, inputs))}, and 'labels'"
        )
    for name, own in inputs.items():
        array, batch = arrays[name], own.shape[:1]
        if array.ndim != len(own.shape) or array.shape[1:] != own.shape[1:]:
            allowed = ", ".join(map(str, ("any", *own.shape[1:])))
            raise WorkloadError(f"{path}: {name!r} is {array.shape}; allowed: ({allowed})")
        if batch and (count > len(array) or count % batch[0]):
            raise WorkloadError(
                f"{path}: {count} samples asked for; allowed: 1..{len(array)}, in batches of "
                f"{batch[0]}"
            )
        arrays[name] = array[:count] if batch else array
    if labels is not None and (labels.dtype.kind not in "iu" or labels.shape[:1] < (count,)):
        raise WorkloadError(
            f"{path}: labels {labels.dtype} {labels.shape}; allowed: integers, one per sample"
        )
    return arrays, None if labels is None else labels[:count]


def one_channel(
    inputs: Mapping[str, Input], images: str, labels: str | None, count: int
) -> tuple[Arrays, NDArray[Any] | None]:
    """Return the first images for a graph that reads one, of one channel, wherever that stands.

    images: "shipped", for those that come with the shipped networks, or an IDX file
    labels: an IDX file; the shipped images bring their own

    Raises WorkloadError for a graph that reads something else, and as `read_idx`.
    """
    if images == "shipped":
        pixels, own = shipped_images("resnet18-fashion")
    else:
        pixels, own = read_idx(images), None
    if labels is not None:
        own = read_idx(labels)
    shapes = [each.shape for each in inputs.values()]
    if len(shapes) != 1 or pixels.ndim != 3 or pixels.dtype != np.uint8:
        raise WorkloadError(
            f"{images}: images of shape {pixels.shape} for {len(shapes)} inputs; allowed: one "
            "input, or an .npz file of arrays named as the inputs"
        )
    size = tuple(extent for extent in shapes[0][1:] if extent > 1)
    if size != tuple(extent for extent in pixels.shape[1:] if extent > 1):
        raise WorkloadError(
            f"{images}: images of shape {pixels.shape} for an input {shapes[0]}; allowed: those of "
            "one channel with its extents, or an .npz file of arrays named as the inputs"
        )
    if not 1 <= count <= len(pixels) or count % shapes[0][0]:
        raise WorkloadError(
            f"{images}: {count} images asked for; allowed: 1..{len(pixels)}, in batches of "
            f"{shapes[0][0]}"
        )
    if own is not None and own.shape != pixels.shape[:1]:
        raise WorkloadError(
            f"{labels}: labels of shape {own.shape} for images of shape {pixels.shape}; allowed: "
            f"({len(pixels)},)"
        )
    values = normalise(pixels[:count]).reshape(count, *shapes[0][1:])
    return dict.fromkeys(inputs, values), None if own is None else own[:count]


def _check_members(path: Path, packed: zipfile.ZipFile) -> None:
    """Refuse what unpacks to far more than the file weighs."""
    most = most_unpacked(path.stat().st_size)
    for member in packed.infolist():
        if member.file_size > most:
            raise WorkloadError(
                f"{path}: {member.filename!r} unpacks to {member.file_size} bytes; allowed: at "
                f"most {most} in a file of this size"
            )
