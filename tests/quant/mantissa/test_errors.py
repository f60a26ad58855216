"""Drops in cosine similarity, against hooks on copies of the module with weights replaced."""

import copy

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from bfpsim.quant.mantissa.errors import WHOLE, drop, find_units, measure_errors
from bfpsim.quant.mantissa.minifloat import BF16, MiniFloat
from bfpsim.quant.torch.model import Codings, quantize_model


class Residual(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 3, padding=1)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(x + self.conv2(torch.relu(self.conv1(x))))


class Encoder(nn.Module):
    """Attention without a norm, an MLP, and a residual add as the last operation."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.fc1, self.fc2 = nn.Linear(width, 8), nn.Linear(8, width)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).chunk(3, -1)
        x = x + self.proj((q @ k.transpose(1, 2)).softmax(-1) @ v)
        return x + self.fc2(torch.relu(self.fc1(x)))


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 4, 3)
        self.blocks = nn.Sequential(Residual(4), Residual(4))
        self.encoder = Encoder(4)
        self.head = nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.blocks(torch.relu(self.stem(x)))
        return self.head(self.encoder(x.flatten(2).transpose(1, 2)).mean(1))


@pytest.fixture(scope="module")
def case():
    torch.manual_seed(0)
    return Net().eval(), torch.randn(6, 1, 7, 7)


def run(module: nn.Module, inputs: Tensor, watched: str) -> tuple[np.ndarray, np.ndarray]:
    """A submodule's output and the logits."""
    seen = []
    module.get_submodule(watched).register_forward_hook(lambda *x: seen.append(x[2].detach()))
    with torch.no_grad():
        logits = module(inputs)
    return seen[0].flatten(1).double().numpy(), logits.double().numpy()


def cosine_drop(one: np.ndarray, other: np.ndarray) -> float:
    pairs = zip(one, other, strict=True)
    return 1 - np.mean([a @ b / np.sqrt(a @ a * (b @ b)) for a, b in pairs])


def test_each_unit_and_part_against_a_copy_with_its_weights_replaced(case) -> None:
    module, inputs = case
    model = quantize_model(module, inputs)
    model.choose(Codings(I=MiniFloat(4, 3)), tied=False)
    before = model.choice()
    units = find_units(module, model.sites)
    assert [unit.name for unit in units] == ["stem", "blocks.0", "blocks.1", "encoder", "head"]
    done = []
    formats = (BF16, MiniFloat(5, 1))
    frame = measure_errors(model, inputs, units, formats, progress=done.append)
    assert done == [unit.name for unit in units]
    assert model.choice() == before
    assert list(frame[frame["unit"] == "encoder"]["part"].unique()) == [
        WHOLE, "qkv", "proj", "fc1", "fc2"
    ]  # fmt: skip
    assert len(frame) == (5 + 4) * 2
    casts = {"e8m7-infinity": lambda w: w.bfloat16().float(), "e5m1": one_mantissa_bit}
    for row in frame.to_dict(orient="records"):
        changed = copy.deepcopy(module)
        part = changed.get_submodule(
            row["unit"] if row["part"] == WHOLE else f"{row['unit']}.{row['part']}"
        )
        for name, parameter in part.named_parameters():
            if name.endswith("weight"):
                parameter.data = casts[row["format"]](parameter.data)
        exact, found = (run(copy.deepcopy(m), inputs, row["unit"]) for m in (module, changed))
        # float32's sums in another order move a cosine by some 1e-7 of its drop.
        assert row["block_drop"] == pytest.approx(cosine_drop(exact[0], found[0]), 1e-3, 1e-9)
        assert row["logits_drop"] == pytest.approx(cosine_drop(exact[1], found[1]), 1e-3, 1e-9)
        assert row["block_drop"] > 0


def one_mantissa_bit(weights: Tensor) -> Tensor:
    """FP(5, 1) by numpy's rounding of mantissas, below its normal numbers of multiples."""
    mantissa, exponent = np.frexp(weights.numpy().astype(np.float64))
    rounded = np.ldexp(np.round(4 * mantissa) / 4, exponent)
    small = np.abs(weights.numpy()) < 2.0**-14
    steps = np.round(weights.numpy().astype(np.float64) * 2**15) / 2**15
    return torch.from_numpy(np.where(small, steps, rounded).astype(np.float32))


class Normed(nn.Module):
    """Batch normalisation between two layers, and an activation in place at the end."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.norm, self.b = nn.Conv2d(2, 3, 1), nn.BatchNorm2d(3), nn.Conv2d(3, 2, 1)
        self.act = nn.ReLU(inplace=True)
        self.norm.running_mean, self.norm.running_var = torch.randn(3), torch.rand(3) + 0.5

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.b(self.norm(self.a(x))))


def test_a_block_with_batch_norm_ends_where_its_module_ends() -> None:
    torch.manual_seed(1)
    net = nn.Sequential(Normed(), nn.Flatten(), nn.Linear(8, 3)).eval()
    inputs = torch.randn(4, 2, 2, 2)
    model = quantize_model(net, inputs)
    units = find_units(net, model.sites)
    assert [unit.name for unit in units] == ["0", "2"]
    frame = measure_errors(model, inputs, units, [BF16])
    # The weights that are quantised are the folded ones.
    changed = copy.deepcopy(net)
    block = changed[0]
    scale = (block.norm.weight / (block.norm.running_var + block.norm.eps).sqrt()).data
    scale = scale[:, None, None, None]
    block.a.weight.data = (block.a.weight.data * scale).bfloat16().float() / scale
    block.b.weight.data = block.b.weight.data.bfloat16().float()
    exact, found = (run(copy.deepcopy(m), inputs, "0") for m in (net, changed))
    drops = (frame["block_drop"].iloc[0], frame["logits_drop"].iloc[0])
    expected = tuple(cosine_drop(*pair) for pair in zip(exact, found, strict=True))
    assert drops == pytest.approx(expected, 1e-3, 1e-9)


def test_drops_by_hand() -> None:
    one = torch.tensor([[3.0, 4.0], [1.0, 0.0], [0.0, 0.0], [0.0, 0.0], [1e-30, 0.0]])
    other = torch.tensor([[4.0, 3.0], [-1.0, 0.0], [0.0, 0.0], [1.0, 0.0], [1e-30, 1e-30]])
    expected = [1 - 24 / 25, 2, 0, 1, 1 - 0.5**0.5]
    for row, value in enumerate(expected):
        assert drop(one[row : row + 1], other[row : row + 1]) == pytest.approx(value, abs=1e-12)
    assert drop(one, other) == pytest.approx(sum(expected) / 5)
    assert drop(other, other) == 0
