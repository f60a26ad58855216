"""The runs of a box are its bits, grouped by hand into maximal ranges."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bfpsim.quant.formats import BFP, ActivationLayout, Format, Plain, WeightLayout
from bfpsim.quant.formats.layout import Runs
from tests.quant.oracle import Field, padding, positions, ranges

Interval = tuple[int, int]
formats = st.one_of(
    st.builds(BFP, st.integers(5, 9), st.integers(1, 3), st.sampled_from([1, 2, 3, 4, 6, 8, 48])),
    st.builds(Plain, st.integers(2, 9)),
)
BURSTS = (1, 7, 8, 64, 256)


def as_ranges(runs: Runs) -> list[Interval]:
    return list(zip(runs.starts.tolist(), runs.ends.tolist(), strict=True))


def interval(rng: np.random.Generator, size: int) -> Interval:
    """Any part of an axis, mostly not empty."""
    low, high = sorted(int(i) for i in rng.integers(0, size + 1, 2))
    return (low, high) if low < high or rng.random() < 0.1 else (0, size)


def channel_sets(rng: np.random.Generator, groups: int, each: int) -> list[Interval]:
    """A part of each of some consecutive groups."""
    first, end = interval(rng, groups)
    low, high = interval(rng, each)
    return [(g * each + low, g * each + high) for g in range(first, end)]


def members(intervals: list[Interval]) -> list[int]:
    return [i for low, high in intervals for i in range(low, high)]


def activation_bits(layout: ActivationLayout, pixels: list, channels: list[int]) -> set[int]:
    """Bits of the elements and of the codes of every block they touch."""
    at, fmt = positions(layout.shape, layout.fmt, weights=False), layout.fmt
    fields = {Field(False, (*pixel, c)) for pixel in pixels for c in channels}
    if isinstance(fmt, BFP):
        fields |= {Field(True, (*p, c // fmt.block_size)) for p in pixels for c in channels}
    return {bit for field in fields for bit in at[field]}


def weight_bits(layout: WeightLayout, filters: list[int], channels: range) -> set[int]:
    at, fmt = positions(layout.shape, layout.fmt, weights=True), layout.fmt
    _, depth, r, s = layout.shape
    elements = list(product(filters, channels, range(r), range(s)))
    fields = {Field(False, element) for element in elements}
    if isinstance(fmt, BFP):
        size = fmt.block_size
        fields |= {
            Field(True, (k // size, 0, 0, 0) if depth == 1 else (k, c // size, 0, 0))
            for k, c, _, _ in elements
        }
    return {bit for field in fields for bit in at[field]}


def check(runs: Runs, bits: set[int]) -> None:
    expected = ranges(bits)
    assert as_ranges(runs) == expected
    assert runs.bits == len(bits)
    for burst in BURSTS:
        assert runs.burst_padding(burst) == padding(expected, burst)


@settings(max_examples=250, deadline=None, derandomize=True)
@given(st.integers(0, 2**32), formats)
def test_runs_of_activation_boxes(seed: int, fmt: Format) -> None:
    rng = np.random.default_rng(seed)
    groups, each = (int(i) for i in rng.integers(1, 6, 2))
    n, h, w = (int(i) for i in rng.integers(1, 4, 3))
    layout = ActivationLayout((n, h, w, groups * each), fmt)
    box = [interval(rng, size) for size in (n, h, w)]
    channels = channel_sets(rng, groups, each)
    pixels = list(product(*(range(*axis) for axis in box)))
    check(layout.runs(*box, channels), activation_bits(layout, pixels, members(channels)))


@settings(max_examples=250, deadline=None, derandomize=True)
@given(st.integers(0, 2**32), formats, st.booleans())
def test_runs_of_weight_boxes(seed: int, fmt: Format, depthwise: bool) -> None:
    rng = np.random.default_rng(seed)
    groups, each, depth = (int(i) for i in rng.integers(1, 5, 3))
    r, s = (int(i) for i in rng.integers(1, 4, 2))
    layout = WeightLayout((groups * each, 1 if depthwise else 3 * depth, r, s), fmt)
    filters = channel_sets(rng, groups, each)
    c = (0, 1) if depthwise else interval(rng, 3 * depth)
    check(layout.runs(filters, c), weight_bits(layout, members(filters), range(*c)))


def test_a_cut_block_brings_its_code_by_hand() -> None:
    """Blocks of 4 channels: code 0..3, mantissas of 5 bit from 3, next block at 23."""
    layout = ActivationLayout((1, 1, 1, 8), BFP(8, 3, 4))
    pixel = ((0, 1),) * 3
    assert as_ranges(layout.runs(*pixel, [(0, 2)])) == [(0, 13)]
    assert as_ranges(layout.runs(*pixel, [(2, 4)])) == [(0, 3), (13, 23)]
    assert as_ranges(layout.runs(*pixel, [(2, 5)])) == [(0, 3), (13, 31)]
    assert as_ranges(layout.runs(*pixel, [(0, 1), (3, 4)])) == [(0, 8), (18, 23)]


@pytest.mark.parametrize("cut", [0, 5, 10])
def test_an_empty_box_has_no_runs(cut: int) -> None:
    """Not even the code of the block it lies in."""
    fmt = BFP(8, 3, 4)
    activations, weights = ActivationLayout((2, 2, 2, 10), fmt), WeightLayout((2, 10, 3, 3), fmt)
    depthwise = WeightLayout((10, 1, 3, 3), fmt)
    for empty in (
        activations.runs((0, 2), (0, 2), (0, 2), [(cut, cut)]),
        activations.runs((0, 2), (1, 1), (0, 2), [(0, 10)]),
        weights.runs([(0, 2)], (cut, cut)),
        weights.runs([(1, 1)], (0, 10)),
        depthwise.runs([(cut, cut)], (0, 1)),
    ):
        assert as_ranges(empty) == []
        assert (empty.bits, empty.burst_padding(256)) == (0, 0)
