"""Which finished tiles a box waits for, against sets of elements."""

import random
from itertools import product

import numpy as np
import pytest

from bfpsim.mapping.nest import make_nest
from bfpsim.mapping.steps.dependence import Completion
from bfpsim.mapping.steps.tiles import ActivationBox, Boxes, input_tiles, output_tiles
from bfpsim.quant.formats import layer_formats
from bfpsim.workloads import ConvLayer
from tests.generate import random_layer, random_mapping
from tests.long import often

WORDS = layer_formats("plain8")


def elements(box: ActivationBox, first: int = 0) -> set[tuple[int, ...]]:
    channels = [c + first for low, high in box.channels for c in range(low, high)]
    return set(product(range(*box.n), range(*box.h), range(*box.w), channels))


@pytest.mark.parametrize("seed", often(60, range(1500)))
def test_a_box_is_there_when_the_last_of_its_elements_is(seed: int) -> None:
    rng = random.Random(seed)
    producer = random_layer(rng)
    n, h, w, channels = producer.output_shape
    made = output_tiles(make_nest(producer, random_mapping(rng, producer, WORDS)))
    completion = Completion.of(made.resident, made.finished)
    known: dict[tuple[int, ...], int] = {}
    for order, tile in enumerate(np.flatnonzero(made.finished), start=1):
        for element in elements(made.resident.at(int(tile))):
            assert element not in known
            known[element] = order

    # A reader of some of its channels, or of more than it has: the others are another writer's.
    read = rng.randint(1, channels + 2)
    first = rng.randint(-1, 1)
    reader = ConvLayer.on_input(
        "reader", (n, h, w, read), 3, (min(h, 3), min(w, 2)), stride=rng.randint(1, 2),
        padding=(rng.randint(0, 4), 0, 0, rng.randint(0, 1)),
    )  # fmt: skip
    boxes: Boxes = input_tiles(
        make_nest(reader, random_mapping(rng, reader, WORDS)), "sliding"
    ).fetched
    needs = completion.tiles_before(boxes, first)
    for tile in range(len(boxes.n.low)):
        wanted = (known.get(own, 0) for own in elements(boxes.at(tile), first))
        assert needs[tile] == max(wanted, default=0)
