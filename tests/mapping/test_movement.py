"""The rules of movement against sets of resident elements, step by step."""

import random

import pytest

from bfpsim.mapping.nest import Mapping, make_nest
from bfpsim.quant.formats import BFP, Format
from bfpsim.workloads import ConvLayer
from tests.generate import random_formats, random_layer, random_mapping
from tests.long import often
from tests.mapping.oracle import (
    activation_bits,
    count_steps,
    fetches_of_input,
    fetches_of_weight,
    visits_of_output,
    weight_bits,
)
from tests.mapping.test_boxes import elements, weights
from tests.mapping.walk import Halo, input_fetches, output_visits, weight_fetches


def small_cases(seed: int, wanted: int) -> list[tuple[random.Random, ConvLayer, Mapping]]:
    """`wanted` random nests, neither of one step nor of very many."""
    cases = []
    rng = random.Random(seed)
    while len(cases) < wanted:
        layer = random_layer(rng, largest=5)
        mapping = random_mapping(rng, layer, random_formats(rng))
        elements = layer.height * layer.width * layer.G * layer.C
        if 1 < count_steps(layer, mapping) < 2e6 / (elements + 1000):
            cases.append((rng, layer, mapping))
    return cases


@pytest.mark.parametrize("halo", ["sliding", "none"])
@pytest.mark.parametrize("seed", often(2, range(4)))
def test_inputs_are_fetched_but_for_the_overlap(seed: int, halo: Halo) -> None:
    for _, layer, mapping in small_cases(seed, 500):
        got = [f for f in input_fetches(make_nest(layer, mapping), halo) if f.new.pixels]
        wanted = fetches_of_input(layer, mapping, halo)
        assert [f.step for f in got] == [f.step for f in wanted], (layer, mapping)
        for fetch, literal in zip(got, wanted, strict=True):
            assert elements(fetch.box) == literal.box, (layer, mapping)
            assert elements(fetch.new) == literal.new, (layer, mapping)


@pytest.mark.parametrize("seed", range(4))
def test_weights_are_fetched_whole_when_their_box_changes(seed: int) -> None:
    for _, layer, mapping in small_cases(seed, 500):
        got = list(weight_fetches(make_nest(layer, mapping)))
        wanted = fetches_of_weight(layer, mapping)
        assert [(f.step, weights(f.box, layer)) for f in got] == [(f.step, f.new) for f in wanted]


@pytest.mark.parametrize("seed", range(4))
def test_outputs_leave_and_return_until_they_are_summed(seed: int) -> None:
    for _, layer, mapping in small_cases(seed, 500):
        got = [v._replace(box=elements(v.box)) for v in output_visits(make_nest(layer, mapping))]
        wanted = [tuple(visit) for visit in visits_of_output(layer, mapping)]
        assert list(map(tuple, got)) == wanted, (layer, mapping)


@pytest.mark.parametrize("halo", ["sliding", "none"])
@pytest.mark.parametrize("seed", often(2, range(10, 14)))
def test_totals_in_bits(seed: int, halo: Halo) -> None:
    """500 nests a seed: the walk's volumes against elements and blocks counted in sets."""
    for rng, layer, mapping in small_cases(seed, 500):
        formats = random_formats(rng)
        nest = make_nest(layer, mapping)
        walk = [f.new.volume(formats.I) for f in input_fetches(nest, halo)]
        literal = [
            activation_bits(f.new, formats.I) for f in fetches_of_input(layer, mapping, halo)
        ]
        assert total(walk) == total(literal), (layer, mapping, formats)
        walk = [f.box.volume(formats.W) for f in weight_fetches(nest)]
        literal = [weight_bits(layer, f.new, formats.W) for f in fetches_of_weight(layer, mapping)]
        assert total(walk) == total(literal), (layer, mapping, formats)


def total(volumes: list[tuple[int, int]]) -> tuple[int, int]:
    return sum(v[0] for v in volumes), sum(v[1] for v in volumes)


# --- the subtle cases, by hand: one channel, a column of rows -----------------------------------


def rows_fetched(layer: ConvLayer, mapping: Mapping, halo: Halo = "sliding") -> list[list[int]]:
    fetches = input_fetches(make_nest(layer, mapping), halo)
    return [list(range(*f.new.h)) if f.new.pixels else [] for f in fetches]


def column(P: int, R: int, H: int, stride: int = 1, padding: int = 0, **more: int) -> ConvLayer:
    return ConvLayer(
        "column", C=1, Q=1, P=P, R=R, H=H, stride=(stride, 1), padding=(padding, padding, 0, 0),
        **({"K": 1} | more),
    )  # fmt: skip


def test_only_the_row_beyond_the_overlap_is_fetched() -> None:
    layer = column(P=3, R=3, H=5)
    assert rows_fetched(layer, Mapping("P", {"P": 1})) == [[0, 1, 2], [3], [4]]
    assert rows_fetched(layer, Mapping("P", {"P": 1}), "none") == [[0, 1, 2], [1, 2, 3], [2, 3, 4]]


def test_rows_between_the_windows_of_two_tiles_are_never_fetched() -> None:
    """Stride 3, one tap: rows 1 and 2 lie between tiles, rows inside a tile's span come along."""
    layer = column(P=4, R=1, H=10, stride=3)
    assert rows_fetched(layer, Mapping("P", {"P": 1})) == [[0], [3], [6], [9]]
    assert rows_fetched(layer, Mapping("P", {"P": 2})) == [[0, 1, 2, 3], [6, 7, 8, 9]]


def test_a_wrap_fetches_the_whole_box() -> None:
    layer = column(P=2, R=3, H=4, K=2)
    assert rows_fetched(layer, Mapping("KP", {"K": 1, "P": 1})) == [[0, 1, 2], [3]] * 2


def test_a_box_that_clipping_leaves_unchanged_is_not_fetched_again() -> None:
    """A kernel as tall as the padded input: every window spans both stored rows."""
    layer = column(P=3, R=4, H=2, padding=2)
    assert rows_fetched(layer, Mapping("P", {"P": 1})) == [[0, 1], [], []]
    assert rows_fetched(layer, Mapping("P", {"P": 1}), "none") == [[0, 1], [], []]
    twice = column(P=3, R=4, H=2, padding=2, K=2)
    assert rows_fetched(twice, Mapping("KP", {"K": 1, "P": 1})) == [[0, 1], [], [], [], [], []]


def test_tiles_that_lie_in_the_padding_fetch_nothing() -> None:
    layer = column(P=6, R=1, H=2, padding=2)
    assert rows_fetched(layer, Mapping("P", {"P": 1})) == [[], [], [0], [1], [], []]


def test_a_change_of_two_indices_keeps_nothing() -> None:
    """P outside Q: when P advances Q wraps, and both boxes' common rows are fetched again."""
    layer = ConvLayer("two", K=1, C=1, P=2, Q=2, R=2, S=2)
    fetches = list(input_fetches(make_nest(layer, Mapping("PQ", {"P": 1, "Q": 1})), "sliding"))
    assert [f.new.pixels for f in fetches] == [4, 2, 4, 2]


@pytest.mark.parametrize(
    ("order", "visits"),
    [
        # (begin, end, resumed, finished)
        ("KC", [(0, 2, False, True), (2, 4, False, True)]),
        (
            "CK",
            [(0, 1, False, False), (1, 2, False, False), (2, 3, True, True), (3, 4, True, True)],
        ),
    ],
)
def test_an_output_tile_stays_for_its_reduction_only_if_c_is_inside(
    order: str, visits: list[tuple[int, int, bool, bool]]
) -> None:
    nest = make_nest(ConvLayer("o", K=2, C=2, P=1, Q=1), Mapping(order, {"K": 1, "C": 1}))
    assert [(v.begin, v.end, v.resumed, v.finished) for v in output_visits(nest)] == visits


@pytest.mark.parametrize(("fmt", "bits"), [(BFP(8, 3, 4), (3 * 5, 2 * 3)), (BFP(8, 3, 1), (15, 9))])
def test_cut_blocks_bring_their_exponent_with_every_part(
    fmt: Format, bits: tuple[int, int]
) -> None:
    """Three channels in tiles of 2 and 1 cut a block of 4: its exponent moves twice."""
    nest = make_nest(ConvLayer("cut", K=1, C=3, P=1, Q=1), Mapping("C", {"C": 2}))
    assert total([f.new.volume(fmt) for f in input_fetches(nest, "sliding")]) == bits
    assert total([f.box.volume(fmt) for f in weight_fetches(nest)]) == bits
