"""Views of a node's output, against numpy's own transposing and reshaping."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bfpsim.workloads.importers.torch.view import View


def elements(view: View) -> np.ndarray:
    """The tensor's elements, each the number of its place in the node's output."""
    places = np.zeros((), int)
    for pairs in view.strides:
        dim = np.zeros((), int)
        for extent, stride in pairs:
            dim = (dim[..., None] + stride * np.arange(extent)).reshape(*dim.shape, extent)
        places = places[..., None] + dim.ravel()
    return places


@given(st.data())
def test_transposing_and_reshaping_follow_numpys(data):
    shape = data.draw(st.lists(st.sampled_from([1, 2, 3, 4, 6]), min_size=2, max_size=4))
    view = View.of("x", shape, channels_first=True)
    # Numbers in the order in which NHWC holds them, seen as NCHW.
    held = np.arange(math.prod(shape)).reshape([shape[0], *shape[2:], shape[1]])
    tensor = np.moveaxis(held, -1, 1)
    for _ in range(data.draw(st.integers(1, 5))):
        if data.draw(st.booleans()):
            order = data.draw(st.permutations(range(tensor.ndim)))
            view, tensor = view.permuted(order), tensor.transpose(order)
        else:
            new = data.draw(st.sampled_from(_shapes(tensor.size)))
            reshaped = view.reshaped(new)
            if reshaped is None:  # extents that are no product of the axes': nothing is claimed
                continue
            view, tensor = reshaped, tensor.reshape(new)
        assert view.shape == tensor.shape
        np.testing.assert_array_equal(elements(view), tensor)
        assert {*view.n, *view.map, *view.c} == {axis for axes in view.dims for axis in axes}


def _shapes(elements: int) -> list[tuple[int, ...]]:
    pairs = [(a, elements // a) for a in range(1, elements + 1) if elements % a == 0]
    return [*pairs, *((a, b, c) for a, rest in pairs for b, c in _factors(rest)), (elements,)]


def _factors(number: int) -> list[tuple[int, int]]:
    return [(a, number // a) for a in range(1, number + 1) if number % a == 0]


def test_heads_that_are_split_and_joined_are_the_channels_again():
    tokens = View.of("x", (2, 5, 12))
    heads = tokens.reshaped((2, 5, 3, 4)).permuted((0, 2, 1, 3))
    assert heads.shape == (2, 3, 5, 4)
    assert heads.held == (2, 5, 1, 12)
    # Batches and heads in one dimension, as multi-head attention has them.
    merged = heads.reshaped((6, 5, 4))
    assert merged.held == (2, 5, 1, 12)
    joined = heads.permuted((0, 2, 1, 3)).reshaped((2, 5, 12))
    assert joined.c == joined.dims[-1]
    assert joined.strides == tokens.strides


def test_a_reshape_that_no_split_gives_is_none():
    assert View.of("x", (1, 4, 6)).reshaped((1, 3, 8)) is None


@pytest.mark.parametrize(
    ("shape", "held"),
    [
        ((2, 3, 4, 5), (2, 4, 5, 3)),  # NCHW
        ((2, 7, 3), (2, 7, 1, 3)),  # tokens
        ((2, 3), (2, 1, 1, 3)),
        ((3,), (1, 1, 1, 3)),
        ((), (1, 1, 1, 1)),
        ((2, 3, 4, 5, 6), (2, 60, 1, 6)),
    ],
)
def test_how_a_tensor_of_its_own_is_held(shape, held):
    assert View.of("x", shape).held == held


def test_what_is_left_of_a_tensor():
    image = View.of("x", (2, 3, 4, 5))
    assert image.resized("y", (2, 3, 2, 5)).held == (2, 2, 5, 3)
    assert image.resized("y", (2, 3, None, None)).held == (2, 1, 1, 3)
    qkv = View.of("x", (2, 5, 24)).reshaped((2, 5, 3, 2, 4)).permuted((2, 0, 3, 1, 4))
    query = qkv.resized("q", (None, 2, 2, 5, 4))
    assert (query.shape, query.held) == ((2, 2, 5, 4), (2, 5, 1, 8))
    assert query.c == (*query.dims[1], *query.dims[3])
    # Where an extent of 1 grows, nothing says where it should lie.
    assert View.of("x", (2, 1, 4, 4)).resized("y", (2, 6, 4, 4)) is None
