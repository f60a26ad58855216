"""Mappings say what is wrong with them; nests turn like odometers."""

import random
import re

import pytest

from bfpsim.mapping.nest import Loop, Mapping, MappingError, make_nest
from bfpsim.workloads import ConvLayer
from tests.generate import random_formats, random_layer, random_mapping
from tests.mapping import walk
from tests.mapping.oracle import odometer

LAYER = ConvLayer("conv", K=8, C=6, P=5, Q=4, R=3, S=3)


@pytest.mark.parametrize(
    ("order", "tile", "message"),
    [
        ("KX", {}, "order='KX' names dimension 'X'; allowed: N, G, K, C, P, Q, R, S"),
        ("kp", {}, "order='kp' names dimension 'k'; allowed: N, G, K, C, P, Q, R, S"),
        ("KPK", {}, "order='KPK' repeats a dimension; allowed: each once"),
        ("", {"H": 2}, "names dimension 'H'; allowed: N, G, K, C, P, Q, R, S"),
        ("", {"KP": 2}, "names dimension 'KP'; allowed: N, G, K, C, P, Q, R, S"),
        ("", {"K": 0}, "tile K=0; allowed: a whole number from 1"),
        ("", {"K": -3}, "tile K=-3; allowed: a whole number from 1"),
        ("", {"K": True}, "tile K=True; allowed: a whole number from 1"),
        ("", {"K": 2.0}, "tile K=2.0; allowed: a whole number from 1"),
        ("", {"K": "2"}, "tile K='2'; allowed: a whole number from 1"),
    ],
)
def test_a_bad_mapping_is_refused_by_name(order: str, tile: dict[str, int], message: str) -> None:
    with pytest.raises(MappingError, match=re.escape(message)):
        Mapping(order, tile)


@pytest.mark.parametrize(
    ("order", "tile", "message"),
    [
        ("K", {"K": 9}, "conv: tile K=9; allowed: 1..8"),
        ("", {"N": 2}, "conv: tile N=2; allowed: 1..1"),
        ("KC", {"K": 4, "P": 2}, "conv: order='KC' lacks P, which has 3 tiles; allowed: "
         "an order that holds KP"),
        ("KR", {}, "conv: KR: whole layer names dimension 'R'; allowed: N, G, K, C, P, Q; R and S "
         "stay whole in a tile"),
        ("", {"S": 1}, "names dimension 'S'; allowed: N, G, K, C, P, Q; R and S stay whole"),
    ],
)  # fmt: skip
def test_a_mapping_that_does_not_suit_the_layer(
    order: str, tile: dict[str, int], message: str
) -> None:
    with pytest.raises(MappingError, match=re.escape(message)):
        make_nest(LAYER, Mapping(order, tile))


def test_a_loop_with_one_trip_does_not_exist() -> None:
    nest = make_nest(LAYER, Mapping("QGKNCP", {"K": 3, "C": 6, "P": 5, "Q": 1}))
    assert nest.loops == (Loop("Q", 4, 1), Loop("K", 3, 3))
    assert nest.steps == 12
    assert walk.spans(nest, "K") == [(0, 3), (3, 6), (6, 8)]
    assert walk.spans(nest, "C") == [(0, 6)]


def test_equal_mappings_hash_equal_however_their_tiles_are_written() -> None:
    one, other = Mapping("KP", {"K": 2, "P": 1}), Mapping("KP", {"P": 1, "K": 2})
    assert one == other
    assert len({one, other, Mapping("PK", {"K": 2, "P": 1})}) == 2


@pytest.mark.parametrize("seed", range(60))
def test_the_nest_turns_like_an_odometer(seed: int) -> None:
    rng = random.Random(seed)
    layer = random_layer(rng, largest=5)
    mapping = random_mapping(rng, layer, random_formats(rng))
    nest = make_nest(layer, mapping)
    steps = list(odometer(layer, mapping))
    assert nest.steps == len(steps)
    walked = list(walk.odometer(nest))
    assert walked == [{d: step.at[d] for d in "NGKCPQ"} for step in steps]
    for at, step in zip(walked, steps, strict=True):
        assert all(range(*walk.span(nest, d, at[d])) == step.ranges[d] for d in "NGKCPQ")
    for tensor, dims in walk.RELEVANT.items():
        changes = [0] + [
            i for i in range(1, len(walked)) if any(walked[i][d] != walked[i - 1][d] for d in dims)
        ]
        assert changes == list(range(0, nest.steps, walk.period(nest, tensor)))
