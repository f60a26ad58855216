"""Blocks are counted and filled as one would by hand."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bfpsim.quant.formats import BFP, Plain, activation_block, weight_block
from bfpsim.quant.formats.blocks import CHANNELS, LAST, WEIGHT, block_maxima, spread, touched


@pytest.mark.parametrize(
    ("shape", "block"),
    [
        ((64, 128, 3, 5), (1, 16, 3, 5)),  # 16 input channels x R x S of a filter
        ((64, 3, 7, 7), (1, 16, 7, 7)),  # fewer channels than a block
        ((64, 1, 3, 3), (16, 1, 3, 3)),  # depthwise: 16 filters x R x S
    ],
)
def test_weights_share_an_exponent_across_channels_or_depthwise_filters(shape, block) -> None:
    assert weight_block(BFP(8, 3, 16), shape) == block
    assert weight_block(Plain(8), shape) == (1, 1, *shape[2:])  # a block of one


def test_blocks_run_along_the_middle_of_three_axes() -> None:
    assert CHANNELS.extents((2, 24, 5, 7)) == (2, 24, 35)
    assert LAST.extents((2, 5, 7, 24)) == (70, 24, 1)
    assert WEIGHT.extents((64, 24, 3, 5)) == (64, 24, 15)
    assert WEIGHT.extents((64, 1, 3, 5)) == (1, 64, 15)  # depthwise: blocks of filters
    assert WEIGHT.extents((64, 24)) == (64, 24, 1)


def test_activations_share_an_exponent_across_channels_of_a_pixel() -> None:
    assert activation_block(BFP(8, 3, 24), (2, 5, 7, 100)) == (1, 1, 1, 24)
    assert activation_block(Plain(32), (2, 5, 7, 100)) == (1, 1, 1, 1)


shapes = st.lists(st.tuples(st.integers(1, 5), st.integers(1, 7)), min_size=1, max_size=4)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(shapes, st.integers(0, 2**32))
def test_maxima_and_spread_see_each_element_in_its_block(sizes: list, seed: int) -> None:
    shape, block = tuple(s for s, _ in sizes), tuple(b for _, b in sizes)
    values = np.random.default_rng(seed).random(shape)
    maxima: dict[tuple[int, ...], float] = {}
    for i in np.ndindex(shape):
        home = tuple(a // b for a, b in zip(i, block, strict=True))
        maxima[home] = max(maxima.get(home, 0.0), float(values[i]))
    found = block_maxima(values, block)
    assert {i: float(found[i]) for i in np.ndindex(found.shape)} == maxima
    assert found.shape == tuple(-(-s // b) for s, b in zip(shape, block, strict=True))
    per_element = spread(found, block, shape)
    for i in np.ndindex(shape):
        assert per_element[i] == maxima[tuple(a // b for a, b in zip(i, block, strict=True))]


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.lists(st.integers(0, 60), max_size=10).map(sorted), st.integers(1, 20))
def test_touched_blocks_are_counted_once(cuts: list[int], length: int) -> None:
    intervals = list(pairwise(cuts))[::2]  # ordered, disjoint, some empty, some adjacent
    homes = {i // length for low, high in intervals for i in range(low, high)}
    assert touched(intervals, length) == len(homes)
