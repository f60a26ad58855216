"""The compiled kernel against the torch operators, which the other tests hold against oracles."""

import numpy as np
import pytest
import torch

from bfpsim.quant.formats import MX, ScaleRounding
from bfpsim.quant.formats.blocks import CHANNELS
from bfpsim.quant.formats.elements import ELEMENTS
from bfpsim.quant.torch.boxes import by_operators, doubles, fixed_point, grid_of, quantize_boxes
from tests.quant.adapter import COMPARED

GRIDS = [grid_of(MX(element, how)) for element in ELEMENTS for how in ScaleRounding]
GRIDS += [fixed_point(bits) for bits in (2, 4, 8, 16)]
BOXES = [(1, 32, 1, 1), (1, 6, 3, 3), (1, 100, 100, 100), (24, 24, 3, 3), (1, 1, 1, 5)]


def values(seed: int, shape: tuple[int, ...]) -> torch.Tensor:
    """float32 of any size: bit patterns, and magnitudes that lie close together."""
    rng = np.random.default_rng(seed)
    words = rng.integers(0, 1 << 32, size=shape, dtype=np.uint64).astype(np.uint32)
    words[(words & 0x7F800000) == 0x7F800000] &= 0x807FFFFF  # no infinity, no NaN: subnormals
    wild = words.view(np.float32)
    tame = rng.normal(size=shape) * 2.0 ** rng.integers(-140, 120)
    kind = rng.integers(4, size=shape)
    mixed = np.where(kind == 0, wild, np.where(kind == 1, 0.0, tame)) if seed % 2 else tame
    return torch.from_numpy(mixed.astype(np.float32))


@pytest.mark.parametrize("box", BOXES)
@pytest.mark.parametrize("grid", GRIDS)
def test_the_kernel_is_the_operators(grid, box) -> None:
    for seed in range(6):
        x = values(seed, (3, 7, 5, 4))
        expected = by_operators(doubles(x, "x"), box, grid).to(torch.float32)
        if grid.carry < 2:
            expected.clamp_(-torch.finfo().max, torch.finfo().max)
        found = quantize_boxes(x, box, grid, "x")
        assert torch.equal(found.view(torch.int32), expected.view(torch.int32))


@pytest.mark.parametrize("name", ["mxfp4", "mxint8", "nvfp4", "bf16", "hbfp8", "flexblock8"])
def test_memory_order_does_not_matter_and_stays(name: str) -> None:
    x = values(1, (2, 40, 6, 5))
    last = x.to(memory_format=torch.channels_last)
    found = COMPARED[name].quantize(last, CHANNELS)
    assert torch.equal(found, COMPARED[name].quantize(x, CHANNELS))
    assert found.is_contiguous(memory_format=torch.channels_last)
    tokens = x[0, 0]
    assert COMPARED[name].quantize(tokens, CHANNELS).shape == tokens.shape
