"""Formats of industry on tensors are numpy's rule, bit for bit; gradients of what saturates."""

import numpy as np
import pytest
import torch

from bfpsim.quant.formats import (
    E2M1,
    E4M3,
    INDUSTRY,
    INT8,
    MX,
    Format,
    ScaleRounding,
    dequantize,
    quantize_activation,
    quantize_weight,
)
from bfpsim.quant.formats.blocks import CHANNELS, WEIGHT
from bfpsim.quant.torch.fake_quantize import Gradient, fake_quantize
from tests.quant.formats.test_scaled import some_values

EVERY = [*INDUSTRY.values(), *(MX(e, how) for e in (E2M1, E4M3, INT8) for how in ScaleRounding)]


@pytest.mark.parametrize("top", [None, 2])
@pytest.mark.parametrize("fmt", EVERY, ids=str)
def test_tensors_are_numpys(fmt: Format, top: int | None) -> None:
    for seed in range(4):
        rng = np.random.default_rng(seed)
        activations = some_values(rng, (2, 3, 4, 41))
        weights = some_values(rng, (37, 1, 3, 2) if seed % 2 else (5, 37, 3, 2))
        first = dequantize(quantize_activation(activations, fmt, top)).astype(np.float32)
        second = dequantize(quantize_weight(weights, fmt, top)).astype(np.float32)
        for dtype in (torch.float32, torch.float64):
            x = torch.from_numpy(activations).to(dtype).movedim(-1, 1)
            w = torch.from_numpy(weights).to(dtype)
            kept = fake_quantize(x, fmt, CHANNELS, top)
            assert np.array_equal(kept.movedim(1, -1).float().numpy(), first), (seed, dtype)
            assert np.array_equal(fake_quantize(w, fmt, WEIGHT, top).float().numpy(), second)


@pytest.mark.parametrize("fmt", [MX(E2M1), INDUSTRY["nvfp4"], INDUSTRY["bf16"]], ids=str)
def test_a_gradient_is_clipped_where_elements_are(fmt: Format) -> None:
    """7 of E2M1 rounds to 8, beyond its largest; nothing in NVFP4's own scale does."""
    x = torch.tensor([[7.0, 1.0, -7.5, 6.5, 0.1]]).requires_grad_()
    fake_quantize(x, fmt, CHANNELS, gradient=Gradient.CLIPPED).sum().backward()
    clipped = [0.0, 1, 0, 1, 1] if str(fmt) == "mxfp4" else [1.0] * 5
    assert x.grad is not None
    assert x.grad.tolist() == [clipped]
    x.grad = None
    fake_quantize(x, fmt, CHANNELS).sum().backward()
    assert x.grad.tolist() == [[1.0] * 5]
