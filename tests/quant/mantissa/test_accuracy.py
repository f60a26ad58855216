"""Accuracy in FP(e, m), against copies of the module whose weights torch has cast."""

import copy

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor, nn

from bfpsim.quant.formats import Rounding
from bfpsim.quant.mantissa import accuracy
from bfpsim.quant.mantissa.accuracy import fewest_bits, grid, measure_accuracy
from bfpsim.quant.mantissa.minifloat import BF16, FP16, FP32, MiniFloat
from bfpsim.quant.mantissa.weights import stored_weights
from bfpsim.quant.study.accuracy import top_k
from bfpsim.quant.study.datasets import AS_STORED, ArrayDataset
from bfpsim.quant.torch.model import Codings, quantize_model
from bfpsim.workloads import WorkloadError


class Net(nn.Module):
    """Batch normalisation, a layer that runs twice, and a weight that is computed."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(1, 6, 3, stride=2), nn.BatchNorm2d(6)
        self.twice, self.raw = nn.Linear(54, 54), nn.Parameter(torch.randn(7, 54))
        self.norm.running_mean, self.norm.running_var = torch.randn(6), torch.rand(6) + 0.5

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm(self.conv(x))).flatten(1)
        x = torch.relu(self.twice(torch.relu(self.twice(x))))
        return nn.functional.linear(x, 2 * self.raw)


@pytest.fixture(scope="module")
def case():
    torch.manual_seed(0)
    module = Net().eval()
    rng = np.random.default_rng(0)
    pixels = rng.normal(size=(300, 1, 7, 7)).astype(np.float32)
    x = torch.from_numpy(pixels)
    with torch.no_grad():
        # Labels that the float network gets right for most images.
        classes = module(x).argmax(1).numpy()
    labels = np.where(rng.random(300) < 0.8, classes, rng.integers(7, size=300))
    return module, quantize_model(module, x[:4]), ArrayDataset(pixels, labels, AS_STORED, 7)


def folded(module: Net) -> dict[str, Tensor]:
    scale = module.norm.weight / (module.norm.running_var + module.norm.eps).sqrt()
    return {
        "conv": (module.conv.weight * scale[:, None, None, None]).detach(),
        "twice": module.twice.weight.detach(),
        "raw": 2 * module.raw.detach(),
    }


def test_weights_are_those_that_the_products_read(case) -> None:
    module, model, dataset = case
    found = stored_weights(model, dataset.batch([0]).inputs)
    expected = folded(module)
    assert list(found) == list(expected)
    for name, weight in expected.items():
        assert found[name].dtype == np.float32
        assert found[name] == pytest.approx(weight.numpy(), rel=1e-6)


def test_a_row_is_a_run_of_the_module_with_cast_weights(case) -> None:
    module, model, dataset = case
    model.choose(Codings(O=MiniFloat(4, 3)), tied=False)
    before = model.choice()
    casts = {
        FP32: lambda w: w,
        BF16: lambda w: w.bfloat16().float(),
        FP16: lambda w: w.half().float(),
        # Powers of two.
        MiniFloat(8, 0): lambda w: nearest_power(w),
    }
    done = []
    frame = measure_accuracy(model, dataset, casts, batch=70, progress=done.append)
    assert done == list(map(str, casts)) == list(frame["format"])
    assert model.choice() == before
    x, y = dataset.batch(range(300))
    tops = []
    for fmt, cast in casts.items():
        changed = copy.deepcopy(module)
        weights = {name: cast(weight) for name, weight in folded(module).items()}
        scale = changed.norm.weight / (changed.norm.running_var + changed.norm.eps).sqrt()
        changed.conv.weight.data = (weights["conv"] / scale[:, None, None, None]).detach()
        changed.twice.weight.data, changed.raw.data = weights["twice"], weights["raw"] / 2
        with torch.no_grad():
            order = changed(x).argsort(1, descending=True)
        tops.append([float((order[:, :k] == y[:, None]).any(1).double().mean()) for k in (1, 5)])
        row = frame.set_index("format").loc[str(fmt)]
        assert [row["top1"], row["top5"]] == pytest.approx(tops[-1])
        assert row["accuracy_loss"] == pytest.approx(tops[0][0] - tops[-1][0])
        assert row["bits"] == 1 + row["exponent_bits"] + row["mantissa_bits"]
    assert tops[0][0] > 0.7
    assert len({top for top, _ in tops}) > 1


def nearest_power(weights: Tensor) -> Tensor:
    """The power of two at the smaller distance; no weight is midway between two."""
    mantissa, exponent = np.frexp(weights.numpy().astype(np.float64))
    found = np.ldexp(np.sign(mantissa) * np.where(np.abs(mantissa) > 0.75, 1.0, 0.5), exponent)
    return torch.from_numpy(found.astype(np.float32))


def test_activations_where_asked(case) -> None:
    """What each product reads and writes is rounded as well, before the bias is added."""
    module, model, dataset = case
    weights, x, y = folded(module), *dataset.batch(range(300))
    fmt = MiniFloat(4, 1)
    norm = module.norm
    scale = norm.weight / (norm.running_var + norm.eps).sqrt()
    shift = norm.bias + (module.conv.bias - norm.running_mean) * scale

    def linear(h: Tensor, name: str) -> Tensor:
        product = nn.functional.linear(fmt.rounded(h), fmt.rounded(weights[name]))
        return fmt.rounded(product)

    with torch.no_grad():
        h = nn.functional.conv2d(fmt.rounded(x), fmt.rounded(weights["conv"]), stride=2)
        h = torch.relu(fmt.rounded(h) + shift[:, None, None]).flatten(1)
        for _ in range(2):
            h = torch.relu(linear(h, "twice") + module.twice.bias)
        expected = float((linear(h, "raw").argmax(1) == y).double().mean())
    alone, both = (
        measure_accuracy(model, dataset, [fmt], activations)["top1"].iloc[0]
        for activations in (False, True)
    )
    assert both == pytest.approx(expected)
    assert both != alone


def test_equal_weights_are_evaluated_once(case, monkeypatch) -> None:
    """Powers of two stay what they are, but in e2m1 0.25 is a tie and goes to 0."""
    _, _, dataset = case
    torch.manual_seed(0)
    module = nn.Sequential(nn.Flatten(), nn.Linear(49, 7)).eval()
    module[1].weight.data = torch.tensor([1.0, 0.5, 0.25])[torch.randint(3, (7, 49))]
    model = quantize_model(module, dataset.batch([0, 1]).inputs)
    runs = []

    def counted(*arguments):
        runs.append(str(model.choice()["1"].W))
        return top_k(*arguments)

    monkeypatch.setattr(accuracy, "top_k", counted)
    formats = [MiniFloat(8, 3), MiniFloat(7, 3), MiniFloat(2, 1), MiniFloat(8, 0), MiniFloat(2, 2)]
    frame = measure_accuracy(model, dataset, formats)
    assert runs == ["None", "e8m3", "e2m1"]
    loss = frame.set_index("format")["accuracy_loss"]
    assert [loss[str(fmt)] == 0 for fmt in formats] == [True, True, False, True, True]
    runs.clear()
    measure_accuracy(model, dataset, formats, activations=True)
    assert runs == ["None", *map(str, formats)]


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.fc = nn.Linear(7, 21, bias=False), nn.Linear(7, 7, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x[:, 0]).chunk(3, -1)
        return self.fc((q @ k.transpose(1, 2)).softmax(-1) @ v).mean(1)


def test_products_of_activations_have_no_weights(case) -> None:
    """Keys and values stand where weights do, and stay as they are: powers of two lose nothing."""
    _, _, dataset = case
    module = Attention().eval()
    x, _ = dataset.batch(range(300))
    with torch.no_grad():
        for layer in (module.qkv, module.fc):
            layer.weight.copy_(nearest_power(layer.weight))
        classes = module(x).argmax(1).numpy()
    labelled = ArrayDataset(x.numpy(), classes, AS_STORED, 7)
    model = quantize_model(module, x[:4])
    tops = [
        measure_accuracy(model, labelled, [MiniFloat(8, 0)], activations)["top1"].iloc[0]
        for activations in (False, True)
    ]
    assert tops[0] == 1
    assert tops[1] < 1


def test_a_module_without_classes_is_refused(case) -> None:
    _, _, dataset = case
    module = nn.Sequential(nn.Flatten(), nn.Linear(49, 1), nn.Flatten(0)).eval()
    model = quantize_model(module, dataset.batch([0, 1]).inputs, name="flat")
    wrong = r"module flat: output \(1,\) for 1 images; allowed: one tensor \(1, classes\)"
    with pytest.raises(WorkloadError, match=wrong):
        measure_accuracy(model, dataset, [BF16])


def test_the_grid_is_the_papers() -> None:
    found = grid(Rounding.TRUNCATE)
    assert [(f.exponent_bits, f.mantissa_bits) for f in found] == [
        (e, m) for e in (8, 7, 6, 5, 4, 3, 2) for m in range(23, -1, -1)
    ]
    assert {f.rounding for f in found} == {Rounding.TRUNCATE}


@pytest.mark.parametrize(
    ("losses", "within", "expected"),
    [
        ([0.0, 0.0, 0.01, 0.5], 0.01, 1),
        ([0.0, 0.011, 0.0, 0.0], 0.01, 3),  # what is good by chance below does not count
        ([-0.02, 0.0, 0.009, 0.002], 0.01, 0),
        ([0.02, 0.0, 0.0, 0.0], 0.01, None),
        ([0.0, 0.5, 0.5, 0.5], 0.5, 0),
        ([0.91 - 0.91, 0.91 - 0.9, 0.2, 0.2], 0.01, 2),  # one point, not exact in binary
    ],
)
def test_the_fewest_bits_from_which_on_all_is_well(losses, within, expected) -> None:
    frame = pd.DataFrame({"mantissa_bits": [3, 2, 1, 0], "accuracy_loss": losses})
    assert fewest_bits(frame.sample(frac=1, random_state=1), "mantissa_bits", within) == expected
