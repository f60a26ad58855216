"""Whole networks in named codings, against runs by hand."""

import itertools

import numpy as np
import pytest
import torch
from torch import nn

from bfpsim.quant.formats import BFP, INDUSTRY, FormatError, Plain
from bfpsim.quant.study.comparison import TABLE_3, compare_formats, least_divergence, parse_policy
from bfpsim.quant.study.datasets import AS_STORED, ArrayDataset
from bfpsim.quant.torch.model import Codings, quantize_model
from bfpsim.quant.torch.operand import Mode


@pytest.fixture(scope="module")
def case():
    torch.manual_seed(0)
    module = nn.Sequential(
        nn.Conv2d(1, 8, 3, stride=2), nn.ReLU(), nn.Conv2d(8, 8, 1), nn.Flatten(), nn.Linear(72, 3)
    )
    rng = np.random.default_rng(0)
    pixels = rng.normal(size=(40, 1, 7, 7)).astype(np.float32)
    dataset = ArrayDataset(pixels, rng.integers(3, size=40), AS_STORED, 3)
    x = dataset.batch(range(40)).inputs
    return quantize_model(module, x[:4], None, [x]), dataset


def test_a_row_is_a_run_of_the_model(case) -> None:
    model, dataset = case
    policies = {"original": Plain(32), "coarse": BFP(8, 5, 8), "mxfp4": INDUSTRY["mxfp4"]}
    result = compare_formats(model, dataset, policies, sample=10, batch=16)
    assert result.images == 40
    x, y = dataset.batch(range(40))
    with torch.no_grad(), model.in_mode(Mode.FLOAT):
        exact = model(x)
    original = float((exact.argmax(1) == y).double().mean())
    assert list(result.accuracy["policy"]) == list(policies)
    for row in result.accuracy.itertuples():
        model.choose(policies[row.policy])
        with torch.no_grad():
            logits = model(x)
        assert row.top1 == pytest.approx(float((logits.argmax(1) == y).double().mean()))
        assert row.top5 == 1  # of three classes
        assert row.accuracy_loss == pytest.approx(original - row.top1)
        error = float((logits[:10] - exact[:10]).double().square().sum())
        signal = float(exact[:10].double().square().sum())
        if error:
            assert row.logits_sqnr_db == pytest.approx(10 * np.log10(signal / error))
    first = result.accuracy.iloc[0]
    assert (first["accuracy_loss"], first["weight_width"], first["activation_width"]) == (0, 32, 32)
    # Weights: 72 + 64 + 216 elements. Inputs and outputs of the three layers, by their shapes.
    coarse = result.accuracy.iloc[1]
    codes = 1 + 8 + 3 * 9  # 8 filters of the one channel, then blocks of 8 of 8 and 72 channels
    assert coarse["weight_bits"] == (72 + 64 + 216) * 3 + codes * 5 + 3 * 8
    elements = (49 + 72) + (72 + 72) + (72 + 3)
    blocks = (49 + 9) + (9 + 9) + (9 + 1)
    assert coarse["activation_bits"] == elements * 3 + blocks * 5 + 6 * 8
    layers = result.layers[result.layers["policy"] == "coarse"]
    assert list(zip(layers["layer"], layers["tensor"], strict=True)) == [
        (site, tensor) for site in ("0", "2", "4") for tensor in "IWO"
    ]
    assert int(layers["bits"].sum()) == coarse["weight_bits"] + coarse["activation_bits"]


class Twice(nn.Module):
    """One layer that runs twice, and one that runs once."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.fc = nn.Linear(16, 16), nn.Linear(16, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.a(self.a(x.flatten(1)).relu()))


def test_a_weight_that_two_products_read_is_stored_once() -> None:
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    pixels = rng.normal(size=(8, 1, 4, 4)).astype(np.float32)
    dataset = ArrayDataset(pixels, rng.integers(3, size=8), AS_STORED, 3)
    model = quantize_model(Twice(), dataset.batch(range(8)).inputs)
    assert len(model.stored_tensors) == len(model.groups) + 2
    assert model.stored_tensors[-2:] == ((("a", "W"), ("a:1", "W")), (("fc", "W"),))
    fine, coarse = BFP(8, 4, 16), BFP(8, 5, 16)
    free = {"a": fine, "a:1": Codings(fine, coarse, fine), "fc": fine}
    with pytest.raises(FormatError, match=r"W of 'a' in bfp8e4b16 and W of 'a:1' in bfp8e5b16 are"):
        model.choose(free)
    model.choose({name: Codings.uniform(fine) for name in free})
    result = compare_formats(model, dataset, {"float": None, "one": fine, "two": free})
    bits = result.accuracy.set_index("policy")["weight_bits"]
    parameters = model.get_parameter("graph_module.a.weight").numel(), 3 * 16
    assert bits["float"] == 32 * sum(parameters)
    # Mantissas of 4 bits behind exponents of 4 (of 3 behind 5), a code per filter, and E_top.
    assert bits["one"] == (256 + 48) * 4 + (16 + 3) * 4 + 2 * 8
    assert bits["two"] == bits["one"] + 256 * 3 + 16 * 5 + 8
    widths = result.accuracy.set_index("policy")["weight_width"]
    assert widths["one"] == bits["one"] / (256 + 48)
    assert len(result.layers) == 3 * 3 * 3  # each product has its own rows
    chosen = least_divergence(model, dataset.batch(range(8)).inputs, [fine, coarse])
    assert chosen["a"].W == chosen["a:1"].W


def test_the_choice_stays(case) -> None:
    model, dataset = case
    model.choose(BFP(8, 2, 4))
    before = model.choice()
    compare_formats(model, dataset, {"a": Plain(8)})
    with pytest.raises(FormatError):
        compare_formats(model, dataset, {"a": {"0": Plain(8)}})
    assert model.choice() == before


def test_each_stored_tensor_gets_its_least_estimate(case) -> None:
    """Against every format of every group, the others left in float."""
    model, dataset = case
    x = dataset.batch(range(40)).inputs
    formats = [BFP(8, 5, 8), BFP(8, 2, 1), BFP(8, 3, 8), Plain(3)]
    chosen = least_divergence(model, x, formats)
    model.choose(chosen)  # ties are kept

    def noise(places, fmt) -> float:
        codings = {name: dict.fromkeys("IWO") for name in ("0", "2", "4")}
        for name, tensor in places:
            codings[name][tensor] = fmt
        model.choose({name: Codings(**each) for name, each in codings.items()}, tied=False)
        with torch.no_grad():
            q = torch.log_softmax(model(x).double(), 1)
            model.choose(None)
            p = torch.log_softmax(model(x).double(), 1)
        return float((p.exp() * (p - q)).sum(1).mean())

    groups = [*model.groups, (("0", "W"),), (("2", "W"),), (("4", "W"),)]
    near = 0
    for group in groups:
        costs = [noise(group, fmt) for fmt in formats]
        got = {str(chosen[name].of(tensor)) for name, tensor in group}
        assert len(got) == 1
        near += costs[[str(fmt) for fmt in formats].index(got.pop())] <= 2 * min(costs)
    assert near == len(groups)


def test_policies_by_name(case) -> None:
    model, dataset = case
    x = dataset.batch(range(20)).inputs
    assert parse_policy("original", model, x) == Codings.uniform(Plain(32))
    assert parse_policy(" BFP8e3b16 ", model, x) == BFP(8, 3, 16)
    assert parse_policy("mxfp4", model, x) is INDUSTRY["mxfp4"]
    bsfp = parse_policy("bsfp8", model, x)
    assert (str(bsfp.I), str(bsfp.W), str(bsfp.O)) == ("msfp16", "bsfp8", "msfp16")
    for bits, name in ((16, "bitq16"), (8, "bitq8")):
        choice = parse_policy(name, model, x)
        model.choose(choice)
        codings = itertools.chain.from_iterable((c.I, c.W, c.O) for c in choice.values())
        assert {fmt.bits for fmt in codings} == {bits}
    for name in TABLE_3:
        model.choose(parse_policy(name, model, x), tied=False)
    with pytest.raises(FormatError, match="format 'fp8'; allowed: original, bitq16, bitq8, hbfp8"):
        parse_policy("fp8", model, x)
