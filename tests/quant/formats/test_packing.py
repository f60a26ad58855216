"""Packed bytes equal a string of bits written in the documented order."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bfpsim.quant.formats import (
    BFP,
    ActivationLayout,
    Format,
    FormatError,
    PartialSums,
    Plain,
    Quantized,
    WeightLayout,
    activation_block,
    pack,
    quantize_activation,
    unpack,
    weight_block,
)
from bfpsim.quant.formats.packing import read_fields, write_fields
from tests.quant.oracle import bit_string, positions, twos_complement

bfps = st.builds(
    lambda widths, block: BFP(*widths, block),
    st.tuples(st.integers(3, 32), st.integers(1, 8)).filter(lambda w: w[0] - w[1] >= 2),
    st.sampled_from([1, 2, 3, 4, 8, 16, 48]),
)
any_format = bfps | st.builds(Plain, st.integers(2, 32))
sizes = st.tuples(*[st.integers(1, 3)] * 3, st.integers(1, 20))


def filled(shape, fmt: Format, block, codes_shape, seed: int) -> Quantized:
    """A tensor of arbitrary fields and codes, the extreme ones among them."""
    rng = np.random.default_rng(seed)
    if isinstance(fmt, Plain) and fmt.is_float:
        low, high = 0, 2**fmt.bits
    else:
        width = fmt.bits - (fmt.exponent_bits if isinstance(fmt, BFP) else 0)
        low, high = -(2 ** (width - 1)), 2 ** (width - 1)
    fields = rng.integers(low, high, shape)
    fields.flat[0], fields.flat[-1] = low, high - 1
    has_codes = isinstance(fmt, BFP)
    codes = rng.integers(0, 2**fmt.exponent_bits, codes_shape) if has_codes else np.empty(0, int)
    return Quantized(fields, codes, -7, fmt, block)


def check(q: Quantized, layout: ActivationLayout | WeightLayout) -> None:
    bits = bit_string(q.fields, q.codes, q.fmt, isinstance(layout, WeightLayout))
    width = q.fmt.bits - (q.fmt.exponent_bits if isinstance(q.fmt, BFP) else 0)
    assert layout.bits == len(bits) == width * q.fields.size + (q.fmt.bits - width) * q.codes.size
    packed = pack(q, layout)
    whole = -(-len(bits) // 8) * 8
    assert packed == int(bits.ljust(whole, "0"), 2).to_bytes(whole // 8, "big")
    back = unpack(packed, layout, q.top, q.block)
    assert np.array_equal(back.fields, q.fields)
    assert np.array_equal(back.codes, q.codes)
    assert (back.top, back.fmt, back.block) == (q.top, q.fmt, q.block)
    for wrong in (packed[:-1], packed + b"\0"):
        with pytest.raises(ValueError, match=f"has {len(wrong)} bytes; allowed: {len(packed)}$"):
            unpack(wrong, layout, q.top, q.block)


@settings(max_examples=120, deadline=None, derandomize=True)
@given(sizes, any_format, st.integers(0, 2**32))
def test_activations_are_pixels_of_blocks(shape, fmt: Format, seed: int) -> None:
    blocks = -(-shape[3] // fmt.block_size) if isinstance(fmt, BFP) else 0
    q = filled(shape, fmt, activation_block(fmt, shape), (*shape[:3], blocks), seed)
    check(q, ActivationLayout(shape, fmt))


@settings(max_examples=120, deadline=None, derandomize=True)
@given(sizes, any_format, st.integers(0, 2**32), st.booleans())
def test_weights_are_filters_of_blocks(shape, fmt: Format, seed: int, depthwise: bool) -> None:
    r, s, k, c = shape
    shape = (c, 1, r, s) if depthwise else (k, c + 1, r, s)
    size = fmt.block_size if isinstance(fmt, BFP) else 1
    codes = (-(-c // size), 1, 1, 1) if depthwise else (k, -(-(c + 1) // size), 1, 1)
    check(filled(shape, fmt, weight_block(fmt, shape), codes, seed), WeightLayout(shape, fmt))


def test_two_pixels_by_hand() -> None:
    """Mantissas of 3 bit, codes of 2 bit, blocks of 2 channels out of 3."""
    fmt, shape = BFP(5, 2, 2), (1, 1, 2, 3)
    fields = np.array([[[[3, -3, 1], [0, 2, -1]]]])
    codes = np.array([[[[0, 2], [1, 3]]]])
    q = Quantized(fields, codes, 5, fmt, (1, 1, 1, 2))
    bits = "00 011 101  10 001" + "01 000 010  11 111" + "000000"
    assert pack(q, ActivationLayout(shape, fmt)) == bytes(
        int(bits.replace(" ", "")[i : i + 8], 2) for i in range(0, 32, 8)
    )


def test_a_filter_by_hand_is_ordered_tap_then_channel() -> None:
    """Two input channels of 1 x 2 taps: both channels of the first tap come first."""
    fmt = BFP(4, 1, 2)
    q = Quantized(np.array([[[[1, 2]], [[3, -1]]]]), np.array([[[[1]]]]), 0, fmt, (1, 2, 1, 2))
    assert pack(q, WeightLayout((1, 2, 1, 2), fmt)) == bytes([0b1_001_011_0, 0b10_111_000])


def test_depthwise_filters_by_hand_are_ordered_filter_then_tap() -> None:
    fmt = BFP(4, 1, 2)
    q = Quantized(np.array([[[[1, 2]]], [[[3, -1]]]]), np.array([[[[1]]]]), 0, fmt, (2, 1, 1, 2))
    assert pack(q, WeightLayout((2, 1, 1, 2), fmt)) == bytes([0b1_001_010_0, 0b11_111_000])


# --- addresses ----------------------------------------------------------------------------------


def starts(bits: dict, is_code: bool, *axes) -> list[int]:
    """First bits of the fields at the product of the axes' indices."""
    grid = np.array(np.meshgrid(*axes, indexing="ij")).reshape(len(axes), -1).T
    return [bits[is_code, tuple(map(int, index))].start for index in grid]


def part(rng: np.random.Generator, size: int) -> tuple[int, int]:
    low, high = sorted(int(i) for i in rng.integers(0, size + 1, 2))
    return (low, high) if low < high else (0, size)


@settings(max_examples=80, deadline=None, derandomize=True)
@given(sizes, any_format, st.integers(0, 2**32))
def test_activation_addresses_are_where_the_fields_lie(shape, fmt: Format, seed: int) -> None:
    rng, layout = np.random.default_rng(seed), ActivationLayout(shape, fmt)
    bits = positions(shape, fmt, weights=False)
    box = [part(rng, size) for size in shape]
    axes = [range(*interval) for interval in box]
    found = layout.field_addresses(*box[:3], [box[3]])
    assert found.shape == tuple(map(len, axes))
    assert found.ravel().tolist() == starts(bits, False, *axes)
    if isinstance(fmt, BFP):
        blocks = np.arange(*part(rng, -(-shape[3] // fmt.block_size)))
        codes = layout.code_addresses(*box[:3], blocks)
        assert codes.ravel().tolist() == starts(bits, True, *axes[:3], blocks)


@settings(max_examples=80, deadline=None, derandomize=True)
@given(sizes, any_format, st.integers(0, 2**32), st.booleans())
def test_weight_addresses_are_where_the_fields_lie(shape, fmt, seed: int, depthwise: bool) -> None:
    r, s, k, c = shape
    shape = (c, 1, r, s) if depthwise else (k, c + 1, r, s)
    rng, layout = np.random.default_rng(seed), WeightLayout(shape, fmt)
    bits = positions(shape, fmt, weights=True)
    filters, channels = part(rng, shape[0]), part(rng, shape[1])
    found = layout.field_addresses([filters], channels)
    axes = (range(*filters), range(*channels), range(r), range(s))
    assert found.shape == tuple(map(len, axes))
    assert found.ravel().tolist() == starts(bits, False, *axes)
    if isinstance(fmt, BFP):
        blocks = np.arange(*part(rng, -(-shape[not depthwise] // fmt.block_size)))
        codes = layout.code_addresses(np.arange(*filters), blocks)
        at = (blocks, [0], [0], [0]) if depthwise else (range(*filters), blocks, [0], [0])
        assert codes.ravel().tolist() == starts(bits, True, *at)


# --- fields in memory ---------------------------------------------------------------------------


@settings(max_examples=150, deadline=None, derandomize=True)
@given(st.integers(1, 32), st.lists(st.integers(0, 40), min_size=1, max_size=12), st.integers(0))
def test_writing_fields_touches_no_other_bit(width: int, gaps: list[int], seed: int) -> None:
    rng = np.random.default_rng(seed)
    at, end = [], 0
    for gap in gaps:  # some fields adjoin, most share bytes with neighbours
        at.append(end + gap)
        end = at[-1] + width
    memory = rng.integers(0, 256, -(-end // 8) + 5).astype(np.uint8)
    values = rng.integers(-(2**31), 2**31, len(at))
    bits = list("".join(twos_complement(int(byte), 8) for byte in memory))
    for start, value in zip(at, values, strict=True):
        bits[start : start + width] = twos_complement(int(value), width)
    order = rng.permutation(len(at))
    addresses = np.array(at)[order]
    write_fields(memory, addresses, width, values[order])
    assert "".join(twos_complement(int(byte), 8) for byte in memory) == "".join(bits)
    found = read_fields(memory, addresses, width)
    assert found.tolist() == [int(v) % 2**width for v in values[order]]


# --- bad input ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shape", "fmt"), [((1, 3, 2, 4), BFP(8, 3, 4)), ((1, 2, 3, 4), BFP(8, 4, 4))]
)
def test_a_tensor_is_packed_only_in_its_own_layout(shape, fmt: BFP) -> None:
    q = quantize_activation(np.ones((1, 2, 3, 4)), BFP(8, 3, 4))
    with pytest.raises(FormatError) as error:
        pack(q, ActivationLayout(shape, fmt))
    assert f"bfp8e3b4 tensor of shape (1, 2, 3, 4); allowed: the layout's {fmt}, {shape}" in str(
        error.value
    )


def test_partial_sums_are_no_values() -> None:
    layout = ActivationLayout((1, 1, 1, 4), PartialSums(32))
    assert layout.bits == 128
    with pytest.raises(FormatError, match="allowed: BFP, Plain"):
        unpack(bytes(16), layout, 0, (1, 1, 1, 4))
