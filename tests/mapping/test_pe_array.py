"""The array's traffic against an enumeration of every fold, cycle and lane."""

import random

import pytest

from bfpsim.arch import PEArray
from bfpsim.mapping.array import passes
from bfpsim.mapping.nest import EVERY_DIM
from bfpsim.mapping.steps.array import Tile, array_traffic
from bfpsim.quant.formats import BFP, LayerFormats, Plain
from bfpsim.workloads import ConvLayer
from tests.generate import (
    AXES,
    DATAFLOWS,
    make_arch,
    random_axes,
    random_formats,
    random_layer,
    random_mapping,
)
from tests.long import often
from tests.mapping.oracle import ArrayReads, odometer, run_array

WORDS = LayerFormats.uniform(Plain(8))


def tile_of(ranges: dict[str, range]) -> Tile:
    return Tile(*((ranges[d].start, ranges[d].stop) for d in EVERY_DIM))


def whole(layer: ConvLayer) -> dict[str, range]:
    return {d: range(size) for d, size in (layer.dims | {"R": layer.R, "S": layer.S}).items()}


def in_bits(reads: ArrayReads, array: PEArray, formats: LayerFormats) -> tuple[int, ...]:
    return (
        reads.cycles * passes(array, formats),
        reads.inputs * formats.I.mantissa_bits,
        reads.input_codes * formats.I.exponent_bits,
        reads.weights * formats.W.mantissa_bits,
        reads.weight_codes * formats.W.exponent_bits,
        reads.outputs,
        reads.psums // reads.outputs,
    )


@pytest.mark.parametrize("stationary", DATAFLOWS)
@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("axes", AXES)
def test_every_lane_of_every_cycle(axes: tuple[str, str], turned: bool, stationary: str) -> None:
    rng = random.Random(f"{axes} {turned} {stationary}")
    rows, cols = axes[::-1] if turned else axes
    for _ in range(12):
        layer, formats = random_layer(rng, largest=4), random_formats(rng)
        arch = make_arch(
            rows=(rows, rng.choice([1, 2, 3, 4, 5])),
            cols=(cols, rng.choice([1, 2, 3, 4, 5])),
            stationary=stationary,
            mac_bits=rng.choice([4, 8]),
        )
        steps = list(odometer(layer, random_mapping(rng, layer, formats)))
        ranges = rng.choice(steps).ranges
        if layer.R * layer.S * tile_volume(ranges) > 3000:
            continue
        reads = run_array(layer, ranges, arch.pe_array, formats)
        assert reads.psums % reads.outputs == 0  # every output has as many contributions
        ranges = whole(layer) | ranges
        got = array_traffic(layer, tile_of(ranges), arch.pe_array, formats)
        assert got.steady == got.cycles
        assert got[1:] == in_bits(reads, arch.pe_array, formats), (layer, ranges, formats)


@pytest.mark.parametrize("seed", often(20, range(400)))
def test_any_axes_over_tiles_of_any_dimension(seed: int) -> None:
    """Up to four axes, some filled up with a further dimension; R and S cut, too."""
    rng = random.Random(seed)
    for _ in range(10):
        layer, formats = random_layer(rng, largest=4), random_formats(rng)
        arch = make_arch(axes=random_axes(rng, 4), stationary=rng.choice(DATAFLOWS))
        taken = "".join(axis.dim for axis in arch.pe_array.axes if axis.over)
        ranges = whole(layer)
        for d in EVERY_DIM:
            if d not in taken:
                low = rng.randrange(len(ranges[d]))
                ranges[d] = range(low, rng.randint(low + 1, len(ranges[d])))
        if tile_volume(ranges) > 3000:
            continue
        reads = run_array(layer, ranges, arch.pe_array, formats)
        got = array_traffic(layer, tile_of(ranges), arch.pe_array, formats)
        assert got[1:] == in_bits(reads, arch.pe_array, formats), (layer, ranges, formats, arch)


def tile_volume(ranges: dict[str, range]) -> int:
    volume = 1
    for span in ranges.values():
        volume *= len(span)
    return volume


# --- by hand ------------------------------------------------------------------------------------


def test_a_weight_stationary_matmul_by_hand() -> None:
    """4 inputs x 6 outputs x 5 rows of a batch on 2 x 3 PEs: 2 x 2 folds of 5 cycles.

    Each of 24 weights is read once; each fold of K streams the 20 inputs again; sums leave after
    each of the two folds of C.
    """
    layer = ConvLayer.linear("matmul", 4, 6, N=5)
    array = make_arch(rows=("C", 2), cols=("K", 3)).pe_array
    got = array_traffic(layer, tile_of(whole(layer)), array, WORDS)
    assert got == (20, 20, 20 * 2 * 8, 0, 24 * 8, 0, 30, 2)


def test_an_output_stationary_matmul_by_hand() -> None:
    """The same on 5 rows of batch x 2 columns of outputs: 3 folds of 4 cycles, sums leave once.

    The inputs stream through each of 3 folds of K, the weights through the one fold of N.
    """
    layer = ConvLayer.linear("matmul", 4, 6, N=5)
    array = make_arch(rows=("N", 5), cols=("K", 2), stationary="output").pe_array
    got = array_traffic(layer, tile_of(whole(layer)), array, WORDS)
    assert got == (12, 12, 20 * 3 * 8, 0, 24 * 8, 0, 30, 1)


def test_padding_is_made_in_the_array() -> None:
    """3 outputs x 3 taps over 3 stored elements and one of padding either side: 7 of 9 reads."""
    layer = ConvLayer("pad", K=1, C=1, P=1, Q=3, S=3, padding=(0, 0, 1, 1))
    got = array_traffic(layer, tile_of(whole(layer)), make_arch().pe_array, WORDS)
    assert got.input_mantissa == 7 * 8
    assert got.cycles == 9


def test_a_fold_that_cuts_a_block_reads_its_exponent_again() -> None:
    """6 channels in blocks of 4 (0-3, 4-5); folds of 3 channels (0-2, 3-5) use 1 and 2 blocks."""
    formats = LayerFormats.uniform(BFP(8, 3, 4))
    layer = ConvLayer("cut", K=1, C=6, P=1, Q=1)
    array = make_arch(rows=("C", 3)).pe_array
    got = array_traffic(layer, tile_of(whole(layer)), array, formats)
    assert (got.input_exponent, got.weight_exponent) == (3 * 3, 3 * 3)


@pytest.mark.parametrize(
    ("inputs", "weights", "mac_bits", "expected"),
    [
        (Plain(8), Plain(8), 8, 1),
        (Plain(8), BFP(12, 3, 4), 8, 2),  # 9-bit mantissas
        (Plain(16), Plain(32), 8, 2 * 3),  # significands of 11 and 24 bit
        (BFP(8, 4, 4), Plain(9), 4, 1 * 3),
    ],
)
def test_wide_operands_take_several_passes(
    inputs: Plain, weights: BFP | Plain, mac_bits: int, expected: int
) -> None:
    formats = LayerFormats(inputs, weights, Plain(8))
    array = make_arch(mac_bits=mac_bits).pe_array
    layer = ConvLayer("one", K=1, C=1, P=1, Q=1)
    assert array_traffic(layer, tile_of(whole(layer)), array, formats).cycles == expected
