"""Quantised modules, against numpy's rule, exact sums, and the simulator."""

import copy
import math
import random
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from bfpsim.mapping.mapper import find_mapping
from bfpsim.quant.formats import (
    BFP,
    E2M1,
    E4M3,
    MX,
    NVFP4,
    FormatError,
    LayerFormats,
    Plain,
    Rounding,
    ScaleRounding,
)
from bfpsim.quant.formats.blocks import LAST, WEIGHT
from bfpsim.quant.formats.quantize import (
    dequantize,
    quantize_activation,
    quantize_weight,
    top_exponent,
)
from bfpsim.quant.torch.fake_quantize import Gradient
from bfpsim.quant.torch.model import Codings, QuantizedModel, quantize_model
from bfpsim.quant.torch.operand import Mode, format_bits
from bfpsim.sim.simulate import simulate
from bfpsim.workloads.importers.torch.module import import_torch
from tests.generate import make_arch
from tests.quant.oracle import storage_bits

FORMATS = LayerFormats(BFP(8, 3, 16), BFP(8, 2, 4), BFP(16, 4, 8))
SCALED = LayerFormats(MX(E4M3, ScaleRounding.EVEN), MX(E2M1), NVFP4())
BOTH = pytest.mark.parametrize("formats", [FORMATS, SCALED], ids=str)


class Zoo(nn.Module):
    """A layer of each kind, an add, a concatenation, a gate, attention."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 12, 3, stride=2, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(12)
        self.depthwise = nn.Conv2d(12, 12, 3, padding=1, groups=12)
        self.grouped = nn.Conv2d(12, 18, 3, padding=2, dilation=2, groups=3)
        self.point = nn.Conv2d(12, 12, 1)
        self.eca = nn.Conv1d(1, 1, 3, padding=1, bias=False)
        self.up = nn.ConvTranspose2d(30, 8, 3, stride=2, padding=1, groups=2)
        self.qkv = nn.Linear(8, 24)
        self.out = nn.Linear(8, 8)
        self.layernorm = nn.LayerNorm(8)
        self.fc = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm(self.stem(x)))
        y = F.relu(self.depthwise(x))
        y = self.point(y)
        gate = self.eca(y.mean((2, 3))[:, None]).sigmoid()
        x = x + y * gate[:, 0, :, None, None]
        x = self.up(torch.cat([x, self.grouped(x)], dim=1))
        tokens = x.flatten(2).transpose(1, 2)
        q, k, v = (
            self.qkv(self.layernorm(tokens)).reshape(len(x), -1, 3, 2, 4).permute(2, 0, 3, 1, 4)
        )
        y = F.scaled_dot_product_attention(q, k, v)
        tokens = tokens + self.out(y.transpose(1, 2).flatten(2))
        return self.fc(tokens.mean(1))


@pytest.fixture(scope="module")
def zoo() -> tuple[nn.Module, Tensor]:
    torch.manual_seed(1)
    module = Zoo()
    module.train()
    for _ in range(3):
        module(torch.randn(4, 3, 10, 8))  # statistics that are not those of nothing
    return module.eval(), torch.randn(3, 3, 10, 8)


@pytest.fixture(scope="module")
def quantized(zoo) -> Callable[..., QuantizedModel]:
    """`quantize_model` of the zoo, exported once: a model of one's own in each call."""
    floats = quantize_model(*zoo)

    def quantized(chosen: object = None, *, tied: bool = True) -> QuantizedModel:
        model = copy.deepcopy(floats)
        model.choose(chosen, tied=tied)
        return model

    return quantized


def passed(model: QuantizedModel, *inputs: Tensor) -> dict[tuple[str, str], tuple[Tensor, Tensor]]:
    """What went into and came out of each operand."""
    seen: dict[tuple[str, str], tuple[Tensor, Tensor]] = {}
    hooks = [
        operand.register_forward_hook(
            lambda _, given, result, key=key: seen.__setitem__(key, (given[0], result))
        )
        for key, operand in model.operands.items()
    ]
    with torch.no_grad():
        model(*inputs)
    for hook in hooks:
        hook.remove()
    return {key: (a.detach(), b.detach()) for key, (a, b) in seen.items()}


def test_floats_pass_unchanged(zoo) -> None:
    module, x = zoo
    model = quantize_model(module, x)
    with torch.no_grad():
        assert torch.allclose(model(x), module(x), rtol=0, atol=1e-6)
        assert torch.equal(model(x), quantize_model(module, x, Codings())(x))


def test_every_product_has_three_operands(zoo, quantized) -> None:
    _, x = zoo
    model = quantized(BFP(8, 3, 16))
    names = ["stem", "depthwise", "point", "eca", "grouped", "up", "qkv", "qk", "av", "out", "fc"]
    assert [site.name for site in model.sites] == names
    assert set(passed(model, x)) == {(name, tensor) for name in names for tensor in "IWO"}


def nhwc(tensor: Tensor, kind: str) -> np.ndarray:
    """Channels last, as numpy's rule and the simulator have them."""
    values = tensor.double()
    if kind in ("conv", "transposed", "conv1d"):
        values = values.movedim(1, -1)
    return values.numpy()


@BOTH
def test_operands_are_those_of_the_numpy_rule(zoo, quantized, formats) -> None:
    _, x = zoo
    model = quantized(formats, tied=False).double()
    kinds = {site.name: site.kind for site in model.sites}
    for (name, tensor), (before, after) in passed(model, x.double()).items():
        kind, fmt, top = kinds[name], formats.of(tensor), model.operand(name, tensor).top
        if tensor == "W" and kind == "transposed":
            continue
        if tensor == "W" and kind == "matmul":
            before, after = before.transpose(-1, -2), after.transpose(-1, -2)
        elif tensor == "W":
            taps = before.reshape(*before.shape[:2], -1)[..., None].double().numpy()
            expected = dequantize(quantize_weight(taps, fmt)).reshape(before.shape)
            assert np.array_equal(after.double().numpy(), expected), name
            continue
        values = nhwc(before, kind)
        flat = values.reshape(1, 1, -1, values.shape[-1])
        expected = dequantize(quantize_activation(flat, fmt, top)).reshape(values.shape)
        assert np.array_equal(nhwc(after, kind), expected), (name, tensor)


def test_phases_of_a_transposed_convolution_have_blocks_of_their_own(zoo, quantized) -> None:
    """Against every block of every phase, gathered element by element."""
    _, x = zoo
    model = quantized(BFP(8, 3, 4))
    before, after = passed(model, x)["up", "W"]
    weight, found = before.double().numpy(), after.double().numpy()
    top = top_exponent(weight)
    per_group, filters = 15, 4
    expected = np.full(weight.shape, np.nan)
    for group in range(2):
        for k in range(filters):
            for r in range(2):
                for s in range(2):
                    taps = [(i, j) for i in range(r, 3, 2) for j in range(s, 3, 2)]
                    for first in range(0, per_group, 4):
                        channels = range(first, min(first + 4, per_group))
                        where = [
                            (group * per_group + c, k, i, j) for c in channels for i, j in taps
                        ]
                        block = np.array([weight[at] for at in where]).reshape(1, -1, 1, 1)
                        values = dequantize(quantize_weight(block, BFP(8, 3, block.size), top))
                        for at, value in zip(where, values.ravel(), strict=True):
                            expected[at] = value
    assert np.array_equal(found, expected)


def test_outputs_are_exact_sums_quantised_and_the_bias_comes_after(zoo, quantized) -> None:
    """In float64 the sums of such short mantissas are exact, so any order gives the same."""
    module, x = zoo
    model = quantized(FORMATS, tied=False).double()
    seen = passed(model, x.double())
    inputs, weight = seen["fc", "I"][1], seen["fc", "W"][1]
    sums = np.array([[math.fsum((row * col).tolist()) for col in weight] for row in inputs])
    assert np.array_equal(seen["fc", "O"][0].numpy(), sums)
    with torch.no_grad():
        assert torch.equal(model(x.double()), seen["fc", "O"][1] + module.fc.bias.double())


@pytest.fixture(scope="module", params=[FORMATS, SCALED], ids=str)
def one_image(zoo, request):
    """The zoo for a batch of one: quantised, imported, and what passed its operands."""
    module, x = zoo
    x, formats = x[:1], request.param
    model = quantize_model(module, x, formats, tied=False).double()
    network = import_torch(module, {"x": tuple(x.shape)}).network
    return model, network, passed(model, x.double()), formats


@pytest.mark.parametrize("name", ["stem", "depthwise", "grouped", "point", "qkv", "fc", "eca"])
def test_the_simulated_layer_gives_the_same_output(one_image, name: str) -> None:
    model, network, seen, formats = one_image
    layer = next(layer for layer in network.layers if layer.name == name)
    kind = next(site.kind for site in model.sites if site.name == name)
    (inputs, _), (weight, _) = seen[name, "I"], seen[name, "W"]
    shape = layer.input_shape
    given = quantize_activation(
        nhwc(inputs, kind).reshape(shape), formats.I, model.operand(name, "I").top
    )
    stored = quantize_weight(weight.numpy().reshape(layer.weight_shape), formats.W)
    arch = make_arch()
    mapping = find_mapping(layer, arch, formats)
    top = model.operand(name, "O").top
    result = simulate(layer, arch, mapping, formats, (given, stored), output_top=top)
    output = nhwc(seen[name, "O"][1], kind).reshape(layer.output_shape)
    assert np.array_equal(result.output, output)


def test_operands_that_are_one_tensor_are_tied(quantized) -> None:
    """By hand: the add and the gate tie all around them, softmax and layer norm end a tie."""
    assert quantized().groups == (
        (("stem", "I"),),
        (("stem", "O"), ("depthwise", "I"), ("point", "O"), ("eca", "I"), ("eca", "O"),
         ("grouped", "I"), ("grouped", "O"), ("up", "I")),
        (("depthwise", "O"), ("point", "I")),
        (("up", "O"), ("out", "O"), ("fc", "I")),
        (("qkv", "I"),),
        (("qkv", "O"), ("qk", "I"), ("qk", "W"), ("av", "W")),
        (("qk", "O"),),
        (("av", "I"),),
        (("av", "O"), ("out", "I")),
        (("fc", "O"),),
    )  # fmt: skip


class Pooling(nn.Module):
    """Attention of a learned query, and a product with learned matrices, read twice."""

    def __init__(self) -> None:
        super().__init__()
        self.q = nn.Parameter(torch.randn(1, 2, 8))
        self.kv = nn.Linear(6, 16)
        self.mix = nn.Parameter(torch.randn(3, 8, 8))
        self.fc = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        k, v = self.kv(x).chunk(2, -1)
        y = F.scaled_dot_product_attention(self.q.expand(len(x), -1, -1), k, v)
        return self.fc(torch.bmm(y.relu(), self.mix) + torch.bmm(y, self.mix))


class Left(nn.Module):
    """A learned matrix before an activation."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(6, 4)
        self.D = nn.Parameter(torch.randn(5, 3))

    def forward(self, x: Tensor) -> Tensor:
        return self.D @ self.a(x)


@pytest.mark.parametrize(
    ("module", "shape", "places"),
    [
        (Pooling(), (3, 5, 6), [("qk", "I"), ("matmul", "W")]),
        (Left(), (3, 6), [("matmul", "I")]),
    ],
)
def test_a_parameter_in_a_product_of_activations(module, shape, places) -> None:
    """Its operand is quantised by numpy's rule, the products are exact sums of what is left."""
    torch.manual_seed(0)
    x, fmt = torch.randn(shape), BFP(8, 3, 4)
    model = quantize_model(module, x, Plain(32))
    with torch.no_grad():
        assert torch.allclose(model(x), module(x), rtol=0, atol=1e-5)
    model.choose(fmt)
    seen = passed(model, x)
    for name, tensor in places:
        before, after = seen[name, tensor]
        parameters = [*module.parameters()]
        assert any(torch.equal(before[:1], p[:1]) for p in parameters)
        rows = before if tensor == "I" else before.transpose(-1, -2)
        flat = rows.double().numpy().reshape(1, 1, -1, rows.shape[-1])
        expected = dequantize(quantize_activation(flat, fmt, top_exponent(flat)))
        found = (after if tensor == "I" else after.transpose(-1, -2)).double().numpy()
        assert np.array_equal(found.reshape(flat.shape), expected)
        assert not torch.equal(before, after)
        product = seen[name, "I"][1].double() @ seen[name, "W"][1].double()
        assert torch.allclose(seen[name, "O"][0].double(), product, rtol=1e-5, atol=1e-5)


def test_a_parameter_is_tied_to_the_products_that_read_it_alone() -> None:
    model = quantize_model(Pooling(), torch.randn(3, 5, 6))
    assert model.groups == (
        (("kv", "I"),),
        (("kv", "O"), ("qk", "W"), ("av", "W")),
        (("qk", "I"),),
        (("qk", "O"),),
        (("av", "I"),),
        (("av", "O"), ("matmul", "I"), ("matmul:1", "I")),
        (("matmul", "W"), ("matmul:1", "W")),
        (("matmul", "O"), ("matmul:1", "O"), ("fc", "I")),
        (("fc", "O"),),
    )
    places = [place for group in model.groups for place in group]
    assert len(places) == len({*places}) == 3 * len(model.sites) - 2  # but the stored W


def test_a_tie_is_kept_unless_it_is_waived(quantized) -> None:
    model = quantized(BFP(8, 3, 16))
    choice = model.choice()
    a, b = BFP(8, 3, 16), BFP(8, 2, 16)
    choice["depthwise"] = Codings(a, b, a)  # a stored W is nobody else's
    model.choose(choice)
    choice["point"] = Codings(b, a, a)
    with pytest.raises(FormatError, match="O of 'depthwise' in bfp8e3b16 and I of 'point' in "
                       "bfp8e2b16 are one stored tensor; allowed"):  # fmt: skip
        model.choose(choice)
    model.choose(choice, tied=False)
    assert model.choice()["point"] == Codings(b, a, a)
    choice["depthwise"] = Codings(a, b, b)
    model.choose(choice)


def test_tops_are_those_of_all_calibration_inputs(zoo) -> None:
    module, x = zoo
    batches = [x, 8 * x.roll(1, 0), x / 3]
    model = quantize_model(module, x, BFP(8, 3, 16), batches)
    with model.in_mode(Mode.FLOAT):
        runs = [passed(model, batch) for batch in batches]
    for (name, tensor), operand in model.operands.items():
        if operand.stored:
            assert operand.top is None or name == "up"
            continue
        tops = [top_exponent(run[name, tensor][0].numpy()) for run in runs]
        assert operand.top == max(tops), (name, tensor)


def test_measured_bits_and_noise(zoo, quantized) -> None:
    _, x = zoo
    model = quantized(FORMATS, tied=False)
    batches = [x, x / 3]
    measured = model.measure(batches)
    parts = [passed(model, batch) for batch in batches]
    kinds = {site.name: site.kind for site in model.sites}
    for (name, tensor), one in measured.items():
        pairs = [[each.double() for each in part[name, tensor]] for part in parts]
        signal = sum(float((before**2).sum()) for before, _ in pairs)
        error = sum(float(((before - after) ** 2).sum()) for before, after in pairs)
        assert one.signal == pytest.approx(signal)
        assert one.error == pytest.approx(error, rel=1e-6)
        noise = 10 * math.log10(signal / error) if error else math.inf
        assert one.sqnr_db == pytest.approx(noise)
        if kinds[name] in ("conv", "conv1d") and tensor != "W":
            stored = 0
            for part in parts:
                values = nhwc(part[name, tensor][0], kinds[name])
                flat = values.reshape(1, 1, -1, values.shape[-1])
                stored += storage_bits(quantize_activation(flat, FORMATS.of(tensor)))
            assert one.bits == stored


def test_bits_of_formats_are_what_packing_takes() -> None:
    rng = random.Random(3)
    for _ in range(50):
        shape = tuple(rng.randint(1, 9) for _ in range(4))
        fmt = rng.choice([BFP(8, 3, rng.randint(1, 20)), Plain(8), Plain(16), Plain(32)])
        values = np.random.default_rng(0).normal(size=shape)
        assert format_bits(fmt, shape, LAST) == storage_bits(quantize_activation(values, fmt))
        assert format_bits(fmt, shape, WEIGHT) == storage_bits(quantize_weight(values, fmt))


def test_gradients_pass_to_every_parameter(zoo, quantized) -> None:
    """Straight through: those of the same products of the quantised values."""
    module, x = zoo
    model = quantized(BFP(8, 3, 16))
    model(x).square().sum().backward()
    gradients = {name: p.grad for name, p in model.named_parameters()}
    assert all(g is not None and g.abs().sum() > 0 for g in gradients.values())
    seen = passed(model, x)
    output = seen["fc", "O"][1] + module.fc.bias
    weight = next(g for name, g in gradients.items() if name.endswith("fc.weight"))
    assert torch.allclose(weight, (2 * output).T @ seen["fc", "I"][1], rtol=1e-5)


def test_saturated_elements_may_have_no_gradient() -> None:
    linear = nn.Linear(4, 1, bias=False)
    nn.init.constant_(linear.weight, 1.0)
    x = torch.tensor([[1.0, 0.5, 0.25, 0.125]])
    model = quantize_model(linear, x, Codings(I=Plain(4)), [x])
    for gradient, expected in ((Gradient.STRAIGHT_THROUGH, 1.0), (Gradient.CLIPPED, 0.0)):
        for operand in model.operands.values():
            operand.gradient = gradient
        given = (4 * x).requires_grad_()
        model(given).sum().backward()
        assert given.grad[0, 0] == expected  # 4 is beyond E_top = 0
        assert given.grad[0, 3] == 1


def test_formats_for_products_that_are_not_there(quantized) -> None:
    model = quantized()
    some = dict.fromkeys(("stem", "nose"), BFP(8, 3, 16))
    with pytest.raises(FormatError, match=r"formats of Zoo: lacks 'av' \(11 in all\); allowed"):
        model.choose(some)
    every = {site.name: BFP(8, 3, 16) for site in model.sites} | {"nose": None}
    with pytest.raises(FormatError, match=r"has 'nose' \(1 in all\)"):
        model.choose(every)


def test_bad_values_name_the_product(zoo, quantized) -> None:
    _, x = zoo
    model = quantized(BFP(8, 3, 16))
    bad = x.clone()
    bad[0, 0, 0, 0] = math.nan
    with pytest.raises(FormatError, match="stem input: 1 of 720 values are NaN or infinite"):
        model(bad)
    with pytest.raises(FormatError, match="stem input: "):
        model.calibrate([bad])
    with torch.no_grad():
        model.get_parameter("graph_module.point.weight").fill_(math.inf)
    with pytest.raises(FormatError, match="point weight: 144 of 144 values are NaN or infinite"):
        model(x)


def test_a_batch_that_the_graph_cannot_take() -> None:
    class Fixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(3, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.fc(x.reshape(4, 3))

    model = quantize_model(Fixed(), torch.randn(4, 3), BFP(8, 3, 16))
    model(torch.randn(4, 3))
    with pytest.raises(FormatError, match="Fixed: a batch of 3 in input 'x'; allowed: 4, which"):
        model(torch.randn(3, 3))


def test_other_weights_and_other_formats_are_seen() -> None:
    """A parameter is quantised once, and anew after each way in which it or its format changes."""
    torch.manual_seed(0)
    linear, x = nn.Linear(6, 3, bias=False), torch.randn(4, 6)
    model = quantize_model(linear, x, Codings(W=BFP(8, 5, 6)))

    def assert_current() -> None:
        operand = model.operand("linear", "W")
        weight = model.get_parameter("graph_module.weight")
        fresh = dequantize(
            quantize_weight(weight.detach().numpy()[..., None, None], operand.coding)
        )
        with torch.no_grad():
            expected = x @ torch.from_numpy(fresh.reshape(3, 6)).float().T
            assert torch.equal(model(x), expected)

    assert_current()
    model.choose(Codings(W=BFP(8, 4, 2)))
    assert_current()
    with torch.no_grad():
        model.get_parameter("graph_module.weight").mul_(-3.3)
    assert_current()
    scaled = {name: 0.7 * each for name, each in model.named_parameters()}
    model.load_state_dict(model.state_dict() | scaled)
    assert_current()
    model(x).sum().backward()
    torch.optim.SGD(model.parameters(), lr=0.5).step()
    assert_current()


def test_a_computed_weight_is_quantised_at_every_pass() -> None:
    """Its values lie in memory that the pass before has given back."""

    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.v, self.g = nn.Parameter(torch.randn(256, 256)), nn.Parameter(torch.ones(256, 1))

        def forward(self, x: Tensor) -> Tensor:
            return F.linear(x, self.v * self.g)

    torch.manual_seed(0)
    module, x, fmt = Scaled(), torch.randn(4, 256), BFP(8, 5, 8)
    model = quantize_model(module, x, Codings(W=fmt))
    scales = (1.0, 1.3, 0.7, 3.1, 1.0)
    with torch.no_grad():
        outputs = []
        for scale in scales:
            model.get_parameter("graph_module.g").fill_(scale)
            outputs.append(model(x))
        for scale, output in zip(scales, outputs, strict=True):
            weight = (scale * module.v).numpy()[..., None, None]
            fresh = dequantize(quantize_weight(weight, fmt)).reshape(256, 256)
            expected = x @ torch.from_numpy(fresh).float().T
            assert torch.allclose(output, expected, rtol=0, atol=1e-3)
            assert float(output.abs().max()) > 10 * scale


def test_a_parameter_is_quantised_once_and_stays_the_modules_own() -> None:
    linear, x = nn.Linear(6, 3, bias=False), torch.randn(4, 6)
    model = quantize_model(linear, x, Codings(W=BFP(8, 5, 6)))
    with torch.no_grad():
        first, again = (passed(model, x)["linear", "W"][1] for _ in range(2))
    assert first.data_ptr() == again.data_ptr()
    assert [*model.state_dict()] == ["_extra_state", "graph_module.weight"]


def test_random_rounding_is_refused(zoo, quantized) -> None:
    _, x = zoo
    model = quantized(BFP(8, 3, 16, Rounding.STOCHASTIC))
    with pytest.raises(FormatError, match=r"stem input: .* rounds stochastically; allowed"):
        model(x)


def test_products_without_a_quantised_form_are_listed() -> None:
    class Volume(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Conv3d(1, 2, 3)
            self.second = nn.Linear(2, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.second(self.first(x).mean((2, 3, 4)))

    with pytest.raises(FormatError, match=r"module Volume: .*conv3d.* \d+\.\d+%; allowed: Conv1d"):
        quantize_model(Volume(), torch.randn(1, 1, 4, 4, 4))
    for name, title in ((None, "ReLU"), ("net.py:make", r"net\.py:make")):
        with pytest.raises(FormatError, match=f"module {title}: has no product to quantise"):
            quantize_model(nn.ReLU(), torch.randn(2, 3), name=name)


class Beside(nn.Module):
    """A linear layer 4 x 4 and an operation on what it gives, (6, 8, 4)."""

    def __init__(self, operation: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 4)
        self.w = nn.Parameter(torch.randn(3, 4, 4))
        self.operation = operation

    def forward(self, x: Tensor) -> Tensor:
        return self.operation(self.fc(x), self.w)


@pytest.mark.parametrize(
    ("target", "operation", "macs"),
    [
        ("addbmm", lambda y, w: torch.addbmm(w[0], y.transpose(1, 2), y), 6 * 8 * 4 * 4),
        ("addmv", lambda y, w: torch.addmv(w[0, 0], w[0], y[0, 0]), 4 * 4),
        ("conv_tbc", lambda y, w: torch.conv_tbc(y, w, w[0, 0], 1), 6 * 8 * 4 * 3 * 4),
        ("cdist", lambda y, w: torch.cdist(y, y.flip(1)), 6 * 8 * 8 * 4),
        ("cdist", lambda y, w: torch.cdist(y.repeat(1, 4, 1), y), 6 * 32 * 8 * 4),
        ("pdist", lambda y, w: F.pdist(y[0]), 28 * 4),
        ("linalg_vecdot", lambda y, w: torch.linalg.vecdot(y, w[0, 0]), 6 * 8 * 4),
        ("linalg_vecdot", lambda y, w: torch.linalg.vecdot(x=y, y=w[0, 0]), 6 * 8 * 4),
        ("vdot", lambda y, w: torch.vdot(y[0, 0], y[1, 0]), 4),
    ],
)
def test_no_product_runs_in_float_unsaid(target: str, operation, macs: int) -> None:
    share = f"{macs / (macs + 6 * 8 * 4 * 4):.2%}"
    with pytest.raises(FormatError, match=rf"Beside: .*\(aten\.{target}\.default\) {share}; allo"):
        quantize_model(Beside(operation), torch.randn(6, 8, 4))


def test_sums_of_differences_are_no_products() -> None:
    model = quantize_model(Beside(lambda y, w: torch.cdist(y, y, p=1.0)), torch.randn(6, 8, 4))
    assert [site.name for site in model.sites] == ["fc"]


@pytest.mark.parametrize(
    ("module", "target"),
    [
        (nn.LSTM(4, 5), "lstm.input"),
        (nn.GRU(4, 5), "gru.input"),
        (nn.RNN(4, 5), "rnn_tanh.input"),
        (nn.Bilinear(4, 4, 5), "bilinear.default"),
    ],
)
def test_a_module_of_one_such_product_names_it(module: nn.Module, target: str) -> None:
    x = torch.randn(3, 2, 4)
    inputs = (x, x.flip(0)) if isinstance(module, nn.Bilinear) else x
    with pytest.raises(FormatError, match=rf"\(aten\.{target}\) 100\.00%; allowed: Conv1d"):
        quantize_model(module, inputs)


@pytest.mark.parametrize("used_up", [[], iter(()), [torch.zeros(0, 3, 8, 8)], ((),)])
def test_calibration_by_nothing_is_an_error(used_up) -> None:
    x = torch.randn(2, 3, 8, 8)
    module = nn.Conv2d(3, 4, 3)
    with pytest.raises(
        FormatError, match="calibration of Conv2d: there are no inputs; allowed: at"
    ):
        quantize_model(module, x, BFP(8, 3, 16), used_up)
    model = quantize_model(module, x, BFP(8, 3, 16), iter([x, torch.zeros(0, 3, 8, 8)]))
    tops = [operand.top for operand in model.operands.values()]
    with pytest.raises(FormatError, match="there are no inputs"):
        model.calibrate(used_up)
    assert [operand.top for operand in model.operands.values()] == tops
    assert tops == [o.top for o in quantize_model(module, x, BFP(8, 3, 16)).operands.values()]
