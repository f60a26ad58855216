"""A layout is right if a tensor really is the node's memory under other axes."""

import math
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bfpsim.workloads.importers.onnx.layout import Layout


def tensor(memory, dims, layout):
    """The ONNX tensor of ``dims`` that lies in ``memory`` by the layout's word."""
    order = (*layout.n, *layout.map, *layout.c)
    assert sorted(order) == list(range(len(dims)))
    return memory.reshape([dims[axis] for axis in order]).transpose(np.argsort(order))


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
    rng = random.Random(seed)
    dims = tuple(rng.choice([1, 2, 3, 4, 6]) for _ in range(rng.randint(2, 5)))
    layout = {
        "first": Layout.channels_first, "last": Layout.channels_last, "heads": Layout.heads
    }[kind](len(dims))  # fmt: skip
    memory = np.arange(math.prod(dims))
    wanted = tensor(memory, dims, layout)
    for _ in range(rng.randint(1, 6)):
        if rng.random() < 0.5:
            permutation = rng.sample(range(len(dims)), len(dims))
            wanted, layout = wanted.transpose(permutation), layout.permuted(permutation)
        else:
            new = split(rng, dims)
            reshaped = layout.reshaped(dims, new)
            if reshaped is None:
                continue
            wanted, layout = wanted.reshape(new), reshaped
        dims = wanted.shape
        np.testing.assert_array_equal(tensor(memory, dims, layout), wanted)


@pytest.mark.parametrize(
    ("dims", "layout", "new", "wanted"),
    [
        # The map's rows and columns in one, and back.
        ((2, 3, 4, 5), Layout.channels_first(4), (2, 3, 20), Layout((0,), (2,), (1,))),
        ((2, 3, 20), Layout.channels_first(3), (2, 3, 4, 5), Layout((0,), (2, 3), (1,))),
        # Flattening a map of one pixel moves nothing, of more does.
        ((2, 3, 1, 1), Layout.channels_first(4), (2, 3), Layout((0,), (), (1,))),
        ((2, 3, 4, 5), Layout.channels_first(4), (2, 60), None),
        ((2, 4, 5, 3), Layout.channels_last(4), (2, 60), None),
        # Heads out of channels.
        ((2, 7, 12), Layout.channels_last(3), (2, 7, 3, 4), Layout((0,), (1,), (2, 3))),
        # Channels of a shuffle: in groups, but not in the other order.
        ((1, 6, 2, 2), Layout.channels_first(4), (1, 2, 3, 2, 2), Layout((0,), (3, 4), (1, 2))),
        ((1, 3, 2, 2, 2), Layout((0,), (3, 4), (2, 1)), (1, 6, 2, 2), None),
        # Pairs that are to be one each, but lie apart.
        ((2, 2, 3, 2, 3), Layout((0,), (3, 2), (1, 4)), (2, 6, 6), None),
        # Rows that would cut across the others.
        ((4, 6), Layout.channels_last(2), (6, 4), None),
    ],
)
def test_reshapes_that_move_nothing(dims, layout, new, wanted):
    found = layout.reshaped(dims, new)
    assert found == wanted or (found is not None and found.same(wanted, new))
    assert (found is None) == (wanted is None)


def test_attention_renames_axes_only():
    """(N, T, heads * c) to (N, heads, T, c) for a query, to (N, heads, c, T) for a key."""
    tokens = Layout.channels_last(3).reshaped((2, 7, 12), (2, 7, 3, 4))
    query, key = tokens.permuted((0, 2, 1, 3)), tokens.permuted((0, 2, 3, 1))
    assert query == Layout.heads(4)
    assert key == Layout((0,), (3,), (1, 2))


@pytest.mark.parametrize(
    ("layout", "dims", "shape"),
    [
        (Layout.usual(4), (2, 3, 4, 5), (2, 4, 5, 3)),
        (Layout.usual(3), (2, 7, 3), (2, 7, 1, 3)),
        (Layout.channels_first(3), (2, 3, 7), (2, 1, 7, 3)),
        (Layout.usual(2), (2, 3), (2, 1, 1, 3)),
        (Layout.usual(1), (3,), (1, 1, 1, 3)),
        (Layout.usual(0), (), (1, 1, 1, 1)),
        (Layout.usual(5), (2, 3, 4, 5, 6), (2, 60, 1, 6)),
        (Layout.channels_last(4), (2, 4, 5, 3), (2, 4, 5, 3)),
        (Layout.heads(4), (2, 3, 7, 4), (2, 7, 1, 12)),
    ],
)
def test_shapes_of_nodes(layout, dims, shape):
    assert layout.shape(dims) == shape


def test_axes_of_one_element_do_not_tell_layouts_apart():
    assert Layout.channels_first(4).same(Layout.channels_last(4), (2, 3, 1, 1)) is False
    assert Layout.channels_first(4).same(Layout((0,), (), (1,)), (2, 3, 1, 1))
    assert Layout.channels_last(3).same(Layout((), (1,), (2,)), (1, 4, 5))
    assert not Layout.channels_last(3).same(Layout((), (1,), (2,)), (2, 4, 5))


def test_removing_axes():
    layout = Layout.channels_first(4).without((2, 3), 4)
    assert layout == Layout((0,), (), (1,))
    assert Layout.channels_last(4).without((1,), 4) == Layout((0,), (1,), (2,))
