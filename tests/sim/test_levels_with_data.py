"""Data through levels between SRAM and array: outputs bit for bit, and counts of what moved."""

import random
from fractions import Fraction

import numpy as np
import pytest

from bfpsim.arch import Arch
from bfpsim.mapping.nest import DIMS, EVERY_DIM, TENSORS, Mapping, MappingError
from bfpsim.quant.formats import BFP, LayerFormats, Plain
from bfpsim.sim.result import LayerResult
from bfpsim.sim.simulate import simulate
from bfpsim.workloads import ConvLayer
from tests import reference
from tests.generate import random_arch, random_formats, random_layer, random_mapping
from tests.sim.test_exactness import spread

HIERARCHIES = (
    {"acc": "O"},
    {"ibuf": "I"},
    {"wbuf": "W"},
    {"all": "IWO"},
    {"operands": "IW", "acc": "O"},
    {"middle": "O", "acc": "O"},
    {"outer": "IWO", "inner": "IWO"},
    {"acc": "O", "ibuf": "I"},
)
"""Levels and what each holds, outermost first."""


def with_levels(arch: Arch, levels: dict[str, str], rng: random.Random) -> Arch:
    """The architecture with roomy levels between SRAM and array."""
    listed = [
        {
            "name": name,
            "tensors": list(tensors),
            "capacity": "16 MiB",
            "double_buffered": rng.random() < 0.5,
        }
        for name, tensors in levels.items()
    ]
    return Arch.model_validate(arch.model_dump(by_alias=True) | {"levels": listed})


def inside(rng: random.Random, layer: ConvLayer, outer: Mapping, levels: dict[str, str]) -> Mapping:
    """Any cuts at the levels of the tile outside."""
    size = layer.dims | outer.tile
    inner = {}
    for name in levels:
        dims = rng.sample(EVERY_DIM, len(EVERY_DIM))
        tile = {d: rng.randint(1, size[d]) for d in rng.sample(dims, rng.randint(0, 4))}
        inner[name] = Mapping("".join(dims), tile)
        size |= tile
    return Mapping(outer.order, outer.tile, inner)


class Point:
    """A layer on a hierarchy under a legal mapping, with data."""

    def __init__(self, seed: int, levels: dict[str, str], largest: int = 4) -> None:
        rng, data = random.Random(seed), np.random.default_rng(seed)
        while True:
            self.layer, self.formats = random_layer(rng, largest), random_formats(rng)
            flat = random_arch(rng, rng.choice(["1 bit", "32 B"]))
            self.flat, self.arch = flat, with_levels(flat, levels, rng)
            self.outer = random_mapping(rng, self.layer, self.formats)
            self.mapping = inside(rng, self.layer, self.outer, levels)
            self.data = spread(data, self.layer.input_shape), spread(data, self.layer.weight_shape)
            try:
                self.sizes = simulate(self.layer, self.arch, self.mapping, self.formats)
            except MappingError:  # a tile of O that cuts a block
                continue
            return

    def run(self) -> LayerResult:
        """Data through all levels."""
        return simulate(self.layer, self.arch, self.mapping, self.formats, self.data)


SEEDS = [pytest.param(s, marks=[pytest.mark.long] * (s > 11)) for s in range(300)]


@pytest.mark.parametrize("levels", HIERARCHIES, ids=" ".join)
@pytest.mark.parametrize("seed", SEEDS)
def test_output_and_counts(seed: int, levels: dict[str, str]) -> None:
    point = Point(seed, levels)
    result = point.run()
    expected = reference.layer_output(point.layer, point.formats, *point.data)
    assert {i: Fraction(float(result.output[i])) for i in expected} == expected
    assert result.counts == point.sizes.counts
    assert list(result.timeline) == list(point.sizes.timeline)
    flat = simulate(point.layer, point.flat, point.outer, point.formats, point.data)
    assert result.quantized.fields.tobytes() == flat.quantized.fields.tobytes()
    assert result.quantized.codes.tobytes() == flat.quantized.codes.tobytes()
