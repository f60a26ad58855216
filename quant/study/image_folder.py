"""Folders of image files, one folder per class, decoded batch by batch."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from bfpsim.quant.study.datasets import Batch, Normalisation
from bfpsim.workloads.layer import WorkloadError

SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png", ".webp")
_FORMATS = ("BMP", "JPEG", "PNG", "WEBP")
_MOST_PIXELS = 1 << 26
_MODES = {1: "L", 3: "RGB"}


@dataclass(frozen=True, slots=True)
class Fit:
    """Resizing and cropping to one size, as torchvision's evaluation does it.

    resize: length of the shorter side [pixel], by bilinear filtering (antialiased); the longer one
        keeps the proportions, rounded down. None: as it is
    crop: side of the square cut from the middle [pixel]; None: nothing is cut

    Raises WorkloadError for a length below 1, or a crop beyond the shorter side.
    """

    resize: int | None = 256
    crop: int | None = 224

    def __post_init__(self) -> None:
        for key, value in (("resize", self.resize), ("crop", self.crop)):
            if value is not None and value < 1:
                raise WorkloadError(f"{key}={value}; allowed: 1 or more, or None")
        if self.resize is not None and self.crop is not None and self.crop > self.resize:
            raise WorkloadError(f"crop={self.crop}; allowed: 1..{self.resize}, resize's length")

    def apply(self, image: Image.Image) -> Image.Image:
        """Resize and crop the image.

        Raises WorkloadError if it is smaller than the crop.
        """
        if self.resize is not None and self.resize != min(image.size):
            short = min(image.size)
            width, height = (self.resize * side // short for side in image.size)
            _check_pixels((width, height))
            image = image.resize((width, height), Image.Resampling.BILINEAR)
        if self.crop is None:
            return image
        width, height = image.size
        if self.crop > min(width, height):
            raise WorkloadError(
                f"{width}x{height} pixels for crop={self.crop}; allowed: at least "
                f"{self.crop}x{self.crop}, or resize"
            )
        # Halves go to the even number: torchvision rounds so.
        left, top = round((width - self.crop) / 2), round((height - self.crop) / 2)
        return image.crop((left, top, left + self.crop, top + self.crop))


@dataclass(frozen=True, slots=True)
class ImageFolder:
    """Image files with their labels; a `Dataset`.

    files: in the dataset's order
    labels: of each file, an index into ``classes``
    channels: 1 for grey (ITU-R 601 luma), 3 for RGB; transparency does not count
    """

    files: tuple[Path, ...]
    labels: tuple[int, ...]
    classes: tuple[str, ...]
    normalisation: Normalisation
    fit: Fit
    channels: Literal[1, 3]

    def __len__(self) -> int:
        return len(self.files)

    def batch(self, indices: Sequence[int]) -> Batch:
        """Decode the images at these indices, in this order.

        Raises WorkloadError, naming the file, for one that is no whole image of 8 bits per channel,
        and if two images, fitted, differ in size.
        """
        files = [self.files[index] for index in indices]
        pixels = [self._decode(path) for path in files]
        for path, each in zip(files, pixels, strict=True):
            if each.shape != pixels[0].shape:
                sizes = [f"{width}x{height}" for _, height, width in (each.shape, pixels[0].shape)]
                raise WorkloadError(
                    f"{path}: {sizes[0]} pixels; allowed: {sizes[1]}, as {files[0]}, or resize "
                    "and crop"
                )
        labels = torch.tensor([self.labels[index] for index in indices], dtype=torch.int64)
        return Batch(self.normalisation.apply(np.stack(pixels)), labels)

    def _decode(self, path: Path) -> NDArray[np.uint8]:
        """Read a file's pixels: uint8 (channels, H, W)."""
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # refused below
                opened = Image.open(path, formats=_FORMATS)
            with opened as image:
                _check_pixels(image.size)
                if image.mode.startswith(("I", "F")):
                    raise WorkloadError(f"mode {image.mode}; allowed: 8 bits per channel")
                fitted = self.fit.apply(image.convert(_MODES[self.channels]))
        except WorkloadError as error:
            raise WorkloadError(f"{path}: {error}") from None
        except UnidentifiedImageError:
            allowed = ", ".join(_FORMATS)
            raise WorkloadError(f"{path}: is no image; allowed: {allowed}") from None
        except Exception as error:  # whatever decoders trip over in damaged bytes
            reason = (error.strerror if isinstance(error, OSError) else None) or error
            wrong = " ".join(str(reason).split()) or type(error).__name__
            raise WorkloadError(f"{path}: cannot be read: {wrong}") from None
        return np.asarray(fitted).reshape(fitted.height, fitted.width, -1).transpose(2, 0, 1)


def _check_pixels(size: tuple[int, int]) -> None:
    """Raise WorkloadError for an image that would fill the memory, decoded or resized."""
    width, height = size
    if width * height > _MOST_PIXELS:
        raise WorkloadError(f"{width}x{height} pixels; allowed: at most {_MOST_PIXELS} in all")


def read_image_folder(
    root: str | Path,
    normalisation: Normalisation,
    fit: Fit = Fit(),
    channels: Literal[1, 3] = 3,
) -> ImageFolder:
    """The images ``root/CLASS/*``, labelled by class in the order of the classes' names.

    Files in a class follow their names too. Names that start with a dot, and files with other
    suffixes than those of `SUFFIXES` (in any case), are passed over. Nothing is decoded yet.

    Raises WorkloadError for a folder that cannot be read, that holds no class, or a class without
    an image; for other channels, or as many means that do not fit them.
    """
    root = Path(root)
    if channels not in _MODES:
        raise WorkloadError(f"channels={channels}; allowed: 1 (grey) or 3 (RGB)")
    normalisation.apply(np.zeros((1, channels, 1, 1), np.uint8))  # refuses other lengths
    files: list[Path] = []
    labels: list[int] = []
    classes = [path for path in _entries(root) if path.is_dir()]
    if not classes:
        raise WorkloadError(f"{root}: has no folder; allowed: one folder of images per class")
    for label, folder in enumerate(classes):
        own = [path for path in _entries(folder) if path.suffix.lower() in SUFFIXES]
        if not own:
            raise WorkloadError(f"{folder}: has no image; allowed: files {', '.join(SUFFIXES)}")
        files += own
        labels += [label] * len(own)
    names = tuple(path.name for path in classes)
    return ImageFolder(tuple(files), tuple(labels), names, normalisation, fit, channels)


def _entries(folder: Path) -> list[Path]:
    try:
        return sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    except OSError as error:
        raise WorkloadError(f"{folder}: cannot be read: {error.strerror}") from None
