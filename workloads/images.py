"""Images to run through a network: the shipped ones, or any file in the format of MNIST, IDX.

Fashion-MNIST is published in it, too, plain or gzipped.
"""

from __future__ import annotations

import gzip
import math
import os
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, NamedTuple, cast

import numpy as np
from numpy.typing import NDArray

from bfpsim.wording import reason
from bfpsim.workloads.layer import WorkloadError
from bfpsim.workloads.network import Network
from bfpsim.workloads.shipped import shipped_images

# Third byte of the magic number -> big-endian element type.
_ELEMENT_TYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
_MOST_AXES = 8
_FURTHER = 1 << 16  # bytes behind the promised ones that are counted
_SMALL = 1 << 28  # bytes that are unpacked whatever they come from
_MOST_RATIO = 100  # of unpacked to packed bytes, beyond that
_GZIP_MAGIC = b"\x1f\x8b"
_IMAGE_SHAPE = (28, 28)
_CLASSES = 10


class Images(NamedTuple):
    """pixels: uint8 (n, rows, columns); labels: (n,), or None if unknown."""

    pixels: NDArray[np.uint8]
    labels: NDArray[np.uint8] | None


@dataclass(frozen=True, slots=True)
class FashionMnist:
    """Fashion-MNIST: images uint8 (n, 28, 28), 0 is background; labels uint8 (n,), 0 to 9."""

    train_images: NDArray[np.uint8]
    train_labels: NDArray[np.uint8]
    test_images: NDArray[np.uint8]
    test_labels: NDArray[np.uint8]


def read_images(network: Network, images: str, labels: str | None, count: int) -> Images:
    """The first `count` images for a network with one input channel.

    images: "shipped", for those that come with a shipped network, or an IDX file
    labels: an IDX file; the shipped images bring their own

    Raises WorkloadError for unreadable files, images of another size, too few images, or labels
    that are not one per image.
    """
    own: NDArray[np.uint8] | None = None
    if images == "shipped":
        pixels, own = shipped_images(network.name)
    else:
        pixels = read_idx(images)
    if labels is not None:
        own = read_idx(labels)
        if own.shape != pixels.shape[:1]:
            raise WorkloadError(
                f"{labels}: labels of shape {own.shape} for images of shape {pixels.shape}; "
                f"allowed: ({len(pixels)},)"
            )
    _, rows, cols, channels = network.shape(network.nodes[0].name)
    if channels != 1 or pixels.ndim != 3 or pixels.shape[1:] != (rows, cols):
        raise WorkloadError(
            f"{images}: images of shape {pixels.shape} for {network.name}, which reads "
            f"{rows}x{cols} pixels of {channels} channels; allowed: (any, {rows}, {cols}) for a "
            "network that reads one channel"
        )
    if not 1 <= count <= len(pixels):
        raise WorkloadError(f"{images}: {count} images asked for; allowed: 1..{len(pixels)}")
    return Images(pixels[:count], None if own is None else own[:count])


def read_idx(path: str | Path) -> NDArray[Any]:
    """Return the array stored in an IDX file, in the machine's byte order.

    Raises `WorkloadError`, naming the file, if it cannot be read, its gzip wrapping is corrupt or
    holds far more than it weighs, it is not IDX, an extent is 0, or it holds fewer or more bytes
    than its header promises.
    """
    path = Path(path)
    try:
        with _opened(path) as (stream, most):
            return _read_idx(path, stream, most)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise WorkloadError(f"{path}: corrupt gzip file: {error}") from None
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        if isinstance(error, WorkloadError):
            raise
        raise WorkloadError(f"{path}: cannot be read: {reason(error)}") from None


def _read_idx(path: Path, stream: IO[bytes], most: int) -> NDArray[Any]:
    start = stream.read(4)
    if len(start) < 4 or start[:2] != b"\0\0":
        raise WorkloadError(f"{path}: not an IDX file: starts with {start!r}, must with two zeros")
    code, ndim = start[2], start[3]
    if code not in _ELEMENT_TYPES:
        known = ", ".join(f"0x{known:02x}" for known in _ELEMENT_TYPES)
        raise WorkloadError(f"{path}: IDX type code 0x{code:02x} must be one of {known}")
    extents = stream.read(4 * ndim)
    if ndim == 0 or len(extents) < 4 * ndim:
        raise WorkloadError(f"{path}: IDX header of {ndim} dimensions is empty or cut short")
    shape = tuple(int(extent) for extent in np.frombuffer(extents, ">u4"))
    if ndim > _MOST_AXES or 0 in shape:
        raise WorkloadError(
            f"{path}: IDX shape {shape[:8]}; allowed: at most {_MOST_AXES} extents, each from 1"
        )
    dtype = np.dtype(_ELEMENT_TYPES[code])
    promised = math.prod(shape) * dtype.itemsize
    data = stream.read(min(promised, most) + 1)
    if len(data) > most:
        raise WorkloadError(
            f"{path}: unpacks to more than {most} bytes; allowed: {_SMALL}, or {_MOST_RATIO} times "
            "the file's size"
        )
    if len(data) != promised:
        held = len(data) + len(stream.read(_FURTHER))
        more = "at least " if held == len(data) + _FURTHER else ""
        raise WorkloadError(
            f"{path}: {more}{held} bytes of data, must be {promised} for shape {shape}"
        )
    return np.frombuffer(data, dtype).reshape(shape).astype(dtype.newbyteorder("="))


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


@contextmanager
def _opened(path: Path) -> Iterator[tuple[IO[bytes], int]]:
    """A file's content, out of its gzip wrapping if it has one, and how many bytes that may be."""
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        magic = file.read(len(_GZIP_MAGIC))
        file.seek(0)
        if path.suffix != ".gz" and magic != _GZIP_MAGIC:
            yield file, size
        else:
            with gzip.open(file) as unpacked:
                yield cast(IO[bytes], unpacked), most_unpacked(size)


def most_unpacked(packed: int) -> int:
    """Return how many bytes may come out of so many compressed ones.

    Images have seldom a tenth of their size; deflate's limit is a thousandth, which fills a memory.
    """
    return max(_SMALL, _MOST_RATIO * packed)
