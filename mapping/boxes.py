"""What a tile holds of each tensor: boxes of stored elements, and their size in bits."""

from functools import lru_cache
from typing import NamedTuple

from bfpsim.mapping.nest import Nest
from bfpsim.quant.formats import BFP, Format
from bfpsim.quant.formats.blocks import touched
from bfpsim.workloads import ConvLayer

Interval = tuple[int, int]


class Volume(NamedTuple):
    """Payload of a box or of its part, by kind [bit]."""

    mantissa: int
    exponent: int

    @property
    def bits(self) -> int:
        """Mantissas and exponents together."""
        return self.mantissa + self.exponent


class ActivationBox(NamedTuple):
    """A box of an (N, H, W, channels) tensor: half-open ranges, and the channels as intervals."""

    n: Interval
    h: Interval
    w: Interval
    channels: tuple[Interval, ...]

    @property
    def pixels(self) -> int:
        """Pixels in the box."""
        return _length(self.n) * _length(self.h) * _length(self.w)

    def volume(self, fmt: Format) -> Volume:
        """Mantissas of the elements and exponents of every block touched."""
        pixels, pixel = self.pixels, _pixel_volume(self.channels, fmt)
        return Volume(pixels * pixel.mantissa, pixels * pixel.exponent)


@lru_cache(maxsize=4096)
def _pixel_volume(channels: tuple[Interval, ...], fmt: Format) -> Volume:
    blocks = touched(channels, fmt.block_size) if isinstance(fmt, BFP) else 0
    return Volume(sum(map(_length, channels)) * fmt.mantissa_bits, blocks * fmt.exponent_bits)


class WeightBox(NamedTuple):
    """A box of (filters, C, R, S) weights: filters as intervals, whole R x S."""

    filters: tuple[Interval, ...]
    c: Interval
    positions: int
    depthwise: bool

    def volume(self, fmt: Format) -> Volume:
        """Mantissas of the elements and exponents of every block touched."""
        filters = sum(map(_length, self.filters))
        mantissa = filters * _length(self.c) * self.positions * fmt.mantissa_bits
        if not isinstance(fmt, BFP):
            return Volume(mantissa, 0)
        if self.depthwise:
            blocks = touched(self.filters, fmt.block_size)
        else:
            blocks = filters * touched((self.c,), fmt.block_size)
        return Volume(mantissa, blocks * fmt.exponent_bits)


def _length(interval: Interval) -> int:
    return interval[1] - interval[0]


def channel_intervals(group: Interval, inner: Interval, per_group: int) -> tuple[Interval, ...]:
    """The channels of a range of groups and a range inside each, as merged intervals."""
    if _length(inner) == per_group:
        return ((group[0] * per_group, group[1] * per_group),)
    return tuple((g * per_group + inner[0], g * per_group + inner[1]) for g in range(*group))


def input_rows(layer: ConvLayer, p: Interval) -> Interval:
    """Stored input rows that output rows `p` need: clipped, so padding is not among them."""
    top = layer.paddings[0]
    return _window(p, layer.strides[0], layer.R, layer.dilations[0], top, layer.height)


def input_cols(layer: ConvLayer, q: Interval) -> Interval:
    """Stored input columns that output columns `q` need, clipped."""
    left = layer.paddings[2]
    return _window(q, layer.strides[1], layer.S, layer.dilations[1], left, layer.width)


def _window(
    outputs: Interval, stride: int, taps: int, dilation: int, before: int, extent: int
) -> Interval:
    low = outputs[0] * stride - before
    high = (outputs[1] - 1) * stride - before + (taps - 1) * dilation + 1
    low, high = max(low, 0), min(high, extent)
    return (low, high) if low < high else (0, 0)


def input_box(nest: Nest, at: dict[str, int]) -> ActivationBox:
    """The box of I at tile numbers `at`."""
    layer = nest.layer
    return ActivationBox(
        nest.span("N", at["N"]),
        input_rows(layer, nest.span("P", at["P"])),
        input_cols(layer, nest.span("Q", at["Q"])),
        channel_intervals(nest.span("G", at["G"]), nest.span("C", at["C"]), layer.C),
    )


def output_box(nest: Nest, at: dict[str, int]) -> ActivationBox:
    """The box of O at tile numbers `at`."""
    return ActivationBox(
        nest.span("N", at["N"]),
        nest.span("P", at["P"]),
        nest.span("Q", at["Q"]),
        channel_intervals(nest.span("G", at["G"]), nest.span("K", at["K"]), nest.layer.K),
    )


def weight_box(nest: Nest, at: dict[str, int]) -> WeightBox:
    """The box of W at tile numbers `at`."""
    layer = nest.layer
    return WeightBox(
        channel_intervals(nest.span("G", at["G"]), nest.span("K", at["K"]), layer.K),
        nest.span("C", at["C"]),
        layer.R * layer.S,
        layer.C == 1,
    )
