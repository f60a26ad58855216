"""A tile's boxes hold exactly the elements its windows span, and the blocks those touch."""

import random

import pytest

from bfpsim.mapping.nest import Mapping, make_nest
from bfpsim.quant.formats import BFP
from bfpsim.workloads import ConvLayer
from tests.generate import random_formats, random_layer, random_mapping
from tests.long import often
from tests.mapping.oracle import (
    activation_bits,
    input_elements,
    odometer,
    output_elements,
    weight_bits,
    weight_elements,
)
from tests.mapping.walk import (
    ActivationBox,
    WeightBox,
    channel_intervals,
    input_box,
    input_cols,
    input_rows,
    output_box,
    weight_box,
)


def elements(box: ActivationBox) -> set[tuple[int, ...]]:
    return {
        (n, h, w, ch)
        for n in range(*box.n)
        for h in range(*box.h)
        for w in range(*box.w)
        for low, high in box.channels
        for ch in range(low, high)
    }


def weights(box: WeightBox, layer: ConvLayer) -> set[tuple[int, ...]]:
    return {
        (k, c, r, s)
        for low, high in box.filters
        for k in range(low, high)
        for c in range(*box.c)
        for r in range(layer.R)
        for s in range(layer.S)
    }


@pytest.mark.parametrize("seed", often(60, range(150)))
def test_boxes_hold_what_the_windows_span(seed: int) -> None:
    rng = random.Random(seed)
    layer, formats = random_layer(rng, largest=5), random_formats(rng)
    mapping = random_mapping(rng, layer, formats)
    nest = make_nest(layer, mapping)
    steps = list(odometer(layer, mapping))
    for step in rng.sample(steps, min(8, len(steps))):
        box = input_box(nest, step.at)
        wanted = input_elements(layer, step.ranges)
        assert elements(box) == wanted
        assert box.volume(formats.I) == activation_bits(wanted, formats.I)
        out = output_box(nest, step.at)
        wanted = output_elements(layer, step.ranges)
        assert elements(out) == wanted
        assert out.volume(formats.O) == activation_bits(wanted, formats.O)
        filters = weight_box(nest, step.at)
        wanted = weight_elements(layer, step.ranges)
        assert weights(filters, layer) == wanted
        assert filters.volume(formats.W) == weight_bits(layer, wanted, formats.W)


@pytest.mark.parametrize(
    ("outputs", "rows"),
    [((0, 1), (0, 2)), ((0, 2), (0, 4)), ((1, 3), (1, 6)), ((2, 3), (3, 6)), ((3, 4), (5, 6))],
)
def test_rows_of_a_strided_window_by_hand(outputs: tuple[int, int], rows: tuple[int, int]) -> None:
    """Stride 2, 3 taps, one row of padding: output p covers rows 2p-1 .. 2p+1 of 0 .. 5."""
    layer = ConvLayer("rows", K=1, C=1, P=4, Q=1, R=3, stride=(2, 1), padding=(1, 2, 0, 0), H=6)
    assert input_rows(layer, outputs) == rows


def test_windows_in_the_padding_need_nothing() -> None:
    layer = ConvLayer("pad", K=1, C=1, P=1, Q=6, S=2, padding=(0, 0, 3, 2), W=2)
    assert [input_cols(layer, (q, q + 1)) for q in range(6)] == [
        (0, 0), (0, 0), (0, 1), (0, 2), (1, 2), (0, 0)
    ]  # fmt: skip


def test_channels_of_groups_that_are_cut_inside() -> None:
    assert channel_intervals((1, 3), (0, 2), 4) == ((4, 6), (8, 10))
    assert channel_intervals((1, 3), (0, 4), 4) == ((4, 12),)


def test_a_block_shared_by_two_groups_is_read_once() -> None:
    """2 groups of 3 channels in blocks of 4: channels 1-2 and 4-5 lie in blocks 0, 0, 1, 1;
    in blocks of 8 all four share one. 2 rows x 2 columns x 4 mantissas of 5 bit."""
    layer = ConvLayer("groups", G=2, K=1, C=3, P=2, Q=2)
    nest = make_nest(layer, Mapping("C", {"C": 1}))
    box = input_box(nest, dict.fromkeys("NGKPQ", 0) | {"C": 1})
    assert box.channels == ((1, 2), (4, 5))
    assert box.volume(BFP(8, 3, 4)) == (4 * 2 * 5, 4 * 2 * 3)
    assert box.volume(BFP(8, 3, 8)) == (4 * 2 * 5, 4 * 1 * 3)
