"""Data through levels between SRAM and array: outputs bit for bit, and counts of what moved."""

import random
from dataclasses import replace
from fractions import Fraction
from itertools import pairwise, product

import numpy as np
import pytest

from bfpsim.arch import Arch
from bfpsim.arch import replace as replace_field
from bfpsim.mapping.nest import EVERY_DIM, Mapping, MappingError
from bfpsim.quant.formats import BFP, LayerFormats, Plain
from bfpsim.sim.copies import InputCopy, WeightCopy
from bfpsim.sim.result import LayerResult
from bfpsim.sim.simulate import simulate
from bfpsim.workloads import ConvLayer
from tests import reference
from tests.generate import make_arch, random_arch, random_formats, random_layer, random_mapping
from tests.mapping.test_levels import Boundary, steps
from tests.sim.test_exactness import spread

HIERARCHIES = (
    {"acc": "O"},
    {"ibuf": "I"},
    {"wbuf": "W"},
    {"every": "IWO"},
    {"operands": "IW", "acc": "O"},
    {"middle": "O", "acc": "O"},
    {"outer": "IWO", "inner": "IWO"},
    {"acc": "O", "ibuf": "I"},
    {"middle": "O", "operands": "IW", "acc": "O"},
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
    size = layer.dims | {"R": layer.R, "S": layer.S} | outer.tile
    inner = {}
    for name in levels:
        several = [d for d in EVERY_DIM if size[d] > 1]
        cut = rng.sample(several, rng.randint(0, min(4, len(several))))
        tile = {d: rng.randint(1, size[d] - 1) for d in cut}
        inner[name] = Mapping("".join(cut), tile)
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


def holders(levels: dict[str, str], tensor: str) -> list[str]:
    return ["DRAM", "SRAM", *(name for name, held in levels.items() if tensor in held)]


@pytest.mark.parametrize("levels", HIERARCHIES, ids=" ".join)
@pytest.mark.parametrize("seed", SEEDS[:4])
def test_what_leaves_a_level_enters_the_next(seed: int, levels: dict[str, str]) -> None:
    """Operands inwards, results once outwards, and sums are read as often as they are written."""
    point = Point(1000 + seed, levels)
    counts, layer, fmt = point.run().counts, point.layer, point.formats.O
    for tensor in ("I", "W"):
        for outside, inner in pairwise(holders(levels, tensor)):
            for kind in ("mantissa", "exponent"):
                left = counts.total(outside, tensor, "read", kind)
                assert left == counts.total(inner, tensor, "write", kind), (tensor, outside, inner)
                assert left >= 0
    outputs = layer.N * layer.P * layer.Q * layer.G * layer.K
    own = holders(levels, "O")
    for level in own:
        written, read = (counts.total(level, "O", d, "psum") for d in ("write", "read"))
        assert written == read, level
    for level in own[: 2 if len(own) == 2 else -1]:  # accumulators hold no results
        assert counts.total(level, "O", "write", "mantissa") == outputs * fmt.mantissa_bits
        for kind in ("mantissa", "exponent"):
            read = 0 if level == "DRAM" else counts.total(level, "O", "write", kind)
            assert counts.total(level, "O", "read", kind) == read


LAYERS = {
    "groups": ConvLayer("groups", N=2, G=2, K=4, C=5, P=3, Q=4, R=3, S=2, padding=1),
    "depthwise": ConvLayer.depthwise_conv("depthwise", 8, 5, 4, 3, 3, padding=1),
    "strides": ConvLayer("strides", K=4, C=3, P=4, Q=3, R=3, S=3, stride=(2, 3), padding=2),
    "dilation": ConvLayer("dilation", K=4, C=6, P=4, Q=4, R=2, S=3, dilation=2, padding=(0, 3)),
}


@pytest.mark.parametrize("layer", LAYERS.values(), ids=LAYERS)
@pytest.mark.parametrize("padding", ["skip", "fetch"])
@pytest.mark.parametrize("stationary", ["weight", "output", "input"])
def test_every_kind_of_layer_through_five_levels(
    layer: ConvLayer, padding: str, stationary: str
) -> None:
    """A middle level of O, buffers of I and W, accumulators; R and S cut at two of them."""
    levels = {"middle": "O", "operands": "IW", "acc": "O"}
    flat = make_arch(padding=padding, stationary=stationary, rows=("C", 4), cols=("K", 2))
    arch = with_levels(flat, levels, random.Random(0))
    channels = {"G": 4} if layer.depthwise else {"K": 4}
    outer = Mapping("PGK", channels | {"P": 2})
    inner = {
        "middle": Mapping("CQ", {"C": -(-layer.C // 2), "Q": 2}),
        "operands": Mapping("RSP", {"R": 1, "S": 2, "P": 1}),
        "acc": Mapping("SCQ", {"S": 1, "C": 1, "Q": 1}),
    }
    mapping = Mapping(outer.order, outer.tile, inner)
    formats = LayerFormats(BFP(8, 3, 4), BFP(8, 3, 2), BFP(8, 3, 4))
    rng = np.random.default_rng(len(layer.name))
    data = spread(rng, layer.input_shape), spread(rng, layer.weight_shape)
    result = simulate(layer, arch, mapping, formats, data)
    expected = reference.layer_output(layer, formats, *data)
    assert {i: Fraction(float(result.output[i])) for i in expected} == expected
    assert result.counts == simulate(layer, arch, mapping, formats).counts
    spilled = [level for level in ("SRAM", "middle") if result.counts.total(level, kind="psum")]
    assert spilled == (["middle"] if layer.depthwise else ["SRAM", "middle"])


def test_an_output_through_accumulators_by_hand() -> None:
    """Two weights by two pixels, K and Q in tiles of 1 inside one step, C in two steps of SRAM.

    Accumulators of one K: both pixels lie there at once. SRAM to accumulators: each of the two K
    leaves once as sums, comes back, and leaves as a result.
    """
    layer = ConvLayer("hand", K=2, C=2, P=1, Q=2)
    levels = {"acc": "O", "pixels": "I"}
    arch = with_levels(make_arch(rows=("C", 1), cols=("K", 1)), levels, random.Random(0))
    inner = {"acc": Mapping("K", {"K": 1}), "pixels": Mapping("Q", {"Q": 1})}
    mapping = Mapping("C", {"C": 1}, inner)
    formats = LayerFormats.uniform(Plain(8))
    inputs = np.array([[[[1.0, 2.0], [3.0, 4.0]]]])
    weights = np.array([[1.0, 2.0], [3.0, -1.0]]).reshape(2, 2, 1, 1)
    result = simulate(layer, arch, mapping, formats, (inputs, weights))
    assert result.output.tolist() == [[[[5.0, 1.0], [11.0, 5.0]]]]
    moved = {
        (level, tensor, direction, kind): result.counts.total(level, tensor, direction, kind)
        for level, tensor, direction, kind in result.counts
        if level != "DRAM"
    }
    four_sums, four_results, pixels = 4 * 32, 4 * 8, 2 * 2 * 2 * 8
    assert moved == {
        ("SRAM", "I", "write", "mantissa"): 4 * 8,
        ("SRAM", "W", "write", "mantissa"): 4 * 8,
        ("SRAM", "I", "read", "mantissa"): pixels,
        ("pixels", "I", "write", "mantissa"): pixels,
        ("pixels", "I", "read", "mantissa"): pixels,
        ("SRAM", "W", "read", "mantissa"): 8 * 8,
        ("acc", "O", "write", "psum"): 2 * four_sums + four_sums,
        ("acc", "O", "read", "psum"): four_sums + 2 * four_sums,
        ("SRAM", "O", "write", "psum"): four_sums,
        ("SRAM", "O", "read", "psum"): four_sums,
        ("SRAM", "O", "write", "mantissa"): four_results,
        ("SRAM", "O", "read", "mantissa"): four_results,
    }


@pytest.mark.parametrize("tensor", ["I", "W"])
def test_the_array_reads_its_level_and_nothing_else(
    tensor: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What reaches the innermost holder as zeros is multiplied as zeros."""
    layer = ConvLayer("zeros", K=8, C=4, P=3, Q=3, R=2, S=2)
    formats = LayerFormats.uniform(BFP(8, 3, 4))
    levels = {"near": tensor}
    arch = with_levels(make_arch(), levels, random.Random(0))
    data = np.ones(layer.input_shape), np.ones(layer.weight_shape)
    mapping = Mapping("PQ", {"P": 2, "Q": 1}, {"near": Mapping("CK", {"C": 2, "K": 4})})
    assert simulate(layer, arch, mapping, formats, data).output.all()
    held = {"I": InputCopy, "W": WeightCopy}[tensor]
    whole = held.part

    def blank(self, box):
        copy = whole(self, box)
        return replace(copy, fields=np.zeros_like(copy.fields))

    monkeypatch.setattr(held, "part", blank)
    result = simulate(layer, arch, mapping, formats, data, output_top=4)
    assert not result.output.any()


def fp32_sums(
    layer: ConvLayer,
    formats: LayerFormats,
    boundaries: list[Boundary],
    data: tuple[np.ndarray, np.ndarray],
) -> dict[tuple[int, ...], Fraction]:
    """One rounded addition per tap and per run of channels that share exponents, tile by tile."""
    inputs, _ = reference.quantised(reference.exact(data[0]), "I", layer, formats.I, None)
    weights, _ = reference.quantised(reference.exact(data[1]), "W", layer, formats.W, None)
    sums: dict[tuple[int, ...], Fraction] = {}
    (sr, sc), (top, _, left, _) = layer.strides, layer.paddings
    for at in steps(layer, boundaries):
        for n, p, q, k in product(at["N"], at["P"], at["Q"], at["K"]):
            for r, s in product(at["R"], at["S"]):
                runs: dict[tuple[int, int], Fraction] = {}
                for c in at["C"]:
                    pixel = (n, p * sr + r - top, q * sc + s - left, c)
                    run = (c // formats.I.block_size, c // formats.W.block_size)
                    term = inputs.get(pixel, Fraction(0)) * weights[k, c, r, s]
                    runs[run] = runs.get(run, Fraction(0)) + term
                for term in runs.values():
                    total = sums.get((n, p, q, k), Fraction(0))
                    sums[n, p, q, k] = reference.ieee(
                        total + reference.ieee(term, np.float32), np.float32
                    )
    return sums


@pytest.mark.parametrize("seed", range(8))
def test_fp32_sums_follow_the_tiles_of_the_array(seed: int) -> None:
    rng, data_rng = random.Random(seed), np.random.default_rng(seed)
    layer = ConvLayer("fp32", K=2, C=5, P=3, Q=2, R=2, S=3, padding=1, stride=(1, 2))
    formats = LayerFormats(BFP(16, 6, 2), BFP(16, 6, 3), Plain(32))
    levels = {"middle": "O", "operands": "IW", "acc": "O"}
    arch = with_levels(make_arch(), levels, rng)
    arch = replace_field(arch, "pe_array.accumulator", "fp32")
    outer = random_mapping(rng, layer, formats)
    mapping = inside(rng, layer, outer, levels)
    data = spread(data_rng, layer.input_shape), spread(data_rng, layer.weight_shape)
    result = simulate(layer, arch, mapping, formats, data)
    boundaries = [(own.order, own.tile) for own in (outer, *mapping.inner.values())]
    expected = fp32_sums(layer, formats, boundaries, data)
    assert {i: Fraction(float(result.output[i])) for i in expected} == expected
    assert result.counts == simulate(layer, arch, mapping, formats).counts
