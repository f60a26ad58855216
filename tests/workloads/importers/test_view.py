"""Views of a node's output, against numpy's own transposing and reshaping."""

import math
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bfpsim.workloads.importers.view import Arrangement, View


def elements(view: View) -> np.ndarray:
    """The tensor's elements, each the number of its place in the node's output."""
    places = np.zeros((), int)
    for pairs in view.strides:
        dim = np.zeros((), int)
        for extent, stride in pairs:
            dim = (dim[..., None] + stride * np.arange(extent)).reshape(*dim.shape, extent)
        places = places[..., None] + dim.ravel()
    return places


def groups(view: View) -> Arrangement:
    """The dimensions of N, the map and C, those of one element left out."""
    dims = {axis: dim for dim, axes in enumerate(view.dims) for axis in axes}
    n, rows, c = (tuple(dims[axis] for axis in group) for group in (view.n, view.map, view.c))
    return Arrangement(n, rows, c)


@given(st.data())
def test_transposing_and_reshaping_follow_numpys(data):
    shape = data.draw(st.lists(st.sampled_from([1, 2, 3, 4, 6]), min_size=2, max_size=4))
    view = View.of("x", tuple(shape), Arrangement.channels_first(len(shape)))
    # Numbers in the order in which NHWC holds them, seen as NCHW.
    held = np.arange(math.prod(shape)).reshape([shape[0], *shape[2:], shape[1]])
    tensor = np.moveaxis(held, -1, 1)
    for _ in range(data.draw(st.integers(1, 5))):
        if data.draw(st.booleans()):
            order = data.draw(st.permutations(range(tensor.ndim)))
            view, tensor = view.permute(order), tensor.transpose(order)
        else:
            new = data.draw(st.sampled_from(_shapes(tensor.size)))
            reshaped = view.reshape(new)
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
    heads = tokens.reshape((2, 5, 3, 4)).permute((0, 2, 1, 3))
    assert heads.shape == (2, 3, 5, 4)
    assert heads.own_shape == (2, 5, 1, 12)
    # Batches and heads in one dimension, as multi-head attention has them.
    merged = heads.reshape((6, 5, 4))
    assert merged.own_shape == (2, 5, 1, 12)
    joined = heads.permute((0, 2, 1, 3)).reshape((2, 5, 12))
    assert joined.c == joined.dims[-1]
    assert joined.strides == tokens.strides


def test_a_reshape_that_no_split_gives_is_none():
    assert View.of("x", (1, 4, 6)).reshape((1, 3, 8)) is None


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
    assert View.of("x", shape).own_shape == held


def test_what_is_left_of_a_tensor():
    image = View.of("x", (2, 3, 4, 5))
    assert image.resize("y", (2, 3, 2, 5)).own_shape == (2, 2, 5, 3)
    assert image.resize("y", (2, 3, None, None)).own_shape == (2, 1, 1, 3)
    qkv = View.of("x", (2, 5, 24)).reshape((2, 5, 3, 2, 4)).permute((2, 0, 3, 1, 4))
    query = qkv.resize("q", (None, 2, 2, 5, 4))
    assert (query.shape, query.own_shape) == ((2, 2, 5, 4), (2, 5, 1, 8))
    assert query.c == (*query.dims[1], *query.dims[3])
    # Where an extent of 1 grows, nothing says where it should lie.
    assert View.of("x", (2, 1, 4, 4)).resize("y", (2, 6, 4, 4)) is None


def split(rng, extents):
    """The extents of some reshape: what lies together is multiplied or divided, ones come in."""
    new = []
    for extent in extents:
        if new and rng.random() < 0.4:
            new[-1] *= extent
        elif extent % 2 == 0 and rng.random() < 0.4:
            new += [2, extent // 2]
        else:
            new.append(extent)
        if rng.random() < 0.2:
            new.append(1)
    return tuple(e for e in new if e > 1 or rng.random() < 0.7) or (1,)


@settings(max_examples=300, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), kind=st.sampled_from(["first", "last", "heads"]))
def test_any_chain_of_transposes_and_reshapes_is_a_view(seed, kind):
    """A view is right if a tensor really is the node's memory under other axes."""
    rng = random.Random(seed)
    dims = tuple(rng.choice([1, 2, 3, 4, 6]) for _ in range(rng.randint(2, 5)))
    arrangement = {
        "first": Arrangement.channels_first,
        "last": Arrangement.channels_last,
        "heads": Arrangement.heads,
    }[kind](len(dims))
    order = (*arrangement.n, *arrangement.map, *arrangement.c)
    assert sorted(order) == list(range(len(dims)))
    memory = np.arange(math.prod(dims)).reshape([dims[dim] for dim in order])
    wanted, view = memory.transpose(np.argsort(order)), View.of("x", dims, arrangement)
    for _ in range(rng.randint(1, 6)):
        if rng.random() < 0.5:
            permutation = rng.sample(range(wanted.ndim), wanted.ndim)
            wanted, view = wanted.transpose(permutation), view.permute(permutation)
        else:
            new = split(rng, wanted.shape)
            reshaped = view.reshape(new)
            if reshaped is None or not reshaped.whole:
                continue
            wanted, view = wanted.reshape(new), reshaped
        np.testing.assert_array_equal(elements(view), wanted)


@pytest.mark.parametrize(
    ("dims", "arrangement", "new", "wanted"),
    [
        # The map's rows and columns in one, and back.
        ((2, 3, 4, 5), Arrangement.usual(4), (2, 3, 20), Arrangement((0,), (2,), (1,))),
        ((2, 3, 20), Arrangement.channels_first(3), (2, 3, 4, 5), Arrangement.usual(4)),
        # Rows and columns that are other ones of the same pixels.
        ((2, 3, 4, 6), Arrangement.usual(4), (2, 3, 8, 3), Arrangement.usual(4)),
        # Flattening a map of one pixel moves nothing, of more does.
        ((2, 3, 1, 1), Arrangement.usual(4), (2, 3), Arrangement((0,), (), (1,))),
        ((2, 3, 4, 5), Arrangement.usual(4), (2, 60), None),
        ((2, 4, 5, 3), Arrangement.channels_last(4), (2, 60), None),
        # Heads out of channels.
        ((2, 7, 12), Arrangement.usual(3), (2, 7, 3, 4), Arrangement((0,), (1,), (2, 3))),
        # Channels of a shuffle: in groups, but not in the other order.
        ((1, 6, 2, 2), Arrangement.usual(4), (1, 2, 3, 2, 2), Arrangement((), (3, 4), (1, 2))),
        ((1, 3, 2, 2, 2), Arrangement((0,), (3, 4), (2, 1)), (1, 6, 2, 2), None),
        # Pairs that are to be one each, but lie apart.
        ((2, 2, 3, 2, 3), Arrangement((0,), (3, 2), (1, 4)), (2, 6, 6), None),
        # Rows that would cut across the others.
        ((4, 6), Arrangement.usual(2), (6, 4), None),
    ],
)
def test_reshapes_that_move_nothing(dims, arrangement, new, wanted):
    found = View.of("x", dims, arrangement).reshape(new)
    assert (found is not None and found.whole) == (wanted is not None)
    if wanted is not None:
        assert groups(found) == wanted
        assert found.shape == new


def test_attention_renames_axes_only():
    """(N, T, heads * c) to (N, heads, T, c) for a query, to (N, heads, c, T) for a key."""
    tokens = View.of("x", (2, 7, 12)).reshape((2, 7, 3, 4))
    query, key = tokens.permute((0, 2, 1, 3)), tokens.permute((0, 2, 3, 1))
    assert groups(query) == Arrangement.heads(4)
    assert groups(key) == Arrangement((0,), (3,), (1, 2))


@pytest.mark.parametrize(
    ("arrangement", "dims", "shape"),
    [
        (Arrangement.usual(4), (2, 3, 4, 5), (2, 4, 5, 3)),
        (Arrangement.usual(3), (2, 7, 3), (2, 7, 1, 3)),
        (Arrangement.channels_first(3), (2, 3, 7), (2, 1, 7, 3)),
        (Arrangement.usual(2), (2, 3), (2, 1, 1, 3)),
        (Arrangement.usual(1), (3,), (1, 1, 1, 3)),
        (Arrangement.usual(0), (), (1, 1, 1, 1)),
        (Arrangement.usual(5), (2, 3, 4, 5, 6), (2, 60, 1, 6)),
        (Arrangement.channels_last(4), (2, 4, 5, 3), (2, 4, 5, 3)),
        (Arrangement.heads(4), (2, 3, 7, 4), (2, 7, 1, 12)),
    ],
)
def test_shapes_of_nodes(arrangement, dims, shape):
    assert arrangement.shape(dims) == shape


def test_axes_of_one_element_do_not_tell_arrangements_apart():
    def same(dims, one, other):
        views = [View.of("x", dims, each) for each in (one, other)]
        return views[0].strides == views[1].strides and groups(views[0]) == groups(views[1])

    first, last = Arrangement.channels_first(4), Arrangement.channels_last
    assert not same((2, 3, 1, 1), first, last(4))
    assert same((2, 3, 1, 1), first, Arrangement((0, 2), (3,), (1,)))
    assert same((1, 4, 5), last(3), Arrangement((), (0, 1), (2,)))
    assert not same((2, 4, 5), last(3), Arrangement((), (0, 1), (2,)))


def test_removing_axes():
    image = View.of("x", (2, 3, 4, 5))
    assert groups(image.without(3).without(2)) == Arrangement((0,), (), (1,))
    assert groups(image.resize("x", (2, 3, None, None))) == Arrangement((0,), (), (1,))
    pixels = View.of("x", (2, 4, 5, 3), Arrangement.channels_last(4))
    assert groups(pixels.without(1)) == Arrangement((0,), (1,), (2,))
