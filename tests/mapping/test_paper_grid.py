"""The paper's model over all tile sizes at once: every point equals the scalar model."""

import random
from fractions import Fraction

import numpy as np
import pytest

from bfpsim.mapping.closed.levels import paper_inner_counts
from bfpsim.mapping.closed.paper import array_elements, of_sizes
from bfpsim.mapping.closed.traffic import PAPER
from bfpsim.mapping.models import outer_counts
from bfpsim.mapping.nest import DIMS, Mapping, make_nest
from bfpsim.quant.formats import LayerFormats, Plain
from tests.generate import random_arch, random_layer


@pytest.mark.parametrize("seed", range(60))
def test_every_point_of_the_grid_equals_the_scalar_model(seed: int) -> None:
    rng = random.Random(seed)
    layer, arch = random_layer(rng, 6), random_arch(rng)
    sizes = {d: np.arange(1, layer.dims[d] + 1) for d in DIMS}
    tiling = of_sizes(layer, sizes)
    order = "".join(rng.sample(DIMS, 6))
    shape = tuple(len(sizes[d]) for d in DIMS)
    dram = {t: tiling.elements(t, order) for t in "IWO"}
    sram = array_elements(tiling, arch.pe_array)
    words = LayerFormats.uniform(Plain(8))
    for _ in range(10):
        at = tuple(rng.randrange(size) for size in shape)
        tile = {d: int(sizes[d][i]) for d, i in zip(DIMS, at, strict=True)}
        nest = make_nest(layer, Mapping(order, tile))
        wanted = (
            outer_counts(nest, arch, words, PAPER),
            paper_inner_counts(nest, arch, words),
        )
        for tensor in ("I", "W", "O"):
            for elements, counts in zip((dram, sram), wanted, strict=True):
                found = np.broadcast_to(elements[tensor], shape)[at]
                exact = float(Fraction(counts.total(tensor=tensor)) / 8)
                assert found == pytest.approx(exact, rel=1e-12)
