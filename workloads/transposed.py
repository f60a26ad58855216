"""Transposed convolutions as ordinary ones: one per phase of the stride.

Output o of a transposed convolution with stride s and padding p takes the taps t with
t = o + p (mod s). Outputs of one remainder (a phase) are therefore an ordinary convolution of
stride 1 with every s-th tap, reversed; no zero is stuffed in, fetched or multiplied. Phases that
read the same window are one layer with so many times the filters: where kernel = stride, all are.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bfpsim.workloads.layer import (
    ConvLayer,
    Pair,
    Shape,
    WorkloadError,
    four_sides,
    integer,
    pair,
)

_MOST_PHASES = 2**16


@dataclass(frozen=True, slots=True)
class Phase:
    """Phases that are one ``layer``: their filters stand, group by group, one behind another.

    ``offsets`` are the (row, column) of each one's first output, ``taps`` of each one's first tap,
    ``stride`` the step between outputs and between taps; ``crop`` is (first row, past the last,
    first column, past the last) of the input where the layer reads less than the whole of it.
    """

    layer: ConvLayer
    offsets: tuple[Pair, ...]
    taps: tuple[Pair, ...]
    stride: Pair
    crop: Shape | None

    def weight(self, weight: NDArray[Any]) -> NDArray[Any]:
        """Return the layer's weight (G*K, C, R, S) from torch's (channels in, K, rows, columns).

        Torch's K is output channels per group.
        """
        groups, (sr, sc) = self.layer.G, self.stride
        grouped = weight.reshape(groups, self.layer.C, *weight.shape[1:])
        parts = [grouped[:, :, :, r::sr, c::sc][..., ::-1, ::-1] for r, c in self.taps]
        stacked = np.concatenate(parts, axis=2)  # (G, C, phases * K, R, S)
        return np.ascontiguousarray(stacked.swapaxes(1, 2)).reshape(self.layer.weight_shape)


@dataclass(frozen=True, slots=True)
class _Window:
    """What one phase does along one axis."""

    outputs: int
    taps: int
    before: int
    after: int
    first: int  # of the input that is read
    last: int


def phases(
    name: str,
    input_shape: Shape,
    out_channels: int,
    kernel: int | Pair,
    stride: int | Pair,
    padding: int | Pair | Shape = 0,
    output_padding: int | Pair = 0,
    groups: int = 1,
) -> tuple[tuple[Phase, ...], Shape]:
    """Return the ordinary convolutions of a transposed one, and its output shape (N, H, W, C).

    All as torch's ``ConvTranspose2d``, but that ``padding``, what is cut off the output, may also
    be (top, bottom, left, right); ``out_channels`` are those of all groups together. The layers are
    named ``name``, or ``name.phase0``, ``name.phase1``, ... if there are several.
    Raises `WorkloadError` for sizes out of range or an output without a row or column.
    """
    owner = f"layer {name!r}"
    kernels, strides = pair(owner, "kernel", kernel), pair(owner, "stride", stride)
    top, bottom, left, right = four_sides(owner, padding)
    pads = top, left
    extra = pair(owner, "output_padding", output_padding, least=0)
    N, H, W, channels = input_shape
    for what, count in (("channels in", channels), ("out_channels", out_channels)):
        if integer(owner, what, count) % integer(owner, "groups", groups):
            raise WorkloadError(f"{owner}: groups={groups} must divide the {count} {what}")
    extents = [
        (extent - 1) * step - cut + taps + more
        for extent, step, cut, taps, more in zip(
            (H, W), strides, (top + bottom, left + right), kernels, extra, strict=True
        )
    ]
    if min(extents) < 1:
        raise WorkloadError(
            f"{owner}: output of {extents[0]} x {extents[1]} must be at least 1 x 1: input "
            f"{H} x {W}, kernel {kernels}, stride {strides}, padding "
            f"{(top, bottom, left, right)}"
        )
    alike: dict[tuple[_Window, _Window], list[Pair]] = {}
    reached = [
        _reached(extent, taps, step, pad)
        for extent, taps, step, pad in zip(extents, kernels, strides, pads, strict=True)
    ]
    if math.prod(map(len, reached)) > _MOST_PHASES:
        raise WorkloadError(
            f"{owner}: has {' x '.join(str(len(each)) for each in reached)} phases; allowed: "
            f"{_MOST_PHASES}"
        )
    for offset in product(reached[0], reached[1]):
        rows, cols = (
            _window(extent, inputs, taps, step, pad, start)
            for extent, inputs, taps, step, pad, start in zip(
                extents, (H, W), kernels, strides, pads, offset, strict=True
            )
        )
        if rows is not None and cols is not None:  # else taps reach the padding alone: zeros
            alike.setdefault((rows, cols), []).append(offset)
    parts = []
    for number, ((rows, cols), offsets) in enumerate(alike.items()):
        whole = (rows.first, rows.last, cols.first, cols.last) == (0, H, 0, W)
        layer = ConvLayer(
            name if len(alike) == 1 else f"{name}.phase{number}",
            K=out_channels // groups * len(offsets),
            C=channels // groups,
            P=rows.outputs,
            Q=cols.outputs,
            R=rows.taps,
            S=cols.taps,
            N=N,
            G=groups,
            padding=(rows.before, rows.after, cols.before, cols.after),
            H=rows.last - rows.first,
            W=cols.last - cols.first,
        )
        crop = None if whole else (rows.first, rows.last, cols.first, cols.last)
        taps = tuple(((r + pads[0]) % strides[0], (c + pads[1]) % strides[1]) for r, c in offsets)
        parts.append(Phase(layer, tuple(offsets), taps, strides, crop))
    return tuple(parts), (N, extents[0], extents[1], out_channels)


def _reached(extent: int, kernel: int, stride: int, pad: int) -> Sequence[int]:
    """Return the offsets of the phases along an axis that a tap reaches; others are zeros."""
    if kernel >= stride:
        return range(min(stride, extent))
    if kernel > _MOST_PHASES:
        return range(kernel)
    offsets = ((tap - pad) % stride for tap in range(kernel))
    return sorted(offset for offset in offsets if offset < extent)


def _window(
    extent: int, inputs: int, kernel: int, stride: int, pad: int, offset: int
) -> _Window | None:
    """Return what the outputs offset, offset + stride, ... read along an axis; None: nothing."""
    outputs = (extent - offset + stride - 1) // stride
    start, tap = divmod(offset + pad, stride)
    taps = (kernel - tap + stride - 1) // stride
    first, last = start - taps + 1, start + outputs  # of the padded input, past the last
    low, high = max(0, first), min(inputs, last)
    if taps < 1 or low >= high:
        return None
    return _Window(outputs, taps, low - first, last - high, low, high)
