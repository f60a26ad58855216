"""Formats with one exponent per box equal fractions, box by box, wherever the boxes lie."""

from collections import defaultdict
from collections.abc import Callable
from fractions import Fraction
from itertools import product

import numpy as np
import pytest
import torch

from bfpsim.quant.baselines import HBFP, FlexBlock
from bfpsim.quant.formats import MSFP, Rounding
from bfpsim.quant.formats.blocks import CHANNELS, LAST, WEIGHT, Blocks
from tests.quant.adapter import COMPARED, Stored
from tests.quant.oracle import clamped, floor_log2, rounded

Index = tuple[int, ...]
BoxOf = Callable[[Index], object]


def some(shape: Index, seed: int = 0) -> torch.Tensor:
    rng = np.random.default_rng(seed)
    x = rng.standard_normal(shape) * np.exp2(rng.integers(-8, 5, shape))
    x.reshape(-1)[: x.size // 5] = 0
    return torch.from_numpy(x.astype(np.float32))


def in_fractions(x: torch.Tensor, m: int, box_of: BoxOf) -> torch.Tensor:
    """Elements with the same `box_of` share an exponent: integer mantissas of m bits."""
    boxes = defaultdict(list)
    for index in product(*map(range, x.shape)):
        boxes[box_of(index)].append(index)
    kept = torch.zeros_like(x)
    for members in boxes.values():
        values = [Fraction(float(x[i])) for i in members]
        if not any(values):
            continue
        unit = Fraction(2) ** (floor_log2(max(map(abs, values))) - (m - 2))
        for i, value in zip(members, values, strict=True):
            kept[i] = float(clamped(rounded(value / unit, Rounding.NEAREST_EVEN), m) * unit)
    return kept


def along(axis: int, size: int) -> BoxOf:
    return lambda i: (*i[:axis], i[axis] // size, *i[axis + 1 :])


def boxes(*lengths: int) -> BoxOf:
    return lambda i: tuple(at // length for at, length in zip(i, lengths, strict=True))


BIG = 1000
CASES = [
    (Stored(MSFP(12)), 4, (2, 35, 3), CHANNELS, along(1, 16)),
    (Stored(MSFP(16)), 8, (3, 35), LAST, along(1, 16)),
    (Stored(MSFP(11)), 3, (35, 3, 2), Blocks(0), along(0, 16)),
    (Stored(MSFP(12)), 4, (2, 3, 35, 2), Blocks(-2), along(2, 16)),
    (Stored(MSFP(16)), 8, (3, 35, 2, 2), WEIGHT, along(1, 16)),
    (Stored(MSFP(12)), 4, (35, 1, 2, 2), WEIGHT, along(0, 16)),
    (Stored(MSFP(12)), 4, (5, 35), WEIGHT, along(1, 16)),
    (HBFP(8), 8, (3, 7, 4, 5), CHANNELS, boxes(1, BIG, BIG, BIG)),
    (HBFP(12), 12, (3, 7, 5), LAST, boxes(1, BIG, BIG)),
    (HBFP(4), 4, (40,), LAST, boxes(BIG)),
    (HBFP(8), 8, (50, 30, 2, 2), WEIGHT, boxes(24, 24, BIG, BIG)),
    (HBFP(8), 8, (50, 1, 3, 3), WEIGHT, boxes(24, 24, BIG, BIG)),
    (HBFP(8), 8, (26, 49), WEIGHT, boxes(24, 24)),
    (FlexBlock(8), 8, (2, 13, 7, 4), CHANNELS, boxes(1, 6, 3, 3)),
    (FlexBlock(4), 4, (2, 13, 20), CHANNELS, boxes(1, 6, 9)),
    (FlexBlock(16), 16, (2, 7, 2, 4, 5), CHANNELS, boxes(1, 6, 1, 3, 3)),
    (FlexBlock(8), 8, (3, 120), CHANNELS, boxes(1, 54)),
    (FlexBlock(8), 8, (3, 2, 120), LAST, boxes(1, 1, 54)),
    (FlexBlock(4), 4, (2, 50, 5, 3), WEIGHT, boxes(1, 24, 3, 3)),
    (FlexBlock(8), 8, (2, 50, 1, 1), WEIGHT, boxes(1, 24, 1, 1)),
    (FlexBlock(8), 8, (7, 1, 3, 3), WEIGHT, boxes(1, 1, 3, 3)),
    (FlexBlock(16), 16, (3, 250), WEIGHT, boxes(1, 216)),
]


@pytest.mark.parametrize(("fmt", "m", "shape", "blocks", "box_of"), CASES)
def test_values_equal_fractions_and_bits_count_the_boxes(fmt, m, shape, blocks, box_of) -> None:
    x = some(shape)
    assert torch.equal(fmt.quantize(x, blocks), in_fractions(x, m, box_of))
    boxes_there = {box_of(i) for i in product(*map(range, shape))}
    assert fmt.bits(x, blocks) == x.numel() * m + 8 * len(boxes_there)


@pytest.mark.parametrize("name", ["mxint8", "mxfp8e4m3", "mxfp8e5m2", "mxfp6e2m3", "mxfp4"])
@pytest.mark.parametrize("axis", range(4))
def test_mx_blocks_on_any_axis_equal_each_block_alone(name: str, axis: int) -> None:
    fmt, shape = COMPARED[name], [2, 3, 2, 3]
    shape[axis] = 70
    x = some(tuple(shape), axis)
    expected = torch.empty_like(x)
    for start in (0, 32, 64):
        piece = x.narrow(axis, start, min(32, 70 - start)).movedim(axis, -1)
        alone = torch.stack([fmt.quantize(run, LAST) for run in piece.reshape(-1, piece.shape[-1])])
        expected.narrow(axis, start, piece.shape[-1]).copy_(
            alone.reshape(piece.shape).movedim(-1, axis)
        )
    assert torch.equal(fmt.quantize(x, Blocks(axis)), expected)
    assert torch.equal(fmt.quantize(x, Blocks(axis - 4)), expected)
