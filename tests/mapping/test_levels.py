"""The rules at inner boundaries: nests of two and three boundaries against sets of elements.

A dimension may be cut at several boundaries, R and S at inner ones; edge tiles outside have their
own trips inside. Nothing of the product's is used to make the sets.
"""

import random
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import pytest

from bfpsim.mapping.closed import exact
from bfpsim.mapping.closed.traffic import moved_cells
from bfpsim.mapping.nest import Nest, join
from bfpsim.mapping.steps.price import streams_of
from bfpsim.mapping.steps.tiles import (
    input_tiles,
    output_tiles,
    unrolled,
    visits_of,
    weight_tiles,
)
from bfpsim.quant.formats import BFP, Format, LayerFormats, Plain
from bfpsim.workloads import ConvLayer
from tests.generate import make_arch, random_format, random_layer
from tests.mapping.oracle import (
    activation_blocks,
    input_elements,
    output_elements,
    weight_blocks,
    weight_elements,
)
from tests.storage import storage

Boundary = tuple[str, dict[str, int]]
Ranges = dict[str, range]
RELEVANT = {"I": "NGCPQRS", "W": "GKCRS", "O": "NGKPQ"}


def random_boundaries(rng: random.Random, layer: ConvLayer, count: int) -> list[Boundary]:
    """Any orders and tile sizes; R and S whole at the outermost."""
    size = layer.dims | {"R": layer.R, "S": layer.S}
    boundaries = []
    for number in range(count):
        dims = list("NGKCPQ" if number == 0 else "NGKCPQRS")
        rng.shuffle(dims)
        cut = rng.sample(dims, rng.randint(1, 4))
        tile = {d: rng.randint(1, size[d]) for d in cut}
        size |= tile
        boundaries.append(("".join(dims), tile))
    return boundaries


def steps(layer: ConvLayer, boundaries: list[Boundary]) -> Iterator[Ranges]:
    """Every innermost tile in loop order, loops one inside the other."""
    whole = {d: range(n) for d, n in (layer.dims | {"R": layer.R, "S": layer.S}).items()}
    loops = [
        (d, tile[d]) for order, tile in boundaries for d in order if d in tile
    ]  # one that does not cut turns once

    def turn(ranges: Ranges, inside: list[tuple[str, int]]) -> Iterator[Ranges]:
        if not inside:
            yield ranges
            return
        (dim, size), *rest = inside
        whole = ranges[dim]
        for low in range(whole.start, whole.stop, size):
            yield from turn(ranges | {dim: whole[low - whole.start :][:size]}, rest)

    return turn(whole, loops)


class Literal(NamedTuple):
    """What the rules move, in sets."""

    inputs: list[frozenset]  # what each change of I's ranges fetches
    weights: list[frozenset]
    outputs: list[tuple[frozenset, bool, bool]]  # visited, resumed, finished


def literal(layer: ConvLayer, boundaries: list[Boundary], halo: str) -> Literal:
    inputs, weights, outputs = [], [], []
    summed: dict[frozenset, set] = {}
    before: dict[str, Ranges] = {}
    resident: frozenset = frozenset()
    reduction = {(c, r, s) for c in range(layer.C) for r in range(layer.R) for s in range(layer.S)}
    for at in steps(layer, boundaries):
        now = {t: {d: at[d] for d in dims} for t, dims in RELEVANT.items()}
        if now["I"] != before.get("I"):
            box = input_elements(layer, at)
            keep: frozenset = frozenset()
            if "I" in before:
                moved = [d for d in RELEVANT["I"] if at[d] != before["I"][d]]
                one = moved[0]
                adjacent = at[one].start == before["I"][one].stop
                if box == resident or (
                    halo == "sliding" and len(moved) == 1 and one in "PQRS" and adjacent
                ):
                    keep = resident
            inputs.append(box - keep)
            resident = box
        if now["W"] != before.get("W"):
            weights.append(weight_elements(layer, at))
        if now["O"] != before.get("O"):
            box = output_elements(layer, at)
            outputs.append((box, bool(summed.setdefault(box, set())), False))
        done = summed[outputs[-1][0]]
        done |= {(c, r, s) for c in at["C"] for r in at["R"] for s in at["S"]}
        outputs[-1] = (*outputs[-1][:2], done == reduction)
        before = now
    return Literal(inputs, weights, outputs)


def blocks(layer: ConvLayer, tensor: str, elements: frozenset, size: int, by_tap: bool) -> int:
    if tensor == "W":
        return len(weight_blocks(layer, elements, size, by_tap))
    return len(activation_blocks(elements, size))


def cases(seed: int, count: int) -> Iterator[tuple[random.Random, ConvLayer, list[Boundary]]]:
    rng = random.Random(seed)
    while count:
        layer = random_layer(rng, largest=4)
        boundaries = random_boundaries(rng, layer, rng.choice([1, 2, 2, 3]))
        nest = join(layer, boundaries)
        size = layer.height * layer.width * layer.G * layer.C + layer.macs // 50
        if nest.steps * size < 40_000:
            count -= 1
            yield rng, layer, boundaries


def elements_of(boxes, tile: int) -> set[tuple[int, ...]]:
    box = boxes.at(tile)
    channels = [c for low, high in box.channels for c in range(low, high)]
    return {
        (n, h, w, c)
        for n in range(*box.n)
        for h in range(*box.h)
        for w in range(*box.w)
        for c in channels
    }


SEEDS = [pytest.param(s, marks=[pytest.mark.long] * (s > 2)) for s in range(30)]


@pytest.mark.parametrize("seed", SEEDS)
def test_every_boundary_moves_what_the_rules_say(seed: int) -> None:
    """Both homes, in elements and in codes of cut blocks; who is resumed and finished."""
    for rng, layer, boundaries in cases(seed, 60):
        halo = rng.choice(["sliding", "sliding", "none"])
        nest, wanted = join(layer, boundaries), literal(layer, boundaries, halo)
        what = (layer, boundaries, halo)
        assert nest.steps == sum(1 for _ in steps(layer, boundaries))
        block = rng.choice([1, 2, 3, 4, 8])
        by_tap = rng.random() < 0.5
        codes = exact.Cell(0, 1, block, by_tap)
        visits = [box for box, _, _ in wanted.outputs]
        for tensor, sets in (("I", wanted.inputs), ("W", wanted.weights), ("O", visits)):
            sliding = halo == "sliding"
            assert moved_cells(nest, tensor, exact.ELEMENTS, sliding) == sum(map(len, sets)), what
            touched = sum(blocks(layer, tensor, box, block, by_tap) for box in sets)
            assert moved_cells(nest, tensor, codes, sliding) == touched, (what, tensor, block)
        inputs = input_tiles(nest, halo)
        assert [elements_of(inputs.fetched, i) for i in range(len(inputs.visits))] == [
            set(box) for box in wanted.inputs
        ], what
        weights = weight_tiles(nest)
        filters = [sum(b - a for a, b in one) for one in weights.filters.intervals]
        held = np.array(filters)[weights.filters.which] * weights.c.lengths * weights.taps
        assert held.tolist() == list(map(len, wanted.weights)), what
        outputs = output_tiles(nest)
        assert [
            (elements_of(outputs.resident, i), bool(again), bool(done))
            for i, (again, done) in enumerate(zip(outputs.resumed, outputs.finished, strict=True))
        ] == [(set(box), again, done) for box, again, done in wanted.outputs], what


@pytest.mark.parametrize("seed", SEEDS)
def test_tiles_are_priced_as_their_elements(seed: int) -> None:
    """Bits that arrive over an inner boundary, without bursts."""
    arch = make_arch(halo="sliding")
    for rng, layer, boundaries in cases(1000 + seed, 30):
        formats = LayerFormats(random_format(rng), random_format(rng), BFP(8, 3, 1))
        nest, wanted = join(layer, boundaries), literal(layer, boundaries, "sliding")
        stays = streams_of(nest, arch, formats).stays
        for tensor, sets in (("I", wanted.inputs), ("W", wanted.weights)):
            fmt: Format = formats.of(tensor)
            priced = stays[tensor]
            for number, box in enumerate(sets):
                own = storage(fmt)
                codes = blocks(layer, tensor, box, own.block or 1, own.by_tap) * own.code
                moved = priced[number].arrives
                assert (moved.mantissa, moved.exponent) == (len(box) * fmt.mantissa_bits, codes)


@pytest.mark.parametrize("seed", SEEDS)
def test_sums_are_read_back_as_often_as_they_leave(seed: int) -> None:
    for _, layer, boundaries in cases(2000 + seed, 30):
        nest = join(layer, boundaries)
        outputs = output_tiles(nest)
        elements = np.array(
            [len(elements_of(outputs.resident, i)) for i in range(len(outputs.visits))]
        )
        total = layer.N * layer.P * layer.Q * layer.G * layer.K
        again = int(elements[outputs.resumed].sum())
        assert again == int(elements[~outputs.finished].sum())
        assert again == moved_cells(nest, "O", exact.ELEMENTS, True) - total
        assert int(elements[outputs.finished].sum()) == total


@pytest.mark.parametrize("seed", SEEDS)
def test_a_visit_lasts_while_its_ranges_stay(seed: int) -> None:
    """Loops inside that the tensor does not depend on, over one dimension several times, too."""
    for _, layer, boundaries in cases(3000 + seed, 40):
        nest = join(layer, boundaries)
        ranges = list(steps(layer, boundaries))
        for tensor, dims in RELEVANT.items():
            named = [tuple(at[d] for d in dims) for at in ranges]
            begins = [i for i, own in enumerate(named) if i == 0 or own != named[i - 1]]
            visits = visits_of(nest, tensor)  # type: ignore[arg-type]
            assert visits.begins.tolist() == begins, (tensor, boundaries)
            assert visits.ends.tolist() == [*begins[1:], nest.steps], (tensor, boundaries)


def test_an_edge_tile_whose_reduction_ends_in_one_visit() -> None:
    """P 3 in tiles of 2 around C around P in tiles of 1: both rows of the first tile come twice,
    the last row stays while C advances. Three sums of 32 bit a row, in bursts of 64."""
    layer = ConvLayer("edge", K=3, C=2, P=3, Q=1)
    nest = join(layer, [("P", {"P": 2}), ("CP", {"C": 1, "P": 1})])
    arch = make_arch(burst="8 B")
    stays = streams_of(nest, arch, LayerFormats.uniform(Plain(32))).stays["O"]
    rows = [(96, 32), (96, 32)]  # 0..96 in 0..128, and 96..192 in 64..192
    sums, nothing = [(0, 0, *row) for row in rows], (0, 0, 0, 0)
    results = [(96, 0, 0, 32)] * 3
    assert [stay.arrives for stay in stays] == [nothing, nothing, *sums, nothing]
    assert [stay.leaves for stay in stays] == [*sums, *results]


def test_steps_of_nested_loops_by_hand() -> None:
    """K 3 in tiles of 2 around N 2 around K in tiles of 1: the edge tile of K has one trip inside,
    so W stays when N advances there."""
    layer = ConvLayer("nested", K=3, C=1, P=1, Q=1, N=2)
    nest: Nest = join(layer, [("K", {"K": 2}), ("NK", {"N": 1, "K": 1})])
    ranges = unrolled(nest, len(nest.loops))
    assert ranges.begins.tolist() == [0, 1, 2, 3, 4, 5]
    assert ranges["K"].low.tolist() == [0, 1, 0, 1, 2, 2]
    assert ranges["N"].low.tolist() == [0, 0, 1, 1, 0, 1]
    visits = weight_tiles(nest).visits
    assert (visits.begins.tolist(), visits.ends.tolist()) == ([0, 1, 2, 3, 4], [1, 2, 3, 4, 6])
    assert moved_cells(nest, "W", exact.ELEMENTS, True) == 5
