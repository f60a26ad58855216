"""Whatever the mapping, dataflow, format and buffers: outputs equal the reference bit for bit."""

import random
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bfpsim.arch import load_arch, replace
from bfpsim.mapping.nest import Mapping
from bfpsim.quant.formats import (
    BFP,
    E2M1,
    E4M3,
    E5M2,
    INDUSTRY,
    INT8,
    MX,
    NVFP4,
    BFloat16,
    FormatError,
    LayerFormats,
    Plain,
    Rounding,
    ScaleRounding,
    quantize_activation,
)
from bfpsim.sim.simulate import simulate
from bfpsim.workloads import ConvLayer
from tests import reference
from tests.generate import (
    DATAFLOWS,
    random_arch,
    random_formats,
    random_layer,
    random_mapping,
)


def spread(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Normal values over many binades, with zeros, whole zero channels and exact powers of two."""
    values = rng.normal(size=shape) * 2.0 ** rng.integers(-9, 4, shape)
    values[rng.random(shape) < 0.1] = 0.0
    values[rng.random(shape) < 0.05] = 0.5
    values[..., : shape[-1] // 3] *= rng.random() < 0.8
    return values.astype(np.float32)


def case(seed: int, largest: int = 4):
    rng, data = random.Random(seed), np.random.default_rng(seed)
    layer = random_layer(rng, largest)
    formats = random_formats(rng)
    mapping = random_mapping(rng, layer, formats)
    arch = random_arch(rng, rng.choice(["1 bit", "32 B", "7 bit"]))
    return (
        layer,
        formats,
        mapping,
        arch,
        spread(data, layer.input_shape),
        spread(data, layer.weight_shape),
    )


@settings(max_examples=150, deadline=None, derandomize=True)
@given(st.integers(0, 2**32))
def test_output_equals_the_reference_and_counts_equal_those_without_data(seed: int) -> None:
    layer, formats, mapping, arch, inputs, weights = case(seed)
    with_data = simulate(layer, arch, mapping, formats, (inputs, weights))
    without = simulate(layer, arch, mapping, formats)
    expected = reference.layer_output(layer, formats, inputs, weights)
    output = with_data.output
    assert output is not None
    assert {i: Fraction(float(output[i])) for i in np.ndindex(output.shape)} == expected
    assert with_data.counts == without.counts
    assert list(with_data.timeline) == list(without.timeline)


@pytest.mark.long
@settings(max_examples=5000, deadline=None)
@given(st.integers(0, 2**32))
def test_output_equals_the_reference_at_length(seed: int) -> None:
    layer, formats, mapping, arch, inputs, weights = case(seed, largest=5)
    output = simulate(layer, arch, mapping, formats, (inputs, weights)).output
    expected = reference.layer_output(layer, formats, inputs, weights)
    assert {i: Fraction(float(output[i])) for i in np.ndindex(output.shape)} == expected


CANDIDATES = [
    BFP(bits, exponent, block)
    for bits, exponents in ((16, range(2, 8)), (8, range(2, 7)))
    for exponent in exponents
    for block in (1, 2, 4, 8, 16, 24, 32, 48)
]


@pytest.mark.parametrize("fmt", CANDIDATES, ids=str)
def test_every_candidate_of_the_paper_with_cut_blocks(fmt: BFP) -> None:
    """C=50 leaves a short block everywhere; tiles of 7 input channels cut most blocks."""
    layer = ConvLayer("cut", K=3, C=50, P=2, Q=2, R=2, S=1, padding=(1, 0))
    formats = LayerFormats(fmt, fmt, BFP(8, 3, 1))
    mapping = Mapping("CKPQ", {"C": 7, "K": 2, "P": 1})
    arch = replace(load_arch("ideal-64k"), "pe_array.stationary", DATAFLOWS[fmt.block_size % 3])
    data = np.random.default_rng(fmt.block_size)
    inputs, weights = spread(data, layer.input_shape), spread(data, layer.weight_shape)
    output = simulate(layer, arch, mapping, formats, (inputs, weights)).output
    expected = reference.layer_output(layer, formats, inputs, weights)
    assert {i: Fraction(float(output[i])) for i in np.ndindex(output.shape)} == expected


MIXTURES = [
    *(LayerFormats(fmt, fmt, BFP(8, 3, 1)) for fmt in INDUSTRY.values()),
    LayerFormats(BFP(8, 3, 16), MX(E2M1), NVFP4()),
    LayerFormats(MX(E4M3), BFP(16, 5, 8), MX(INT8, ScaleRounding.RCEIL)),
    LayerFormats(NVFP4(), MX(E5M2), Plain(32)),
    LayerFormats(Plain(16), NVFP4(), BFloat16()),
]


@pytest.mark.parametrize("formats", MIXTURES, ids=str)
@pytest.mark.parametrize("depthwise", [False, True])
def test_formats_of_industry_and_mixed_families_with_cut_blocks(
    formats: LayerFormats, depthwise: bool
) -> None:
    """70 channels are three blocks and more, the last one short; tiles cut most of them."""
    layer = ConvLayer("cut", K=3, C=70, P=2, Q=2, R=2, S=2, padding=(1, 0))
    mapping = Mapping("CPQ", {"C": 9, "P": 1})
    if depthwise:
        layer = ConvLayer("cut", G=35, K=2, C=1, P=2, Q=2, R=2, S=2, padding=(1, 0))
        mapping = Mapping("GPQ", {"G": 16, "P": 1})
    arch = replace(load_arch("ideal-64k"), "pe_array.stationary", DATAFLOWS[len(str(formats)) % 3])
    data = np.random.default_rng(len(str(formats)))
    inputs, weights = spread(data, layer.input_shape), spread(data, layer.weight_shape)
    result = simulate(layer, arch, mapping, formats, (inputs, weights))
    expected = reference.layer_output(layer, formats, inputs, weights)
    output = result.output
    assert {i: Fraction(float(output[i])) for i in np.ndindex(output.shape)} == expected
    assert result.counts == simulate(layer, arch, mapping, formats).counts
    assert result.accumulator_width <= 90  # of integers, the tensors' FP32 scales apart


def test_results_do_not_depend_on_mapping_dataflow_or_buffer() -> None:
    layer = ConvLayer("same", K=8, C=12, P=5, Q=6, R=3, S=3, padding=1)
    formats = LayerFormats(BFP(8, 3, 4), BFP(8, 3, 8), BFP(8, 3, 4))
    data = np.random.default_rng(0)
    operands = spread(data, layer.input_shape), spread(data, layer.weight_shape)
    outputs = set()
    for name in ("ideal-16k", "ideal-64k-double", "ideal-64k-split", "ideal-64k-im2col"):
        for mapping in (Mapping(), Mapping("CPKQ", {"C": 5, "P": 2, "K": 4, "Q": 1})):
            q = simulate(layer, load_arch(name), mapping, formats, operands).quantized
            outputs.add((q.fields.tobytes(), q.codes.tobytes(), q.top))
    assert len(outputs) == 1


def test_fp32_accumulation_rounds_each_addition_in_the_stated_order() -> None:
    """2^24 + 1 + 1 is 2^24 in binary32 taken one by one, and 2^24 + 2 exactly."""
    layer = ConvLayer("order", K=1, C=3, P=1, Q=1)
    formats = LayerFormats(BFP(16, 6, 1), BFP(16, 6, 1), Plain(32))
    operands = np.array([2.0**24, 1, 1]).reshape(1, 1, 1, 3), np.ones((1, 3, 1, 1))
    arch = load_arch("ideal-64k")
    fp32 = replace(arch, "pe_array.accumulator", "fp32")
    assert simulate(layer, arch, Mapping(), formats, operands).output.item() == 2**24 + 2
    assert simulate(layer, fp32, Mapping(), formats, operands).output.item() == 2**24
    reordered = operands[0][..., ::-1], operands[1]
    assert simulate(layer, fp32, Mapping(), formats, reordered).output.item() == 2**24 + 2
    # One block of three channels is one integer dot product, rounded once.
    together = LayerFormats(BFP(32, 3, 4), BFP(16, 6, 4), Plain(32))
    assert simulate(layer, fp32, Mapping(), together, operands).output.item() == 2**24 + 2


def test_fp32_accumulation_follows_the_tiles_of_c() -> None:
    layer = ConvLayer("tiles", K=1, C=3, P=1, Q=2)
    formats = LayerFormats(BFP(16, 6, 1), BFP(16, 6, 1), Plain(32))
    operands = np.array([2.0**24, 1, 1] * 2).reshape(1, 1, 2, 3), np.ones((1, 3, 1, 1))
    fp32 = replace(load_arch("ideal-64k"), "pe_array.accumulator", "fp32")
    spilled = Mapping("CQ", {"C": 1, "Q": 1})
    assert simulate(layer, fp32, spilled, formats, operands).output.tolist() == [
        [[[2.0**24], [2.0**24]]]
    ]


def test_the_width_that_the_accumulator_needed_is_reported() -> None:
    """Four products of (+-7)^2 sum to 196: eight bits and a sign."""
    layer = ConvLayer("width", K=1, C=4, P=1, Q=1)
    formats = LayerFormats.uniform(Plain(4))
    operands = np.full((1, 1, 1, 4), 7.0), np.full((1, 4, 1, 1), 7.0)
    result = simulate(layer, load_arch("ideal-64k"), Mapping(), formats, operands)
    assert result.accumulator_width == 9


def test_already_quantised_operands_are_taken_as_they_are() -> None:
    layer = ConvLayer("given", K=2, C=4, P=2, Q=2)
    fmt = BFP(8, 3, 4)
    data = np.random.default_rng(1)
    inputs, weights = spread(data, layer.input_shape), spread(data, layer.weight_shape)
    arch, formats = load_arch("ideal-64k"), LayerFormats.uniform(fmt)
    shifted = quantize_activation(inputs, fmt, top=5)
    result = simulate(layer, arch, Mapping(), formats, (shifted, weights))
    kept, _ = reference.quantised(reference.exact(inputs), "I", layer, fmt, 5)
    kept_w, _ = reference.quantised(reference.exact(weights), "W", layer, fmt, None)
    sums = reference.convolution(layer, kept, kept_w)
    expected, _ = reference.quantised(sums, "O", layer, fmt, None)
    assert {i: Fraction(float(result.output[i])) for i in expected} == expected


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        (np.full((1, 2, 2, 4), np.nan), r"bad input: 16 of 16 values are NaN or infinite"),
        (np.zeros((1, 2, 3, 4)), r"bad input has shape \(1, 2, 3, 4\); allowed: \(1, 2, 2, 4\)"),
        (
            quantize_activation(np.zeros((1, 2, 2, 4)), Plain(8)),
            "bad input is quantised as plain8; allowed: bfp8e3b16",
        ),
        (
            quantize_activation(np.zeros((1, 2, 9, 4)), BFP(8, 3, 16)),
            r"bad input has shape \(1, 2, 9, 4\)",
        ),
    ],
    ids=["nan", "shape", "format", "quantised shape"],
)
def test_unusable_data_is_named(inputs: object, message: str) -> None:
    layer = ConvLayer("bad", K=2, C=4, P=2, Q=2)
    formats = LayerFormats.uniform(BFP(8, 3, 16))
    with pytest.raises(FormatError, match=message):
        simulate(layer, load_arch("ideal-64k"), Mapping(), formats, (inputs, np.ones((2, 4, 1, 1))))


def test_a_stochastic_output_format_is_refused() -> None:
    layer = ConvLayer("dice", K=2, C=4, P=2, Q=2)
    fmt = BFP(8, 3, 16, Rounding.STOCHASTIC)
    formats = LayerFormats(BFP(8, 3, 16), BFP(8, 3, 16), fmt)
    with pytest.raises(FormatError, match="rounds stochastically"):
        simulate(
            layer,
            load_arch("ideal-64k"),
            Mapping(),
            formats,
            (np.ones(layer.input_shape), np.ones(layer.weight_shape)),
        )
