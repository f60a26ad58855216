"""Tables over tile sizes, each entry against the boxes of its tiles, one by one."""

from itertools import pairwise, permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bfpsim.mapping.candidates import undominated
from bfpsim.mapping.closed import exact
from bfpsim.mapping.closed.grid import Grid
from bfpsim.mapping.closed.leaves import Leaves
from bfpsim.mapping.nest import DIMS, Mapping, make_nest
from bfpsim.quant.formats import BFP, LayerFormats, Plain
from bfpsim.quant.formats.blocks import touched
from bfpsim.workloads import ConvLayer
from tests.generate import make_arch
from tests.mapping.walk import channel_intervals, input_cols, input_fetches, input_rows


def spans(extent, size):
    return [(low, min(low + size, extent)) for low in range(0, extent, size)]


formats = st.one_of(
    st.builds(BFP, st.just(8), st.integers(2, 6), st.integers(1, 9)), st.just(Plain(16))
)


@settings(max_examples=200, deadline=None)
@given(
    groups=st.integers(1, 7), per_group=st.integers(1, 12), fmt=formats, positions=st.integers(1, 9)
)
def test_every_tile_is_counted_as_its_intervals_are(groups, per_group, fmt, positions):
    g_sizes, sizes = np.arange(1, groups + 1), np.arange(1, per_group + 1)
    leaves = {"G": Leaves.of_sizes(groups, g_sizes), "K": Leaves.of_sizes(per_group, sizes)}
    layer = ConvLayer("x", K=per_group, C=1, P=1, Q=1, G=groups, R=positions)
    leaves |= {"R": Leaves.nested(positions, ()), "S": Leaves.nested(1, ())}
    (bits_of_tiles,) = exact.tile_sizes("W", layer, leaves, exact.Cell.of(fmt)).values()
    alone = exact.disjoint("GKRS", leaves, bits_of_tiles, lambda _, table: table[:, :, 0, 0]).single
    most = exact.largest("GKRS", leaves, bits_of_tiles)[:, :, 0, 0]
    for i, g_size in enumerate(g_sizes):
        for j, size in enumerate(sizes):
            bits = np.array([
                [
                    sum(b - a for a, b in tile) * positions * fmt.mantissa_bits
                    + touched(tile, fmt.block_size) * fmt.exponent_bits
                    for c in spans(per_group, size)
                    for tile in [channel_intervals(g, c, per_group)]
                ]
                for g in spans(groups, g_size)
            ])  # fmt: skip
            one_g, one_k = len(spans(groups, g_size)) == 1, len(spans(per_group, size)) == 1
            for (outside_g, outside_k), table in {d[:2]: t for d, t in alone.items()}.items():
                lonely = (outside_g or one_g) and (outside_k or one_k)
                assert table[i, j] == bits.sum() * lonely
            assert most[i, j] == bits.max()


@settings(max_examples=200, deadline=None)
@given(groups=st.integers(1, 8), filters=st.integers(1, 12), block=st.integers(1, 9))
def test_tiles_of_the_output_are_legal_where_no_cut_falls_inside_a_block(groups, filters, block):
    layer = ConvLayer("x", K=filters, C=1, P=1, Q=1, G=groups)
    g_sizes, sizes = np.arange(1, groups + 1), np.arange(1, filters + 1)
    legal = exact.whole_blocks(layer, g_sizes, sizes, block)
    for i, g_size in enumerate(g_sizes):
        for j, size in enumerate(sizes):
            owner = np.empty(groups * filters, int)
            number = 0
            for g in spans(groups, g_size):
                for k in spans(filters, size):
                    for low, high in channel_intervals(g, k, filters):
                        owner[low:high] = number
                    number += 1
            blocks = np.split(owner, range(block, len(owner), block))
            assert legal[i, j] == all(len(set(part)) == 1 for part in blocks)


@settings(max_examples=300, deadline=None)
@given(
    outputs=st.integers(1, 12), taps=st.integers(1, 5), stride=st.integers(1, 4),
    dilation=st.integers(1, 3), before=st.integers(0, 6), after=st.integers(0, 6),
    dim=st.sampled_from("PQ"),
)  # fmt: skip
def test_windows_are_those_of_the_boxes(outputs, taps, stride, dilation, before, after, dim):
    least = (outputs - 1) * stride + (taps - 1) * dilation + 1 - before - after
    extent = max(1, least)
    if (extent + before + after - (taps - 1) * dilation - 1) // stride + 1 != outputs:
        return
    if dim == "P":
        layer = ConvLayer("x", 1, 1, outputs, 1, taps, 1, stride=(stride, 1), H=extent,
                          dilation=(dilation, 1), padding=(before, after, 0, 0))  # fmt: skip
    else:
        layer = ConvLayer("x", 1, 1, 1, outputs, 1, taps, stride=(1, stride), W=extent,
                          dilation=(1, dilation), padding=(0, 0, before, after))  # fmt: skip
    reach = input_rows if dim == "P" else input_cols
    sizes = np.arange(1, outputs + 1)
    found = exact.window_sums(layer, dim, Leaves.of_sizes(outputs, sizes))
    every, sweep, most, same, wrapped = found
    for at, size in enumerate(sizes):
        tiles = [reach(layer, span) for span in spans(outputs, size)]
        elements = [set(range(*tile)) for tile in tiles]
        lengths = [len(each) for each in elements]
        assert every[at] == sum(lengths)
        assert most[at] == max(lengths)
        fresh = sum(
            len({x for x in new if not old or x > max(old)}) for old, new in pairwise(elements)
        )
        assert sweep[at] == lengths[0] + fresh
        assert -same[at] == sum(len(new) for old, new in pairwise(elements) if old == new)
        wraps = len(tiles) > 1 and elements[0] == elements[-1]
        assert -wrapped[at] == (lengths[0] if wraps else 0)


@settings(max_examples=300, deadline=None)
@given(
    rows=st.lists(
        st.tuples(st.integers(1, 3), st.integers(0, 3), st.integers(0, 3), st.integers(0, 3)),
        min_size=1, max_size=14,
    )
)  # fmt: skip
def test_undominated_rows_are_those_that_no_other_row_makes_superfluous(rows):
    table = np.array(rows)
    trips, costs = table[:, 0], table[:, 1:]
    expected = [
        not any(
            trips[j] == trips[i]
            and (costs[j] <= costs[i]).all()
            and ((costs[j] < costs[i]).any() or j < i)
            for j in range(len(rows))
        )
        for i in range(len(rows))
    ]
    assert undominated(trips, costs).tolist() == expected


def test_tiles_of_several_sizes_stand_one_behind_another():
    tiles = Leaves.of_sizes(5, np.array([2, 5, 3]))
    assert list(zip(tiles.low.tolist(), tiles.high.tolist(), strict=True)) == [
        (0, 2), (2, 4), (4, 5), (0, 5), (0, 3), (3, 5),
    ]  # fmt: skip
    assert [tiles.rounds(outside).tolist() for outside in (0, 1)] == [[1, 1, 1], [3, 1, 2]]
    assert tiles.sums(np.array([1, 2, 3, 4, 5, 6]), tiles.starts[-1]).tolist() == [6, 4, 11]
    assert tiles.largest(np.array([1, 2, 3, 4, 6, 5])).tolist() == [3, 4, 6]
    assert tiles.single(0).tolist() == [False, False, False, True, False, False]
    old, new = tiles.advances(0)
    assert (old.tolist(), new.tolist()) == ([0, 1, 4], [1, 2, 5])


def test_nested_loops_cut_edge_tiles_likewise():
    """7 in tiles of 3, each in tiles of 2: 2 1 | 2 1 | 1, with own trips at the edge."""
    tiles = Leaves.nested(7, (3, 2))
    assert tiles.lengths.tolist() == [2, 1, 2, 1, 1]
    assert [start.tolist() for start in tiles.starts] == [[0], [0, 2, 4], [0, 1, 2, 3, 4]]
    assert [tiles.rounds(outside).item() for outside in range(3)] == [1, 3, 5]
    assert tiles.single(1).tolist() == [False, False, False, False, True]
    old, new = tiles.wraps(1)  # another loop between the two: from the last to the first of each
    assert (old.tolist(), new.tolist()) == ([1, 3, 4], [0, 2, 4])
    old, new = tiles.advances(0)  # the outer loop goes on
    assert (old.tolist(), new.tolist()) == ([1, 3], [2, 4])


def test_rows_recur_where_every_tile_reads_all_there_is():
    """One row under five taps: each of three outputs reads it, in tiles of 1 and of 2."""
    one_row = ConvLayer("one", K=1, C=1, P=3, Q=8, R=5, S=3, padding=(3, 1), H=1)
    assert [exact.recurs(one_row, dim) for dim in "PQ"] == [True, False]
    single = ConvLayer("single", K=1, C=1, P=1, Q=1)
    assert not exact.recurs(single, "P")  # the only tile is no other's equal


@pytest.mark.parametrize("halo", ["sliding", "none"])
def test_boxes_that_recur_are_counted_at_every_tile_size(halo):
    """Also where P or Q, or both, stay whole and have no loop."""
    layer = ConvLayer("clipped", K=2, C=1, P=3, Q=3, R=5, S=3, padding=(3, 3, 2, 1), H=1, W=2)
    arch, formats = make_arch(halo=halo), LayerFormats.uniform(Plain(8))
    sizes = {dim: np.arange(1, layer.dims[dim] + 1) for dim in DIMS}
    grid = Grid(layer, arch, formats, sizes)
    for order in ("".join(dims) for dims in permutations("KPQ")):
        fetched = np.broadcast_to(grid.fetched("I", order), [len(sizes[d]) for d in DIMS])
        for at in np.ndindex(fetched.shape):
            tile = dict(zip(DIMS, (i + 1 for i in at), strict=True))
            boxes = input_fetches(make_nest(layer, Mapping(order, tile)), halo)
            assert fetched[at] == sum(fetch.new.pixels * 8 for fetch in boxes), (order, tile)
