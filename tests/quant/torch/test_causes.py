"""What keeps a module from being quantised, or a model from running, is named with a way out."""

import copy
import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from bfpsim.quant.formats import BFP, FormatError
from bfpsim.quant.study.datasets import Batch
from bfpsim.quant.study.sensitivity import measure_sensitivity
from bfpsim.quant.torch.model import quantize_model
from bfpsim.quant.training.fine_tuning import fine_tune
from bfpsim.workloads.importers.torch.module import import_torch
from bfpsim.workloads.layer import WorkloadError

NARROW = BFP(8, 3, 16)


def net() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(36, 5))


class Images:
    """A dataset of tensors."""

    def __init__(self, inputs: Tensor, labels: Tensor) -> None:
        self.inputs, self.labels = inputs, labels

    def __len__(self) -> int:
        return len(self.inputs)

    def batch(self, indices) -> Batch:
        return Batch(self.inputs[[*indices]], self.labels[[*indices]])


@pytest.fixture(scope="module")
def images() -> Tensor:
    return torch.randn(2, 3, 5, 5, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def model(images):
    return quantize_model(net(), images, NARROW)


# --- types ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(images, dtype) -> None:
    module = net().to(dtype)
    with pytest.raises(FormatError) as caught:
        quantize_model(module, images.to(dtype), NARROW)
    assert str(caught.value) == (
        f"module Sequential: parameter '0.weight': {dtype}; allowed: torch.float32, torch.float64, "
        "as of module.float() and inputs.float()"
    )
    quantize_model(module.float(), images.to(dtype).float(), NARROW)
    with pytest.raises(FormatError, match=rf"Sequential: input 0: {dtype}; allowed: torch.float32"):
        quantize_model(net(), images.to(dtype), NARROW)


def test_a_model_made_half_is_refused_and_works_again_as_float(model, images) -> None:
    half = copy.deepcopy(model).half()
    with pytest.raises(FormatError, match=r"Sequential: its parameters: torch\.float16; allowed: "):
        half(images.half())
    assert half.float()(images).dtype == torch.float32
    assert half.double()(images.double()).dtype == torch.float64


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_autocast(model, images, dtype) -> None:
    with torch.autocast("cpu", dtype):
        with pytest.raises(FormatError, match=r"under torch\.autocast, .*\('cpu', enabled=False\)"):
            model(images)
        with torch.autocast("cpu", enabled=False):
            assert torch.equal(model(images), model(images))


def test_a_model_made_under_autocast_is_the_same(images) -> None:
    module = net()
    plain = quantize_model(module, images, NARROW)
    with torch.autocast("cpu", torch.bfloat16):
        made = quantize_model(module, images, NARROW)
    assert torch.equal(made(images), plain(images))
    assert made.graph_module.code == plain.graph_module.code


# --- inputs --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (lambda x: (x.double(),), "input 'input' is torch.float64; allowed: torch.float32, the ty"),
        (lambda x: (x.long(),), "input 'input' is torch.int64; allowed: floats, as it was"),
        (lambda x: (x[0],), r"input 'input' is \(3, 5, 5\); allowed: \(any, 3, 5, 5\), as"),
        (lambda x: (x[:, :2],), r"input 'input' is \(2, 2, 5, 5\); allowed: \(any, 3, 5, 5\), as"),
        (lambda x: (x[..., :3],), r"input 'input' is \(2, 3, 5, 3\); allowed"),
        (lambda x: (x[0, 0, 0, 0],), r"input 'input' is \(\); allowed: \(any, 3, 5, 5\), as"),
        (lambda x: (), "0 inputs; allowed: 1: input"),
        (lambda x: (x, x), "2 inputs; allowed: 1: input"),
        (lambda x: (x.numpy(),), "input 'input' is ndarray; allowed: a tensor"),
    ],
)
def test_inputs_that_do_not_fit_are_named(model, images, given, message) -> None:
    with pytest.raises(FormatError, match=f"module Sequential: {message}"):
        model(*given(images))


class Two(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.tokens, self.fc = nn.Embedding(9, 4), nn.Linear(4, 3)

    def forward(self, image: Tensor, tokens: Tensor) -> Tensor:
        return self.fc(image + self.tokens(tokens))


def test_the_input_that_does_not_fit_is_named_among_several() -> None:
    image, tokens = torch.randn(2, 4), torch.tensor([1, 2])
    model = quantize_model(Two(), (image, tokens), NARROW)
    model(image.repeat(3, 1), tokens.repeat(3))
    with pytest.raises(
        FormatError, match=r"input 'tokens' is torch\.float32; allowed: whole numbers"
    ):
        model(image, tokens.float())
    with pytest.raises(FormatError, match="input 'tokens' is a batch of 2; allowed: 6, as of 'ima"):
        model(image.repeat(3, 1), tokens)
    with pytest.raises(FormatError, match="1 inputs; allowed: 2: image, tokens"):
        model(image)


# --- random, and with a memory -------------------------------------------------------------------


class Around(nn.Module):
    """A layer, and what is done to its output."""

    def __init__(self, operation) -> None:
        super().__init__()
        self.fc, self.operation = nn.Linear(4, 4), operation
        self.register_buffer("count", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        return self.operation(self, self.fc(x))


def counted(module, y: Tensor) -> Tensor:
    module.count += 1
    return y + module.count


@pytest.mark.parametrize(
    ("operation", "cause"),
    [
        (
            lambda _, y: y + torch.randn_like(y),
            r"is random in .*: aten\.randn_like\.default \(test_",
        ),
        (
            lambda _, y: F.dropout(y),
            r"is random in evaluation mode: aten\..* \(test_causes\.py:\d+",
        ),
        (lambda _, y: y * torch.bernoulli(y.sigmoid()), r"is random .*: aten\.bernoulli\.default"),
        (lambda _, y: y[:, torch.randperm(4)], r"is random in evaluation mode: aten\.randperm"),
        (lambda _, y: y * np.random.default_rng().random(), "keeps state from call to call, or dr"),
        (counted, "keeps state from call to call, or draws numbers that are not torch's; allowed"),
    ],
)
def test_a_forward_that_is_no_function_of_its_inputs(operation, cause) -> None:
    module, x = Around(operation), torch.ones(3, 4)
    before = torch.random.get_rng_state()
    with pytest.raises(FormatError, match=f"module Around: its forward {cause}") as caught:
        quantize_model(module, x, NARROW)
    assert str(caught.value).endswith(
        "; allowed: outputs that depend on inputs and parameters alone"
    )
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize(
    "operation",
    [
        lambda module, y: F.dropout(y, training=module.training),
        lambda _, y: y + 0 * torch.randn_like(y),
        lambda _, y: y / 0 - math.inf,  # NaN is equal to itself
    ],
)
def test_what_makes_no_difference_is_no_cause(operation) -> None:
    quantize_model(Around(operation), torch.ones(3, 4))


# --- values that decide --------------------------------------------------------------------------


class Deciding(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc, self.bias = nn.Linear(4, 4), nn.Parameter(torch.ones(4))

    def forward(self, image: Tensor, mask: Tensor, way: int = 0) -> Tensor:
        y = self.fc(image)
        half = mask * 0.5
        if half.sum() > 1:
            y = self.fc(y)
        return y


class Counting(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 4)

    def forward(self, x: Tensor, times: Tensor) -> Tensor:
        for _ in range(int(times)):
            x = self.fc(x)
        return x


@pytest.mark.parametrize(
    ("module", "inputs", "cause"),
    [
        (
            Deciding(),
            {"image": torch.ones(3, 4), "mask": torch.ones(4)},
            r"'mask' \(test_causes\.py:\d+: if half\.sum\(\) > 1:\)",
        ),
        (
            Counting(),
            {"x": torch.ones(3, 4), "times": torch.tensor(3)},
            r"'times' \(test_causes\.py:\d+: for _ in range\(int\(times\)\):\)",
        ),
    ],
)
def test_the_input_that_decides_is_named(module, inputs, cause) -> None:
    message = rf"its forward goes by the values of {cause}, and a graph is one for all values; allo"
    with pytest.raises(WorkloadError, match=message):
        quantize_model(module, tuple(inputs.values()), NARROW)
    with pytest.raises(WorkloadError, match=message):
        import_torch(module, inputs)


def test_another_fault_of_the_export_says_where() -> None:
    class Leaves(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.fc(x) * float(np.asarray(x.detach()).mean())

    with pytest.raises(
        WorkloadError, match=r"torch\.export fails: .* \(test_causes\.py:\d+: retur"
    ):
        quantize_model(Leaves(), torch.ones(3, 4), NARROW)


# --- calibration ---------------------------------------------------------------------------------


@pytest.mark.parametrize("batches", [[], iter([]), [torch.empty(0, 3, 5, 5)]])
def test_calibration_by_nothing_is_refused_and_changes_nothing(model, images, batches) -> None:
    before = model(images)
    with pytest.raises(
        FormatError, match="calibration of Sequential: there are no inputs; allowed:"
    ):
        model.calibrate(batches)
    with pytest.raises(FormatError, match="there are no inputs"):
        quantize_model(net(), images, NARROW, batches)
    assert torch.equal(model(images), before)


def test_a_calibration_that_fails_changes_nothing(model, images) -> None:
    before = model(images)
    bad = images.clone()
    bad[0, 0, 0, 0] = math.nan
    with pytest.raises(
        FormatError, match="calibration of Sequential: 0 input: 1 of 150 values are"
    ):
        model.calibrate([100 * images, bad])

    def broken():
        yield 100 * images
        raise OSError("gone")

    with pytest.raises(OSError, match="gone"):
        model.calibrate(broken())
    assert torch.equal(model(images), before)


def test_a_bad_weight_is_blamed_before_what_it_makes(images) -> None:
    module = net()
    module[3].weight.data[1, 2] = math.inf
    with pytest.raises(
        FormatError, match=r"3 weight: 1 of 180 values are NaN or infinite, .*\(1, 2"
    ):
        quantize_model(module, images)


# --- inference mode ------------------------------------------------------------------------------


def test_gradients_after_inference_mode(images) -> None:
    """Of parameters, and through frozen ones whose quantised values were kept."""
    module = net()
    with torch.inference_mode():
        model = quantize_model(module, images.clone(), NARROW)
        outputs = model(images)
        model.load_state_dict(model.state_dict())
    for frozen in (False, True):
        for parameter in model.parameters():
            parameter.requires_grad_(not frozen)
            parameter.grad = None
        with torch.inference_mode():
            model(images)
        given = images.clone().requires_grad_()
        result = model.train()(given)
        assert torch.equal(result, outputs)
        result.sum().backward()
        assert given.grad.abs().sum() > 0
        assert all((p.grad is None) == frozen for p in model.parameters())


def test_training_and_sensitivity_in_inference_mode(images) -> None:
    plain, other = (quantize_model(net(), images, NARROW) for _ in range(2))
    other.load_state_dict(plain.state_dict())
    labels = torch.tensor([1, 3])
    expected = fine_tune(plain, Images(images, labels), steps=2, batch=2).losses
    table = measure_sensitivity(plain, images, labels, [NARROW]).table
    with torch.inference_mode():
        dataset = Images(images.clone(), labels.clone())
        assert fine_tune(other, dataset, steps=2, batch=2).losses == expected
        assert measure_sensitivity(other, images.clone(), labels, [NARROW]).table.equals(table)


def test_messages_are_single_lines(images) -> None:
    """Whatever torch's own say, on as many lines as they like."""
    for module, inputs in ((Deciding(), (torch.ones(3, 4),) * 2), (Counting(), (images,) * 2)):
        with pytest.raises((FormatError, WorkloadError)) as caught:
            quantize_model(module, inputs, NARROW)
        assert len(str(caught.value).splitlines()) == 1
