"""The movement rules tile by tile, in scalars: what `mapping.steps` must say in arrays.

An oracle of its own: spans, windows, boxes and the odometer are written out here once more, for
nests with one boundary. `test_movement.py` holds it against sets of elements.
"""

from collections.abc import Iterator
from functools import lru_cache
from typing import Literal, NamedTuple

from bfpsim.mapping.nest import Nest
from bfpsim.quant.formats import Format
from bfpsim.quant.formats.blocks import touched
from bfpsim.workloads import ConvLayer
from tests.storage import storage

Halo = Literal["sliding", "none"]
Interval = tuple[int, int]
DIMS = "NGKCPQ"
RELEVANT = {"I": "NGCPQ", "W": "GKC", "O": "NGKPQ"}


def span(nest: Nest, dim: str, index: int) -> Interval:
    """The half-open range of `dim` that its tile number `index` covers."""
    low = index * nest.tile[dim]
    return low, min(low + nest.tile[dim], nest.extents[dim])


def spans(nest: Nest, dim: str) -> list[Interval]:
    return [span(nest, dim, i) for i in range(nest.trips[dim])]


def period(nest: Nest, tensor: str) -> int:
    """Steps between changes of the tensor's loop indices (`steps` if they never change)."""
    inside = 1
    for loop in reversed(nest.loops):
        if loop.dim in RELEVANT[tensor]:
            return inside
        inside *= loop.trips
    return inside


def indices(nest: Nest, step: int) -> dict[str, int]:
    """Tile number of every dimension at a step."""
    at = dict.fromkeys(DIMS, 0)
    for loop in reversed(nest.loops):
        step, at[loop.dim] = divmod(step, loop.trips)
    return at


def odometer(nest: Nest) -> Iterator[dict[str, int]]:
    """Tile numbers of every step, in order."""
    return (indices(nest, step) for step in range(nest.steps))


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
    blocks = touched(channels, fmt.block_size) if fmt.exponent_bits else 0
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
        if not fmt.exponent_bits:
            return Volume(mantissa, 0)
        if self.depthwise:
            blocks = touched(self.filters, fmt.block_size)
        else:
            blocks = filters * touched((self.c,), fmt.block_size)
        if storage(fmt).by_tap:
            blocks *= self.positions
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
        span(nest, "N", at["N"]),
        input_rows(layer, span(nest, "P", at["P"])),
        input_cols(layer, span(nest, "Q", at["Q"])),
        channel_intervals(span(nest, "G", at["G"]), span(nest, "C", at["C"]), layer.C),
    )


def output_box(nest: Nest, at: dict[str, int]) -> ActivationBox:
    """The box of O at tile numbers `at`."""
    return ActivationBox(
        span(nest, "N", at["N"]),
        span(nest, "P", at["P"]),
        span(nest, "Q", at["Q"]),
        channel_intervals(span(nest, "G", at["G"]), span(nest, "K", at["K"]), nest.layer.K),
    )


def weight_box(nest: Nest, at: dict[str, int]) -> WeightBox:
    """The box of W at tile numbers `at`."""
    layer = nest.layer
    return WeightBox(
        channel_intervals(span(nest, "G", at["G"]), span(nest, "K", at["K"]), layer.K),
        span(nest, "C", at["C"]),
        layer.R * layer.S,
        layer.C == 1,
    )


class InputFetch(NamedTuple):
    """At `step`, `box` becomes resident; only `new` of it is fetched, the rest was there."""

    step: int
    box: ActivationBox
    new: ActivationBox


class WeightFetch(NamedTuple):
    """At `step`, `box` becomes resident and is fetched whole."""

    step: int
    box: WeightBox


class OutputVisit(NamedTuple):
    """`box` is resident during steps `begin .. end`.

    resumed: its reduction began at an earlier visit, so its partial sums are read back first
    finished: its reduction ends with this visit, so it leaves as a result, not as partial sums
    """

    begin: int
    end: int
    box: ActivationBox
    resumed: bool
    finished: bool


def input_fetches(nest: Nest, halo: Halo) -> Iterator[InputFetch]:
    """Every change of I's loop indices, in step order."""
    return (input_fetch(nest, halo, tile) for tile in range(nest.steps // period(nest, "I")))


def input_fetch(nest: Nest, halo: Halo, tile: int) -> InputFetch:
    """What change number `tile` of I's loop indices fetches.

    If exactly one index of I changed, it is P or Q, and it advanced by one tile, then the overlap
    with the resident box stays (`sliding`); every other change fetches the box whole. A box that
    clipping leaves unchanged is not fetched at all.
    """
    every = period(nest, "I")
    at = indices(nest, tile * every)
    box = new = input_box(nest, at)
    if tile > 0:
        before = indices(nest, (tile - 1) * every)
        resident = input_box(nest, before)
        changed = [dim for dim in RELEVANT["I"] if at[dim] != before[dim]]
        if box == resident:
            new = box._replace(h=(0, 0))
        elif halo == "sliding" and len(changed) == 1 and at[changed[0]] == before[changed[0]] + 1:
            if changed[0] == "P":
                new = box._replace(h=_beyond(box.h, resident.h))
            elif changed[0] == "Q":
                new = box._replace(w=_beyond(box.w, resident.w))
    return InputFetch(tile * every, box, new)


def weight_fetches(nest: Nest) -> Iterator[WeightFetch]:
    """Every change of W's loop indices, in step order."""
    return (weight_fetch(nest, tile) for tile in range(nest.steps // period(nest, "W")))


def weight_fetch(nest: Nest, tile: int) -> WeightFetch:
    """What change number `tile` of W's loop indices fetches."""
    step = tile * period(nest, "W")
    return WeightFetch(step, weight_box(nest, indices(nest, step)))


def output_visits(nest: Nest) -> Iterator[OutputVisit]:
    """Every stay of an O tile, in step order."""
    return (output_visit(nest, tile) for tile in range(nest.steps // period(nest, "O")))


def output_visit(nest: Nest, tile: int) -> OutputVisit:
    """Stay number `tile` of an O tile."""
    every = period(nest, "O")
    at = indices(nest, tile * every)
    return OutputVisit(
        tile * every,
        (tile + 1) * every,
        output_box(nest, at),
        resumed=at["C"] > 0,
        finished=_reduces_inside(nest) or at["C"] == nest.trips["C"] - 1,
    )


def _reduces_inside(nest: Nest) -> bool:
    """Whether the whole C loop runs during one visit of an O tile."""
    for loop in reversed(nest.loops):
        if loop.dim == "C":
            return True
        if loop.dim in RELEVANT["O"]:
            return False
    return False


def _beyond(new: Interval, old: Interval) -> Interval:
    """The part of `new` past the end of `old`."""
    low = max(new[0], old[1])
    return (low, new[1]) if low < new[1] else (0, 0)
