"""Data through the registers of PEs: outputs bit for bit, and the counts of a run without data."""

from fractions import Fraction

import numpy as np
import pytest

from bfpsim.sim.simulate import simulate
from tests import reference
from tests.long import often
from tests.mapping.test_registers import points
from tests.sim.test_exactness import spread


@pytest.mark.parametrize("seed", often(8, range(200)))
def test_output_and_counts(seed: int) -> None:
    for layer, arch, mapping, formats, _ in points(4000 + seed, 4):
        rng = np.random.default_rng(seed)
        data = spread(rng, layer.input_shape), spread(rng, layer.weight_shape)
        result = simulate(layer, arch, mapping, formats, data)
        expected = reference.layer_output(layer, formats, *data)
        assert {i: Fraction(float(result.output[i])) for i in expected} == expected
        alone = simulate(layer, arch, mapping, formats)
        assert result.counts == alone.counts, (layer, arch, mapping, formats)
        assert list(result.timeline) == list(alone.timeline)
