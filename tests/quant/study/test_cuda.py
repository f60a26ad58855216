"""On a GPU: the bits of the CPU, and whole comparisons from images on the CPU."""

import numpy as np
import pytest
import torch
from torch import nn

from bfpsim.quant.formats import BFP, Format, Plain, Rounding
from bfpsim.quant.formats.blocks import CHANNELS, LAST, WEIGHT, Blocks
from bfpsim.quant.study.additivity import check_additivity
from bfpsim.quant.study.comparison import compare_formats
from bfpsim.quant.study.datasets import AS_STORED, ArrayDataset
from bfpsim.quant.study.sensitivity import Fisher, measure_sensitivity
from bfpsim.quant.torch.fake_quantize import fake_quantize
from bfpsim.quant.torch.model import quantize_model

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU with CUDA")

DETERMINISTIC = [rounding for rounding in Rounding if rounding is not Rounding.STOCHASTIC]
FORMATS = [
    *(BFP(8, 3, size, rounding) for size in (1, 4, 16) for rounding in DETERMINISTIC),
    *(Plain(bits) for bits in (4, 8, 16, 32)),
]


@pytest.mark.parametrize("blocks", [CHANNELS, LAST, WEIGHT], ids=str)
@pytest.mark.parametrize("fmt", FORMATS, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_a_gpu_quantises_as_the_cpu(fmt: Format, blocks: Blocks, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(5, 19, 4, 6, generator=generator, dtype=torch.float64)
    # Ties, which roundings treat differently, in every other place; and a wide range.
    values[:, ::2] = (values[:, ::2] * 8).round() / 8
    spread = torch.randint(-12, 4, (5, 19, 4, 6), generator=generator)
    values = torch.ldexp(values, spread).to(dtype)
    for top in (None, 1):
        expected = fake_quantize(values, fmt, blocks, top)
        found = fake_quantize(values.cuda(), fmt, blocks, top)
        assert found.device.type == "cuda"
        assert torch.equal(found.cpu(), expected)


def comparable() -> tuple[nn.Module, ArrayDataset]:
    torch.manual_seed(0)
    module = nn.Sequential(
        nn.Conv2d(1, 8, 3, stride=2), nn.ReLU(), nn.Flatten(), nn.Linear(72, 16), nn.Linear(16, 3)
    )
    rng = np.random.default_rng(0)
    pixels = rng.normal(size=(40, 1, 7, 7)).astype(np.float32)
    return module, ArrayDataset(pixels, rng.integers(3, size=40), AS_STORED, 3)


def test_formats_are_compared_on_a_gpu() -> None:
    """Storage as on the CPU; sums in another order may move single roundings."""
    module, dataset = comparable()
    x = dataset.batch(range(40)).inputs
    model = quantize_model(module, x[:4], None, [x])
    policies = {"original": None, "fine": BFP(16, 4, 8), "coarse": BFP(8, 5, 8)}
    expected = compare_formats(model, dataset, policies, sample=10, batch=16)
    found = compare_formats(model.cuda(), dataset, policies, sample=10, batch=16)
    for column in ("policy", "weight_bits", "activation_bits"):
        assert list(found.accuracy[column]) == list(expected.accuracy[column])
    assert list(found.layers["bits"]) == list(expected.layers["bits"])
    for column in ("top1", "top5"):
        close = np.abs(found.accuracy[column] - expected.accuracy[column])
        assert close.max() <= 2 / 40
    noise = found.accuracy["logits_sqnr_db"][1:], expected.accuracy["logits_sqnr_db"][1:]
    assert np.abs(noise[0] - noise[1]).max() < 3
    assert model.device.type == "cuda"
    tops = {key: operand.top for key, operand in model.operands.items()}
    model.calibrate([x])
    assert {key: operand.top for key, operand in model.operands.items()} == tops


def test_sensitivity_and_its_sums_on_a_gpu() -> None:
    module, dataset = comparable()
    x, y = dataset.batch(range(40))
    model = quantize_model(module, x[:4], None, [x]).cuda()
    table = measure_sensitivity(model, x, y, [BFP(8, 5, 8), Plain(8)])
    assert len(table.table) == 3 * 3 * 2
    assert np.isfinite(table.table[["kl", "fisher"]].to_numpy()).all()
    assert len(check_additivity(model, table, x, y, choices=3).table) == 3
    Fisher(model, x, seed=0)
