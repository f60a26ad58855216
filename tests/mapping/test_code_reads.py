"""Tables of code reads equal the sum over all tiles, each counted by itself."""

import random

import numpy as np
import pytest

from bfpsim.mapping.closed.array import input_reads, one_size, weight_reads
from bfpsim.mapping.steps.array import Tile, input_codes, weight_codes
from bfpsim.mapping.window import Window
from bfpsim.quant.formats import BFP, NVFP4
from tests.generate import random_arch, random_layer
from tests.long import often

ONE = Tile(*[(0, 1)] * 8)


def spans(extent: int, size: int) -> list[tuple[int, int]]:
    return [(low, min(low + size, extent)) for low in range(0, extent, size)]


@pytest.mark.parametrize("seed", often(60, range(150)))
def test_a_table_is_the_sum_over_tiles(seed: int) -> None:
    rng = random.Random(seed)
    layer, array = random_layer(rng, 6), random_arch(rng).pe_array
    one = ONE._replace(R=(0, layer.R), S=(0, layer.S))
    block_size = rng.choice([1, 2, 3, 4, 8])
    fmt = BFP(8, 4, block_size) if rng.random() < 0.7 else NVFP4()
    groups, filters, channels = (range(1, layer.dims[d] + 1) for d in "GKC")
    sizes = [np.array(own) for own in (groups, filters, channels)]
    rows, cols = (Window.of(layer, d).uses((0, layer.dims[d])) for d in "PQ")
    read = input_reads(layer, array, fmt, *map(one_size, sizes[::2])).codes
    for g, c in np.ndindex(read.shape):
        assert read[g, c] == layer.N * sum(
            count * rows[r] * cols[s]
            for of_g in spans(layer.G, g + 1)
            for of_c in spans(layer.C, c + 1)
            for r, line in enumerate(input_codes(layer, one._replace(G=of_g, C=of_c), array, fmt))
            for s, count in enumerate(line)
        )
    read = weight_reads(layer, array, fmt, *map(one_size, sizes)).codes
    for g, k, c in np.ndindex(len(groups), len(filters), len(channels)):
        assert np.broadcast_to(read, (len(groups), len(filters), len(channels)))[g, k, c] == sum(
            weight_codes(layer, one._replace(G=of_g, K=of_k, C=of_c), array, fmt)
            for of_g in spans(layer.G, g + 1)
            for of_k in spans(layer.K, k + 1)
            for of_c in spans(layer.C, c + 1)
        )
