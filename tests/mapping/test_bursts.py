"""Burst padding in closed form, against the runs of every transfer, one by one."""

import random

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from bfpsim.mapping.nest import make_nest
from bfpsim.mapping.steps.bursts import (
    PixelRanges,
    input_padding,
    padding,
    result_padding,
    sums_padding,
    weight_padding,
)
from bfpsim.mapping.steps.tiles import Ranges
from bfpsim.quant.formats import BFP, LayerFormats, PartialSums, Plain
from bfpsim.quant.formats.layout import ActivationLayout, WeightLayout
from tests.generate import random_layer, random_mapping
from tests.mapping.walk import channel_intervals, input_fetches, output_visits, weight_fetches

formats = st.one_of(
    st.builds(BFP, st.integers(7, 9), st.integers(2, 5), st.integers(1, 6)),
    st.sampled_from([Plain(8), Plain(12), PartialSums(32)]),
)
bursts = st.sampled_from([2, 8, 32, 48, 256, 1000])


@settings(max_examples=300, deadline=None)
@given(
    shape=st.tuples(st.integers(1, 3), st.integers(1, 4), st.integers(1, 4)),
    groups=st.integers(1, 4), per_group=st.integers(1, 8), fmt=formats, burst=bursts,
    data=st.data(),
)  # fmt: skip
def test_every_box_is_padded_as_its_runs_are(shape, groups, per_group, fmt, burst, data):
    def span(extent):
        low = data.draw(st.integers(0, extent - 1))
        return low, data.draw(st.integers(low + 1, extent))

    layout = ActivationLayout((*shape, groups * per_group), fmt)
    channels = channel_intervals(span(groups), span(per_group), per_group)
    ranges = [
        [(low, high) for low in range(extent + 1) for high in range(low, extent + 1)]
        for extent in shape
    ]
    every = [(n, h, w) for n in ranges[0] for h in ranges[1] for w in ranges[2]]
    place = PixelRanges(*(Ranges(*np.array(axis).T) for axis in zip(*every, strict=True)))
    found = padding(layout, [channels], np.zeros(len(every), int), place, burst)
    expected = [layout.runs(*box, channels).burst_padding(burst) for box in every]
    assert found.tolist() == expected


@settings(max_examples=60, deadline=None)
@given(
    shape=st.tuples(st.integers(1, 4), st.integers(20, 90), st.integers(1, 40)),
    channels=st.integers(1, 7), fmt=formats, burst=st.sampled_from([2, 8, 32, 48]),
    seed=st.integers(0, 2**32),
)  # fmt: skip
def test_tall_maps_whose_rows_lie_alike_again(shape, channels, fmt, burst, seed):
    rng = random.Random(seed)
    layout = ActivationLayout((*shape, channels), fmt)
    low = rng.randrange(channels)
    part = ((low, rng.randint(low + 1, channels)),)
    boxes = [
        [tuple(sorted(rng.choices(range(extent + 1), k=2))) for extent in shape] for _ in range(20)
    ]
    place = PixelRanges(*(Ranges(*np.array(axis).T) for axis in zip(*boxes, strict=True)))
    found = padding(layout, [part], np.zeros(len(boxes), int), place, burst)
    expected = [layout.runs(*box, part).burst_padding(burst) for box in boxes]
    assert found.tolist() == expected


@settings(max_examples=300, deadline=None)
@given(
    seed=st.integers(0, 2**32), fmt=formats, burst=bursts, halo=st.sampled_from(["sliding", "none"])
)
def test_a_nest_is_padded_as_its_transfers_are(seed, fmt, burst, halo):
    rng = random.Random(seed)
    layer = random_layer(rng)
    plain = LayerFormats(Plain(8), Plain(8), Plain(8))  # so that any channels may be cut
    nest = make_nest(layer, random_mapping(rng, layer, plain))
    stored = fmt if not isinstance(fmt, PartialSums) else Plain(32)
    layout = ActivationLayout(nest.layer.input_shape, stored)
    expected = sum(
        layout.runs(*fetch.new).burst_padding(burst) for fetch in input_fetches(nest, halo)
    )
    assert input_padding(nest, stored, burst, halo) == expected
    weights = WeightLayout(nest.layer.weight_shape, stored)
    boxes = {fetch.box for fetch in weight_fetches(nest)}
    assert weight_padding(nest, stored, burst) == sum(
        weights.runs(box.filters, box.c).burst_padding(burst) for box in boxes
    )
    tiles = {visit.box for visit in output_visits(nest)}
    for found, of in (
        (result_padding(nest, stored, burst), stored),
        (sums_padding(nest, 20, burst), PartialSums(20)),
    ):
        layout = ActivationLayout(nest.layer.output_shape, of)
        assert found == sum(layout.runs(*box).burst_padding(burst) for box in tiles)
