"""Tables over tile sizes, each entry against the boxes of its tiles, one by one."""

from itertools import pairwise

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from bfpsim.mapping.boxes import channel_intervals, input_cols, input_rows
from bfpsim.mapping.candidates import undominated
from bfpsim.mapping.ragged import Tiles
from bfpsim.mapping.tile_bits import axis_bits, result_tables
from bfpsim.mapping.windows import window_profile
from bfpsim.quant.formats import BFP, Plain
from bfpsim.quant.formats.blocks import touched
from bfpsim.workloads import ConvLayer


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
    found = axis_bits(groups, per_group, g_sizes, sizes, fmt, positions)
    for i, g_size in enumerate(g_sizes):
        for j, size in enumerate(sizes):
            bits = np.array([
                [
                    sum(b - a for a, b in tile) * positions * fmt.mantissa_bits
                    + (touched(tile, fmt.block_size) * fmt.exponent_bits
                       if isinstance(fmt, BFP) else 0)
                    for c in spans(per_group, size)
                    for tile in [channel_intervals(g, c, per_group)]
                ]
                for g in spans(groups, g_size)
            ])  # fmt: skip
            expected = (bits.sum(), bits[0].sum(), bits[:, 0].sum(), bits[0, 0], bits.max())
            assert tuple(table[i, j] for table in found) == expected


@settings(max_examples=200, deadline=None)
@given(groups=st.integers(1, 8), filters=st.integers(1, 12), block=st.integers(1, 9))
def test_tiles_of_the_output_are_legal_where_no_cut_falls_inside_a_block(groups, filters, block):
    layer = ConvLayer("x", K=filters, C=1, P=1, Q=1, G=groups)
    g_sizes, sizes = np.arange(1, groups + 1), np.arange(1, filters + 1)
    _, legal = result_tables(layer, g_sizes, sizes, BFP(8, 3, block))
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
    found = window_profile(layer, dim, sizes)
    for at, size in enumerate(sizes):
        tiles = [reach(layer, span) for span in spans(outputs, size)]
        elements = [set(range(*tile)) for tile in tiles]
        lengths = [len(each) for each in elements]
        assert found.trips[at] == len(tiles)
        assert found.every[at] == sum(lengths)
        assert found.first[at] == lengths[0]
        assert found.rest[at] == sum(lengths[1:])
        assert found.largest[at] == max(lengths)
        assert found.fresh[at] == sum(
            len({x for x in new if not old or x > max(old)}) for old, new in pairwise(elements)
        )
        assert found.same[at] == sum(len(new) for old, new in pairwise(elements) if old == new)
        wraps = len(tiles) > 1 and elements[0] == elements[-1]
        assert found.wrapped[at] == (lengths[0] if wraps else 0)


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
    tiles = Tiles.of(5, np.array([2, 5, 3]))
    assert list(zip(tiles.low.tolist(), tiles.high.tolist(), strict=True)) == [
        (0, 2), (2, 4), (4, 5), (0, 5), (0, 3), (3, 5),
    ]  # fmt: skip
    assert tiles.trips.tolist() == [3, 1, 2]
    assert tiles.sum(np.array([1, 2, 3, 4, 5, 6])).tolist() == [6, 4, 11]
    assert tiles.max(np.array([1, 2, 3, 4, 6, 5])).tolist() == [3, 4, 6]
