"""Tiles priced by kind, against every tile priced by itself."""

import random

import numpy as np
import pytest

from bfpsim.arch import Arch
from bfpsim.mapping.nest import EVERY_DIM, Mapping, make_nest
from bfpsim.mapping.steps.array import Tile, array_traffic
from bfpsim.mapping.steps.price import streams_of
from bfpsim.quant.formats import BFP, LayerFormats, PartialSums
from bfpsim.quant.formats.layout import ActivationLayout, WeightLayout
from bfpsim.workloads import ConvLayer
from tests.generate import random_arch, random_formats, random_layer, random_mapping
from tests.long import often
from tests.mapping.walk import (
    ActivationBox,
    channel_intervals,
    input_fetches,
    odometer,
    output_visits,
    span,
    weight_fetches,
)


def case(seed: int):
    rng = random.Random(seed)
    layer = random_layer(rng, largest=rng.choice([4, 7, 11]))
    formats = random_formats(rng)
    nest = make_nest(layer, random_mapping(rng, layer, formats))
    return nest, random_arch(rng, burst=rng.choice(["1 bit", "4 B", "32 B"])), formats


def padding(layout: ActivationLayout | WeightLayout, arch: Arch, box: tuple) -> int:
    """Bursts of every run, bit by bit of the burst's edges."""
    burst, total = arch.dram.burst, 0
    for start, end in zip(*layout.runs(*box), strict=True):
        total += (-int(end)) % burst + int(start) % burst
    return total


@pytest.mark.parametrize("seed", often(30, range(120)))
def test_inputs(seed: int) -> None:
    nest, arch, formats = case(seed)
    layout = ActivationLayout(nest.layer.input_shape, formats.I)
    stays = streams_of(nest, arch, formats).stays["I"]
    fetches = list(input_fetches(nest, arch.dma.halo))
    assert len(stays) == len(fetches)
    for tile, fetch in enumerate(fetches):
        moved = fetch.new.volume(formats.I)
        burst = padding(layout, arch, fetch.new) if moved.bits else 0
        assert stays[tile].held == fetch.box.volume(formats.I).bits
        assert stays[tile].arrives == (*moved, 0, burst)
        assert stays[tile].leaves == (0, 0, 0, 0)


@pytest.mark.parametrize("seed", often(30, range(120)))
def test_weights(seed: int) -> None:
    nest, arch, formats = case(seed)
    layout = WeightLayout(nest.layer.weight_shape, formats.W)
    stays = streams_of(nest, arch, formats).stays["W"]
    fetches = list(weight_fetches(nest))
    assert len(stays) == len(fetches)
    for tile, fetch in enumerate(fetches):
        volume = fetch.box.volume(formats.W)
        assert stays[tile].held == volume.bits
        assert stays[tile].arrives == (*volume, 0, padding(layout, arch, fetch.box[:2]))


@pytest.mark.parametrize("seed", often(30, range(120)))
def test_outputs(seed: int) -> None:
    nest, arch, formats = case(seed)
    width = arch.pe_array.accumulator_bits
    results = ActivationLayout(nest.layer.output_shape, formats.O)
    sums = ActivationLayout(nest.layer.output_shape, PartialSums(width))
    stays = streams_of(nest, arch, formats).stays["O"]
    visits = list(output_visits(nest))
    assert len(stays) == len(visits)
    for tile, visit in enumerate(visits):
        elements = visit.box.pixels * sum(high - low for low, high in visit.box.channels)
        partial = (0, 0, elements * width, padding(sums, arch, visit.box))
        result = visit.box.volume(formats.O)
        assert stays[tile].arrives == (partial if visit.resumed else (0, 0, 0, 0))
        if visit.finished:
            assert stays[tile].leaves == (*result, 0, padding(results, arch, visit.box))
        else:
            assert stays[tile].leaves == partial
        assert stays[tile].held in (result.bits, max(result.bits, elements * width))


@pytest.mark.parametrize("seed", often(30, range(120)))
def test_steps(seed: int) -> None:
    nest, arch, formats = case(seed)
    streams = streams_of(nest, arch, formats)
    priced = streams.steps
    assert len(priced) == nest.steps
    fetched = {
        "I": {fetch.step for fetch in input_fetches(nest, arch.dma.halo)},
        "W": {fetch.step for fetch in weight_fetches(nest)},
        "O": {visit.begin for visit in output_visits(nest)},
    }
    for number, at in enumerate(odometer(nest)):
        tile = Tile(*(span(nest, dim, at.get(dim, 0)) for dim in EVERY_DIM))
        step, last = priced[number], at["C"] == nest.trips["C"] - 1
        channels = channel_intervals(tile.G, tile.K, nest.layer.K)
        result = ActivationBox(tile.N, tile.P, tile.Q, channels).volume(formats.O)
        one = array_traffic(nest.layer, tile, arch.pe_array, formats)
        sums = one.output_elements * arch.pe_array.accumulator_bits
        expected = {
            ("I", "read", "mantissa"): one.input_mantissa,
            ("I", "read", "exponent"): one.input_exponent,
            ("W", "read", "mantissa"): one.weight_mantissa,
            ("W", "read", "exponent"): one.weight_exponent,
            ("O", "read", "psum"): (one.reduction_folds - 1 + (at["C"] > 0)) * sums,
            ("O", "write", "psum"): (one.reduction_folds - last) * sums,
            ("O", "write", "mantissa"): result.mantissa if last else 0,
            ("O", "write", "exponent"): result.exponent if last else 0,
        }
        moved = {flow[1:]: bits for flow, bits in zip(streams.flows, step.bits, strict=True)}
        assert {**dict.fromkeys(expected, 0), **moved} == expected
        assert step.steady == step.computing == step.lasting == one.cycles
        assert set(step.begins) == {t for t in fetched if number in fetched[t]}
        after = number + 1
        assert set(step.ends) == {t for t in fetched if after == nest.steps or after in fetched[t]}


def test_long_loops_have_few_kinds() -> None:
    """Borders, and where a burst cuts a tile, are all that tells the tiles of a long loop apart."""
    layer = ConvLayer("long", K=64, C=64, P=1000, Q=1)
    formats = LayerFormats.uniform(BFP(8, 3, 16))
    nest = make_nest(layer, Mapping("KP", {"K": 32, "P": 3}))
    arch = random_arch(random.Random(0), burst="32 B")
    priced = streams_of(nest, arch, formats)
    streams = (priced.stays["I"], priced.stays["O"], priced.steps)
    kinds = [stream.kinds for stream in streams]
    assert [len(each) for each in kinds] == [668, 668, 668]
    # 996 bit a tile: 64 places in a burst of 256 bit, with two paddings; the last tile is shorter.
    assert all(each.max() < 8 for each in kinds)
    assert all(list(np.unique(each)) == list(range(each.max() + 1)) for each in kinds)
