"""Labelled images, to evaluate a module on and to train it with."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bfpsim.workloads.checkpoint import PIXEL_MEAN, PIXEL_STD
from bfpsim.workloads.images import read_idx
from bfpsim.workloads.layer import WorkloadError
from bfpsim.workloads.samples import read_npz
from bfpsim.workloads.shipped import shipped_images

ImageAxes = Literal["NHW", "NHWC", "NCHW"]
"""The order of the axes of stored images: n, rows, columns, channels."""

_CHANNELS = (1, 3)  # grey, RGB


class Batch(NamedTuple):
    """inputs: float32 (n, channels, H, W); labels: int64 (n,), each from 0."""

    inputs: Tensor
    labels: Tensor


class Dataset(Protocol):
    """Labelled images in a fixed order, all of one size, ready to go into a module."""

    def __len__(self) -> int: ...

    def batch(self, indices: Sequence[int]) -> Batch:
        """The images at these indices, each 0..len-1, in this order."""


def batches(dataset: Dataset, size: int) -> Iterator[Batch]:
    """All images in order, ``size`` at a time, fewer in the last batch.

    Raises WorkloadError for a size below 1.
    """
    if size < 1:
        raise WorkloadError(f"batch={size}; allowed: 1 or more")
    for start in range(0, len(dataset), size):
        yield dataset.batch(range(start, min(start + size, len(dataset))))


@dataclass(frozen=True, slots=True)
class Normalisation:
    """A module's normalisation of pixels: mean and divisor, one number per channel, or for all.

    Both are in the unit of pixels scaled to 0..1. Raises WorkloadError for numbers that are not
    finite, a std that is not above 0, or two lengths.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __post_init__(self) -> None:
        if not self.mean or len(self.mean) != len(self.std):
            raise WorkloadError(
                f"normalisation: {len(self.mean)} means and {len(self.std)} stds; allowed: as many "
                "of each, one for all channels or one for each"
            )
        for key, values in (("mean", self.mean), ("std", self.std)):
            for value in values:
                if not np.isfinite(value) or (key == "std" and value <= 0):
                    allowed = "finite numbers" + (" above 0" if key == "std" else "")
                    raise WorkloadError(f"normalisation: {key} {value}; allowed: {allowed}")

    def apply(self, pixels: NDArray[np.uint8] | NDArray[np.float32]) -> Tensor:
        """Return (pixels - mean) / std as float32, of pixels (n, channels, H, W).

        uint8 pixels are scaled from 0..255 to 0..1 first; float32 ones are taken as they are.

        Raises WorkloadError if there are neither as many channels as means, nor one mean.
        """
        if len(self.mean) not in (1, pixels.shape[1]):
            raise WorkloadError(
                f"normalisation: {len(self.mean)} means for images of {pixels.shape[1]} channels; "
                f"allowed: 1 or {pixels.shape[1]}"
            )
        mean, std = (
            np.asarray(each, np.float32).reshape(1, -1, 1, 1) for each in (self.mean, self.std)
        )
        scale = 255 if pixels.dtype == np.uint8 else 1
        # In numpy, so that it is `workloads.normalise` bit for bit on every processor.
        values = (pixels.astype(np.float32) / np.float32(scale) - mean) / std
        return torch.from_numpy(np.ascontiguousarray(values))


AS_STORED = Normalisation((0.0,), (1.0,))
"""Pixels as they are: 0..1 if stored in uint8."""
FASHION_MNIST = Normalisation((PIXEL_MEAN,), (PIXEL_STD,))
IMAGENET = Normalisation((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
"""What torchvision's and timm's convolutional networks were trained with, RGB."""


@dataclass(frozen=True, slots=True, eq=False)
class ArrayDataset:
    """Images in memory, normalised batch by batch.

    pixels: uint8 or float32 (n, channels, H, W)
    labels: integers (n,)
    classes: every label must be below it; None: any label from 0
    name: whose images they are, for error messages

    Raises WorkloadError for other types and shapes, no images, pixels that are NaN or infinite, or
    a label out of range.
    """

    pixels: NDArray[np.uint8] | NDArray[np.float32]
    labels: NDArray[np.integer[Any]]
    normalisation: Normalisation
    classes: int | None = None
    name: str = "dataset"

    def __post_init__(self) -> None:
        dtype, shape = self.pixels.dtype, self.pixels.shape
        if dtype not in (np.uint8, np.float32) or len(shape) != 4:
            raise WorkloadError(
                f"{self.name}: images {dtype} {shape}; allowed: uint8 or float32 with axes n, "
                "channels, H, W"
            )
        if 0 in shape:
            raise WorkloadError(
                f"{self.name}: images of shape {shape} hold no pixel; allowed: at least one image"
            )
        if not np.issubdtype(self.labels.dtype, np.integer) or self.labels.shape != shape[:1]:
            raise WorkloadError(
                f"{self.name}: labels {self.labels.dtype} {self.labels.shape} for {shape[0]} "
                f"images; allowed: integers ({shape[0]},)"
            )
        wrong = (self.labels < 0) | (
            self.labels >= (2**63 if self.classes is None else self.classes)
        )
        if wrong.any():
            at = int(wrong.argmax())
            allowed = "0 or more" if self.classes is None else f"0..{self.classes - 1}"
            raise WorkloadError(
                f"{self.name}: label {self.labels[at]} of image {at}; allowed: {allowed}"
            )
        if dtype == np.float32 and not np.isfinite(self.pixels).all():
            at = int((~np.isfinite(self.pixels)).any((1, 2, 3)).argmax())
            raise WorkloadError(
                f"{self.name}: image {at} holds NaN or infinity; allowed: finite pixels"
            )
        try:
            self.normalisation.apply(self.pixels[:1])  # refuses another number of channels
        except WorkloadError as error:
            raise WorkloadError(f"{self.name}: {error}") from None

    def __len__(self) -> int:
        return len(self.pixels)

    def batch(self, indices: Sequence[int]) -> Batch:
        """The images at these indices, in this order."""
        at = list(indices)
        labels = torch.from_numpy(self.labels[at].astype(np.int64))
        return Batch(self.normalisation.apply(self.pixels[at]), labels)


@dataclass(frozen=True, slots=True)
class _First:
    whole: Dataset
    count: int

    def __len__(self) -> int:
        return self.count

    def batch(self, indices: Sequence[int]) -> Batch:
        return self.whole.batch(indices)


def first(dataset: Dataset, count: int) -> Dataset:
    """The first ``count`` images, as a view.

    Raises WorkloadError if there are fewer, or for a count below 1.
    """
    if not 1 <= count <= len(dataset):
        raise WorkloadError(f"first {count} images asked for; allowed: 1..{len(dataset)}")
    return _First(dataset, count)


def shipped_test_images() -> ArrayDataset:
    """The first 1,000 test images of Fashion-MNIST, (1, 28, 28) each, normalised."""
    pixels, labels = shipped_images("resnet18-fashion")
    return ArrayDataset(
        pixels[:, np.newaxis], labels, FASHION_MNIST, 10, "Fashion-MNIST test images"
    )


def read_idx_dataset(
    images: str | Path,
    labels: str | Path,
    normalisation: Normalisation,
    classes: int | None = None,
) -> ArrayDataset:
    """Images and labels from two IDX files, plain or gzipped, as MNIST's are.

    images: (n, H, W)
    classes: as in `ArrayDataset`

    Raises WorkloadError, naming the file, for one that cannot be read or holds something else.
    """
    pixels, own = read_idx(images), read_idx(labels)
    if pixels.dtype != np.uint8 or pixels.ndim != 3:
        raise WorkloadError(f"{images}: {pixels.dtype} {pixels.shape}; allowed: uint8 (n, H, W)")
    name = f"{images} with {labels}"
    return ArrayDataset(pixels[:, np.newaxis], own, normalisation, classes, name)


def read_npz_dataset(
    path: str | Path,
    normalisation: Normalisation,
    classes: int | None = None,
    layout: ImageAxes | None = None,
) -> ArrayDataset:
    """Images and labels from the arrays ``images`` and ``labels`` of a numpy ``.npz`` file.

    normalisation: float32 images that are normalised already want `AS_STORED`
    classes: as in `ArrayDataset`
    layout: the axes of ``images``. None: three axes are NHW; of four, the channels are axis 1 or
        axis 3, whichever alone has 1 or 3 entries

    Raises WorkloadError, naming the file, for one that cannot be read or holds something else, and
    where both axes or neither could be the channels.
    """
    arrays = read_npz(Path(path), ("images", "labels"))
    pixels = _channels_first(str(path), arrays["images"], layout)
    return ArrayDataset(pixels, arrays["labels"], normalisation, classes, str(path))


def _channels_first(owner: str, images: NDArray[Any], layout: ImageAxes | None) -> NDArray[Any]:
    if layout is not None and images.ndim != len(layout):
        raise WorkloadError(
            f"{owner}: images of shape {images.shape} are not {layout}; allowed: {len(layout)} axes"
        )
    if images.ndim == 3:
        return images[:, np.newaxis]
    if images.ndim == 4 and layout is None:
        second, last = images.shape[1] in _CHANNELS, images.shape[3] in _CHANNELS
        if second == last:
            raise WorkloadError(
                f"{owner}: images of shape {images.shape}: {'both' if second else 'neither'} of "
                "axes 1 and 3 could be 1 or 3 channels; allowed: layout NHWC or NCHW said"
            )
        layout = "NCHW" if second else "NHWC"
    return np.moveaxis(images, 3, 1) if layout == "NHWC" else images
