"""The IDX format in which MNIST and Fashion-MNIST are published, plain or gzipped."""

from __future__ import annotations

import gzip
import math
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bfpsim.workloads.layer import WorkloadError

# Third byte of the magic number -> big-endian element type.
_ELEMENT_TYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
_GZIP_MAGIC = b"\x1f\x8b"
_IMAGE_SHAPE = (28, 28)
_CLASSES = 10


@dataclass(frozen=True, slots=True)
class FashionMnist:
    """Fashion-MNIST: images uint8 (n, 28, 28), 0 is background; labels uint8 (n,), 0 to 9."""

    train_images: NDArray[np.uint8]
    train_labels: NDArray[np.uint8]
    test_images: NDArray[np.uint8]
    test_labels: NDArray[np.uint8]


def read_idx(path: str | Path) -> NDArray[Any]:
    """Return the array stored in an IDX file, in the machine's byte order.

    Raises `WorkloadError`, naming the file, if it cannot be read, its gzip wrapping is corrupt, it
    is not IDX, or it holds fewer or more bytes than its header promises.
    """
    path = Path(path)
    data = _read(path)
    if len(data) < 4 or data[:2] != b"\0\0":
        raise WorkloadError(
            f"{path}: not an IDX file: starts with {data[:4]!r}, must with two zeros"
        )
    code, ndim = data[2], data[3]
    if code not in _ELEMENT_TYPES:
        known = ", ".join(f"0x{known:02x}" for known in _ELEMENT_TYPES)
        raise WorkloadError(f"{path}: IDX type code 0x{code:02x} must be one of {known}")
    start = 4 + 4 * ndim
    if ndim == 0 or len(data) < start:
        raise WorkloadError(f"{path}: IDX header of {ndim} dimensions is empty or cut short")
    shape = tuple(int(extent) for extent in np.frombuffer(data, ">u4", ndim, offset=4))
    dtype = np.dtype(_ELEMENT_TYPES[code])
    promised = math.prod(shape) * dtype.itemsize
    if len(data) - start != promised:
        raise WorkloadError(
            f"{path}: {len(data) - start} bytes of data, must be {promised} for shape {shape}"
        )
    return np.frombuffer(data, dtype, offset=start).reshape(shape).astype(dtype.newbyteorder("="))


def read_fashion_mnist(folder: str | Path) -> FashionMnist:
    """Return Fashion-MNIST from a folder with its four IDX files, each with or without ``.gz``.

    Raises `WorkloadError` for a file that is missing or does not hold what its name says.
    """
    train_images, train_labels = _images_and_labels(Path(folder), "train")
    test_images, test_labels = _images_and_labels(Path(folder), "t10k")
    return FashionMnist(train_images, train_labels, test_images, test_labels)


def _images_and_labels(folder: Path, part: str) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    images_path = _existing(folder, f"{part}-images-idx3-ubyte")
    labels_path = _existing(folder, f"{part}-labels-idx1-ubyte")
    images, labels = read_idx(images_path), read_idx(labels_path)
    if images.dtype != np.uint8 or images.shape[1:] != _IMAGE_SHAPE:
        raise WorkloadError(
            f"{images_path}: {images.dtype} {images.shape} must be uint8 (n, 28, 28)"
        )
    if labels.dtype != np.uint8 or labels.shape != images.shape[:1]:
        raise WorkloadError(
            f"{labels_path}: {labels.dtype} {labels.shape} must be uint8 {images.shape[:1]}, "
            "one label per image"
        )
    if np.any(labels >= _CLASSES):
        raise WorkloadError(f"{labels_path}: label {labels.max()} must be below {_CLASSES}")
    return images, labels


def _existing(folder: Path, name: str) -> Path:
    for path in (folder / name, folder / f"{name}.gz"):
        if path.is_file():
            return path
    raise WorkloadError(f"{folder}: has neither {name} nor {name}.gz")


def _read(path: Path) -> bytes:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise WorkloadError(f"{path}: cannot be read: {error.strerror}") from None
    if path.suffix != ".gz" and not data.startswith(_GZIP_MAGIC):
        return data
    try:
        return gzip.decompress(data)
    except (OSError, EOFError, zlib.error) as error:
        raise WorkloadError(f"{path}: corrupt gzip file: {error}") from None
