"""What torch keeps of a quantised model: equal outputs, or a refusal that says what is missing."""

import copy
import io
import json
import multiprocessing
import pickle
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812
from torch.optim.swa_utils import AveragedModel

from bfpsim.quant.baselines import BASELINES, FAST
from bfpsim.quant.formats import BFP, INDUSTRY, MSFP, FormatError, LayerFormats, Plain, Rounding
from bfpsim.quant.mantissa.minifloat import MiniFloat
from bfpsim.quant.study.datasets import AS_STORED, ArrayDataset
from bfpsim.quant.torch.model import Codings, QuantizedModel, quantize_model
from bfpsim.quant.training.fine_tuning import fine_tune
from bfpsim.workloads import WorkloadError
from tests.quant.torch.test_model import Left, Pooling, Zoo

NARROW = BFP(8, 3, 16)
STATE = "_extra_state"


def net() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 20, 3), nn.ReLU(), nn.Conv2d(20, 8, 1))


@pytest.fixture(scope="module")
def models() -> tuple[QuantizedModel, QuantizedModel, Tensor]:
    """Two of the same architecture: other weights, other E_top, other formats."""
    torch.manual_seed(0)
    x = torch.randn(2, 3, 9, 9)
    one = quantize_model(net(), x, LayerFormats(NARROW, BFP(8, 2, 4), Plain(8)), tied=False)
    return one, quantize_model(net(), 50 * x, BFP(16, 5, 4)), x


@pytest.fixture
def pair(models) -> tuple[QuantizedModel, QuantizedModel, Tensor]:
    one, other, x = models
    return copy.deepcopy(one), copy.deepcopy(other), x


def kept(model: QuantizedModel) -> dict[object, object]:
    """Formats and E_top of a model."""
    return {
        key: (operand.coding, None if operand.stored else operand.top)
        for key, operand in model.operands.items()
    }


# --- state dicts ---------------------------------------------------------------------------------


def through_torch(state: dict[str, Tensor], folder) -> dict[str, Tensor]:
    torch.save(state, folder / "state.pt")
    return torch.load(folder / "state.pt", weights_only=True)


def through_safetensors(state: dict[str, Tensor], folder) -> dict[str, Tensor]:
    save_file(state, folder / "state.safetensors")
    return load_file(folder / "state.safetensors")


@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize("assign", [True, False])
@pytest.mark.parametrize("through", [lambda state, _: state, through_torch, through_safetensors])
def test_a_state_gives_equal_outputs(pair, tmp_path, through, strict, assign) -> None:
    one, other, x = pair
    assert not torch.equal(other(x), one(x))
    keys = other.load_state_dict(through(one.state_dict(), tmp_path), strict, assign)
    assert (keys.missing_keys, keys.unexpected_keys) == ([], [])
    assert torch.equal(other(x), one(x))
    assert kept(other) == kept(one)


def test_a_state_within_a_larger_module(pair) -> None:
    one, other, x = pair
    nn.ModuleDict({"a": other}).load_state_dict(nn.ModuleDict({"a": one}).state_dict())
    assert torch.equal(other(x), one(x))
    average = AveragedModel(pair[1])
    average.load_state_dict(AveragedModel(one).state_dict())
    assert torch.equal(average(x), one(x))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_a_state_in_another_precision_keeps_formats_and_tops(pair, dtype) -> None:
    """Weights are rounded, as the state says; the rest is there whole."""
    one, other, x = pair
    other.load_state_dict({name: each.to(dtype) for name, each in one.state_dict().items()})
    assert kept(other) == kept(one)
    with torch.no_grad():
        for parameter in one.parameters():
            parameter.copy_(parameter.to(dtype))
    assert torch.equal(other(x), one(x))


@pytest.mark.parametrize(
    "coding",
    [
        BFP(9, 2, 7, Rounding.TRUNCATE), Plain(5), MSFP(13), FAST(0.25),
        MiniFloat(4, 3, Rounding.TRUNCATE), *BASELINES.values(),
        *INDUSTRY.values(),
    ],
    ids=str,
)  # fmt: skip
def test_every_coding_of_the_package_is_kept(pair, coding) -> None:
    one, other, _ = pair
    one.choose(Codings(None, coding, coding), tied=False)
    other.load_state_dict(one.state_dict())
    assert kept(other) == kept(one)
    assert other.operand("0", "W").coding == coding


@dataclass(frozen=True)
class Own:
    """A coding of somebody's own."""

    step: float

    def quantize(self, tensor: Tensor, blocks: object, name: str = "tensor") -> Tensor:
        return (tensor / self.step).round() * self.step

    def bits(self, tensor: Tensor, blocks: object) -> int:
        return tensor.numel()


def test_a_coding_of_ones_own_must_be_the_models(pair) -> None:
    one, other, x = pair
    one.choose(Own(0.125))
    before = kept(other)
    with pytest.raises(FormatError, match=r"0 I: coding Own\(step=0.125\), of a class of which"):
        other.load_state_dict(one.state_dict())
    assert kept(other) == before
    other.choose(Own(0.125))
    other.load_state_dict(one.state_dict())
    assert torch.equal(other(x), one(x))


@pytest.mark.parametrize("strict", [True, False])
def test_weights_without_formats_are_refused(pair, strict) -> None:
    one, other, x = pair
    weights = {name: each for name, each in one.state_dict().items() if name != STATE}
    before = other(x)
    with pytest.raises(FormatError, match=r"weights without formats and E_top, which '_extra_sta"):
        other.load_state_dict(weights, strict)
    with pytest.raises(FormatError, match=r"E_top, which 'a\._extra_state' holds"):
        nn.ModuleDict({"a": other}).load_state_dict(
            {f"a.{name}": each for name, each in weights.items()}, strict
        )
    assert torch.equal(other(x), before)
    own = kept(other)
    other.load_state_dict(weights | {STATE: other.state_dict()[STATE]}, strict)  # the way out
    assert kept(other) == own
    assert torch.equal(
        other.get_parameter("graph_module.0.weight"), weights["graph_module.0.weight"]
    )


def test_a_partial_state_of_a_larger_module_leaves_a_model_alone(pair) -> None:
    one, _, x = pair
    whole, before = nn.ModuleDict({"a": one, "b": nn.Linear(2, 2)}), one(x)
    state = {name: each for name, each in whole.state_dict().items() if name.startswith("b.")}
    missing = whole.load_state_dict(state, strict=False).missing_keys
    assert f"a.{STATE}" in missing
    assert torch.equal(one(x), before)


@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize(
    ("rename", "message"),
    [
        (lambda name: f"module.{name}", r"but 'module\._extra_state', .*without 'module\.' before"),
        (lambda name: f"_orig_mod.{name}", r"without '_orig_mod\.' before each"),
        (lambda name: name.removeprefix("graph_module.").removeprefix("_"), "before quantize_mod"),
        (lambda name: name.upper(), r"but '_EXTRA_STATE', .*; allowed: '_extra_state', '[^']*'"),
    ],
)
def test_other_names_are_refused(pair, rename, message, strict) -> None:
    one, other, x = pair
    before = other(x)
    with pytest.raises(FormatError, match=message):
        other.load_state_dict(
            {rename(name): each for name, each in one.state_dict().items()}, strict
        )
    with pytest.raises(FormatError, match="no name of the model's, but nothing"):
        other.load_state_dict({}, strict)
    assert torch.equal(other(x), before)


@pytest.mark.parametrize("strict", [True, False])
def test_the_state_of_another_network_is_refused(models, strict) -> None:
    one, _, x = models
    other = quantize_model(nn.Sequential(nn.Conv2d(3, 20, 3), nn.Conv2d(20, 8, 1)), x, NARROW)
    before, values = kept(other), other(x)
    with pytest.raises(FormatError, match=r"of another network: lacks '1 I' \(6 such operands\)"):
        other.load_state_dict(one.state_dict(), strict)
    assert kept(other) == before
    assert torch.equal(other(x), values)
    narrow = quantize_model(nn.Sequential(nn.Conv2d(3, 20, 3), nn.ReLU(), nn.Conv2d(20, 9, 1)), x)
    with pytest.raises(RuntimeError, match="size mismatch"):
        narrow.load_state_dict(one.state_dict(), strict)


def changed(model: QuantizedModel, change) -> Tensor:
    record = json.loads(model.state_dict()[STATE].numpy().tobytes())
    text = json.dumps(change(record)).encode()
    return torch.tensor(list(text), dtype=torch.uint8)


def with_first(record: dict, **content: object) -> dict:
    return record | {"operands": record["operands"] | {"0 I": content}}


def of(place: str, **fields: object) -> dict[str, object]:
    return {"class": place, "fields": fields}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda r: r | {"version": 2}, "version 2; allowed: 1"),
        (lambda r: [r], "cannot be read: "),
        (lambda r: {"version": 1}, "operands None; allowed"),
        (lambda r: with_first(r, coding="bfp9", E_top=0), "0 I: format 'bfp9'; allowed: bfp8"),
        (lambda r: with_first(r, coding="bfp8", E_top=999), "0 I: E_top=999; allowed: -12"),
        (lambda r: with_first(r, coding="bfp8", E_top=True), "0 I: .*; allowed: coding and E_top"),
        (lambda r: with_first(r, coding="bfp8"), "0 I: .*; allowed: coding and E_top"),
        (lambda r: with_first(r, coding=[1], E_top=0), r"0 I: coding \[1\]; allowed"),
        (lambda r: with_first(r, coding=of("os:abort"), E_top=0), "class 'os:abort'; allow"),
        (lambda r: with_first(r, coding=of("bfpsim.quant.x:Y"), E_top=0), "'bfpsim.quant.x:Y'"),
        (
            lambda r: with_first(r, coding=of("bfpsim.quant.torch.state:import_module"), E_top=0),
            "import_module'; allowed",
        ),
        (
            lambda r: with_first(r, coding=of("bfpsim.quant.torch.state:pack_state"), E_top=0),
            "pack_state'; allowed",
        ),
        (
            lambda r: with_first(r, coding=of("bfpsim.quant.formats.rounding:Rounding"), E_top=0),
            "0 I: Rounding: ",
        ),
        (
            lambda r: with_first(r, coding=of("bfpsim.quant.baselines.bsfp:BSFP", a=1), E_top=0),
            "0 I: BSFP: ",
        ),
    ],
)  # fmt: skip
def test_a_damaged_state_is_refused_and_changes_nothing(pair, change, message) -> None:
    one, _, x = pair
    before = one(x)
    with pytest.raises(FormatError, match=message):
        one.load_state_dict(one.state_dict() | {STATE: changed(one, change)})
    assert torch.equal(one(x), before)


@pytest.mark.parametrize(
    "state",
    [
        b"{}", {"version": 1}, torch.tensor([0.5]), torch.tensor([300]), torch.tensor([-1]),
        torch.tensor([]), torch.tensor([123, 34], dtype=torch.uint8), torch.full((9,), torch.nan),
        torch.full((100_000,), ord("["), dtype=torch.uint8), torch.empty(4, device="meta"),
    ],
)  # fmt: skip
def test_what_is_no_state_is_refused(pair, state) -> None:
    one, _, x = pair
    before = one(x)
    with pytest.raises(FormatError, match="formats and E_top cannot be read: ") as caught:
        one.load_state_dict(one.state_dict() | {STATE: state})
    assert len(str(caught.value).splitlines()) == 1
    assert torch.equal(one(x), before)


# --- whole models --------------------------------------------------------------------------------


class Masked(nn.Module):
    """Constants that depend on no input, an extent of the batch, a view of both."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.out = nn.Linear(8, 24), nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).chunk(3, -1)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        places = torch.arange(x.shape[1]).float()[:, None] * torch.full((8,), 0.25)
        return self.out(y + places).reshape(len(x), -1)


def saved(model: QuantizedModel) -> QuantizedModel:
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


WAYS = [saved, copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))]


@pytest.mark.parametrize("way", WAYS, ids=["save", "deepcopy", "pickle"])
@pytest.mark.parametrize(
    ("module", "shape"),
    [(Zoo(), (3, 3, 10, 8)), (Pooling(), (3, 5, 6)), (Left(), (3, 6)), (Masked(), (2, 5, 8))],
    ids=["zoo", "pooling", "left", "masked"],
)
def test_a_whole_model_gives_equal_outputs(way, module, shape) -> None:
    torch.manual_seed(0)
    x = torch.randn(shape)
    model = quantize_model(module, x, NARROW)
    model.choose(INDUSTRY["mxint8"])
    outputs = model(x)
    again = way(model)
    assert torch.equal(again(x), outputs)
    assert again.graph_module.code == model.graph_module.code
    # Names and order, by which optimisers know parameters.
    assert [*again.state_dict()] == [*model.state_dict()]
    assert kept(again) == kept(model)
    assert again.groups == model.groups
    again.choose(BFP(8, 3, 4))  # its operands are those of its graph
    assert not torch.equal(again(x), outputs)
    assert torch.equal(model(x), outputs)
    again.train()
    again(x).sum().backward()
    assert all(parameter.grad is not None for parameter in again.parameters())
    if model.batch is None:
        assert torch.equal(again(x[:1]), again(x)[:1])
    assert torch.equal(way(way(model))(x), outputs)


def test_what_was_quantised_before_is_not_stored(models) -> None:
    one, _, x = models
    model = copy.deepcopy(one)
    fresh = len(pickle.dumps(model))
    with torch.no_grad():
        model(x)
    assert len(pickle.dumps(model)) == fresh


def test_an_operator_that_is_not_there_is_named(models, monkeypatch) -> None:
    content = pickle.dumps(models[0])
    assert b"conv2d" in content
    with pytest.raises(ImportError, match=r"no operator aten\.conv9d\.default; import the package"):
        pickle.loads(content.replace(b"\x8c\x06conv2d", b"\x8c\x06conv9d"))


def test_another_process_gives_equal_outputs(pair) -> None:
    model, _, x = pair
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert torch.equal(pool.apply(_run, (model, x)), model(x).detach())


def _run(model: QuantizedModel, x: Tensor) -> Tensor:
    return model(x).detach()


def test_training_does_not_go_on_with_other_formats_or_tops(tmp_path) -> None:
    module = nn.Sequential(nn.Flatten(), nn.Linear(16, 4))
    pixels = torch.rand(8, 1, 4, 4, generator=torch.Generator().manual_seed(0)).numpy()
    images = ArrayDataset(pixels, np.arange(8) % 4, AS_STORED)
    x = torch.from_numpy(pixels)
    path = tmp_path / "training.safetensors"
    fine_tune(quantize_model(module, x, NARROW), images, steps=2, batch=2, checkpoint=path)
    fine_tune(quantize_model(module, x, NARROW), images, steps=2, batch=2, checkpoint=path)
    for other in (quantize_model(module, 8 * x, NARROW), quantize_model(module, x, BFP(8, 2, 4))):
        with pytest.raises(WorkloadError, match="that began with other weights or images"):
            fine_tune(other, images, steps=2, batch=2, checkpoint=path)
