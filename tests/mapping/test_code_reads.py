"""Tables of code reads equal the sum over all tiles, each counted by itself."""

import random

import numpy as np
import pytest

from bfpsim.mapping.closed.array import input_reads, weight_reads
from bfpsim.mapping.steps.array import Tile, input_codes, weight_codes
from bfpsim.mapping.window import Window
from bfpsim.quant.formats import BFP
from tests.generate import random_arch, random_layer
from tests.long import often

ONE = Tile((0, 1), (0, 1), (0, 1), (0, 1), (0, 1), (0, 1))


def spans(extent: int, size: int) -> list[tuple[int, int]]:
    return [(low, min(low + size, extent)) for low in range(0, extent, size)]


@pytest.mark.parametrize("seed", often(60, range(150)))
def test_a_table_is_the_sum_over_tiles(seed: int) -> None:
    rng = random.Random(seed)
    layer, array = random_layer(rng, 6), random_arch(rng).pe_array
    block_size = rng.choice([1, 2, 3, 4, 8])
    fmt = BFP(8, 4, block_size)
    groups, filters, channels = (range(1, layer.dims[d] + 1) for d in "GKC")
    rows, cols = (Window.of(layer, d).uses((0, layer.dims[d])) for d in "PQ")
    read = input_reads(layer, array, fmt, np.array(groups), np.array(channels)).codes
    for g, c in np.ndindex(read.shape):
        assert read[g, c] == layer.N * sum(
            count * rows[r] * cols[s]
            for of_g in spans(layer.G, g + 1)
            for of_c in spans(layer.C, c + 1)
            for r, line in enumerate(input_codes(layer, ONE._replace(G=of_g, C=of_c), array, fmt))
            for s, count in enumerate(line)
        )
    read = weight_reads(
        layer, array, fmt, np.array(groups), np.array(filters), np.array(channels)
    ).codes
    for g, k, c in np.ndindex(len(groups), len(filters), len(channels)):
        assert np.broadcast_to(read, (len(groups), len(filters), len(channels)))[g, k, c] == sum(
            weight_codes(layer, ONE._replace(G=of_g, K=of_k, C=of_c), array, fmt)
            for of_g in spans(layer.G, g + 1)
            for of_k in spans(layer.K, k + 1)
            for of_c in spans(layer.C, c + 1)
        )
