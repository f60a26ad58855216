"""Images to run through a network: the shipped ones, or any IDX file."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from bfpsim.workloads.idx import read_idx
from bfpsim.workloads.layer import WorkloadError
from bfpsim.workloads.network import Network
from bfpsim.workloads.shipped import shipped_images


class Images(NamedTuple):
    """pixels: uint8 (n, rows, columns); labels: (n,), or None if unknown."""

    pixels: NDArray[np.uint8]
    labels: NDArray[np.uint8] | None


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
