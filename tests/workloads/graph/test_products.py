"""Products of graphs beside ONNX Runtime, and torch's modules."""

import random

import numpy as np
import onnxruntime
import pytest
import torch
from onnx import TensorProto
from torch import nn

from bfpsim.workloads.graph.graph import Execution, Graph
from bfpsim.workloads.graph.product import Letters, Product, multiply_floats
from bfpsim.workloads.importers.onnx.model import import_onnx
from bfpsim.workloads.importers.torch.module import import_torch
from tests.long import often
from tests.workloads.importers.onnx_models import Model


def counted(graph: Graph, feeds):
    """A graph's outputs, and the multiply-accumulates of what ran."""
    macs = []

    def multiply(runs, inputs, weights):
        assert inputs.shape == (runs.count, *runs.layer.input_shape)
        assert weights.shape == (runs.count, *runs.layer.weight_shape)
        macs.append(runs.layer.macs * runs.count)
        return multiply_floats(runs, inputs, weights)

    outputs = Execution(graph, feeds, multiply).run()
    return [outputs[name] for name in graph.outputs], sum(macs)


def check(model: Model, path, *outputs: str, seed: int = 0) -> None:
    """The imported graph computes what ONNX Runtime does; its layers' MACs are what runs."""
    made = import_onnx(model.save(path, *outputs))
    data = np.random.default_rng(seed)
    feeds = {name: data.normal(size=own.shape) for name, own in made.graph.inputs.items()}
    feeds = {name: each.astype(made.graph.inputs[name].dtype) for name, each in feeds.items()}
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    expected = session.run(None, feeds)
    found, macs = counted(made.graph, feeds)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-4)
    assert macs == made.network.macs


def draw_convolution(draw: random.Random, data) -> Model:
    model, axes = Model(kind=TensorProto.FLOAT), draw.choice([1, 2])
    groups, per, filters = (draw.randint(1, 3) for _ in range(3))
    kernel = [draw.randint(1, 3) for _ in range(axes)]
    own = {
        "strides": [draw.randint(1, 3) for _ in range(axes)],
        "pads": [draw.randint(0, 2) for _ in range(2 * axes)],
        "group": groups,
    }
    extents = [draw.randint(6, 9) for _ in range(axes)]
    x = model.input("x", 2, groups * per, *extents)
    transposed = draw.random() < 0.5
    if transposed:
        shape = groups * per, filters, *kernel
        own["pads"] = [draw.randint(0, min(1, kernel[i % axes] - 1)) for i in range(2 * axes)]
        own["output_padding"] = [draw.randrange(step) for step in own["strides"]]
    else:
        shape = groups * filters, per, *kernel
        own["dilations"] = [draw.randint(1, 2) for _ in range(axes)]
    weight = model.constant(data.normal(size=shape))
    bias = [model.constant(data.normal(size=groups * filters))] * (draw.random() < 0.5)
    y = model.node("ConvTranspose" if transposed else "Conv", x, weight, *bias, **own)
    if draw.random() < 0.5:
        parts = (abs(data.normal(size=groups * filters)) + 0.1 for _ in range(4))
        y = model.node("BatchNormalization", y, *map(model.constant, parts))
    model.node("Relu", y, outputs=["out"])
    return model


def draw_gemm(draw: random.Random, data) -> Model:
    model = Model(kind=TensorProto.FLOAT)
    turned = {name: draw.randint(0, 1) for name in ("transA", "transB")}
    rows, inner, columns = (draw.randint(1, 4) for _ in range(3))
    shapes = [(inner, rows) if turned["transA"] else (rows, inner)]
    shapes.append((columns, inner) if turned["transB"] else (inner, columns))
    added = draw.choice([None, (columns,), (1, columns), (rows, columns), (rows, 1), ()])
    own = {"alpha": draw.choice([1.0, 0.5]), "beta": draw.choice([1.0, 2.0])} | turned
    dynamic = draw.choice([(0, 1), (0,), (1,)])
    names = []
    for place, shape in enumerate([*shapes, *([] if added is None else [added])]):
        if place in dynamic or (place == 2 and draw.random() < 0.5):
            names.append(model.input(f"x{place}", *shape))
        else:
            names.append(model.constant(data.normal(size=shape)))
    model.node("Gemm", *names, outputs=["out"], **own)
    return model


def draw_einsum(draw: random.Random, data) -> Model:
    """A product whose dimensions come in any order."""
    model = Model(kind=TensorProto.FLOAT)
    letters = {x: draw.randint(1, 3) for x in "abmnpkl"}
    left, right = list("abmpkl"), list("abnkl")
    constant = draw.random() < 0.5
    if constant:
        right = list("nkl")
    out = [*"abmpn"]
    for each in (left, right, out):
        draw.shuffle(each)
    terms = ["".join(each) for each in (left, right, out)]
    x = model.input("x", *(letters[x] for x in left))
    extents = [letters[x] for x in right]
    y = model.constant(data.normal(size=extents)) if constant else model.input("y", *extents)
    swapped = draw.random() < 0.5
    equation = f"{terms[1]},{terms[0]}->{terms[2]}" if swapped else ",".join(terms[:2])
    equation = equation if swapped else f"{equation}->{terms[2]}"
    model.node("Einsum", *((y, x) if swapped else (x, y)), outputs=["out"], equation=equation)
    return model


def draw_matmul(draw: random.Random, data) -> Model:
    """Tensors of any rank, broadcast, transposed before and after."""
    model = Model(kind=TensorProto.FLOAT)
    ranks = draw.randint(2, 4), draw.randint(2, 4)
    batch = [draw.randint(1, 3) for _ in range(2)]
    rows, inner, columns = (draw.randint(1, 4) for _ in range(3))
    shapes = []
    for rank, last in zip(ranks, ((rows, inner), (inner, columns)), strict=True):
        own = [draw.choice([extent, extent, 1]) for extent in batch[4 - rank :]]
        shapes.append((*own, *last))
    order = [*range(ranks[0])]
    draw.shuffle(order)
    stored = [shapes[0][order.index(place)] for place in range(ranks[0])]
    x = model.node("Transpose", model.input("x", *stored), perm=order)
    other = model.input("y", *shapes[1])
    model.node("Relu", model.node("MatMul", x, other), outputs=["out"])
    return model


def draw_shared(draw: random.Random, data) -> Model:
    """Heads that share keys, which are written out for each: by Expand, Tile, or Concat."""
    model = Model(kind=TensorProto.FLOAT)
    heads, times = draw.randint(1, 3), draw.randint(2, 3)
    rows, inner, columns = (draw.randint(2, 4) for _ in range(3))
    x = model.input("x", 2, heads * times, rows, inner)
    keys = model.input("y", 2, heads, inner, columns)
    apart = draw.random() < 0.5
    if apart:
        axis = model.constant(np.array([2], np.int64))
        shape = model.constant(np.array([2, heads, times, inner, columns]))
        wide = model.node("Expand", model.node("Unsqueeze", keys, axis), shape)
        whole = model.constant(np.array([2, heads * times, inner, columns]))
        many = model.node("Reshape", wide, whole)
    else:
        many = model.node("Concat", *[keys] * times, axis=1)
    model.node("MatMul", x, many, outputs=["out"])
    return model


DRAWS = (draw_convolution, draw_gemm, draw_einsum, draw_matmul, draw_shared)


@pytest.mark.parametrize("drawn", DRAWS)
@pytest.mark.parametrize("seed", often(12, range(300)))
def test_any_product_computes_what_onnxruntime_does(drawn, seed, tmp_path) -> None:
    name = f"{drawn.__name__}{seed}"
    model = drawn(random.Random(name), np.random.default_rng(seed))
    check(model, tmp_path / "net.onnx", "out", seed=seed)


def test_letters_tell_which_dimensions_do_what() -> None:
    product = Letters.einsum("bhqk,bkv->bhqv")
    assert product is not None
    assert (product.batch, product.rows, product.contracted, product.columns) == (
        "b", "hq", "k", "v",
    )  # fmt: skip


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, x):
        return self.attention(x, x, x, need_weights=False)[0]


class Signal(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(3, 6, 3, padding="same", dilation=2, groups=3)
        self.up = nn.ConvTranspose1d(6, 4, 4, stride=2, padding=1)
        self.lstm = nn.LSTM(4, 5, bidirectional=True, batch_first=True)

    def forward(self, x):
        outputs, (last, _) = self.lstm(self.up(torch.relu(self.conv(x))).transpose(1, 2))
        return outputs, last.softmax(-1)


MODULES = {
    "convolutions": (
        lambda: nn.Sequential(
            nn.Conv2d(3, 6, 3, padding="same", bias=False),
            nn.BatchNorm2d(6),
            nn.Hardswish(),
            nn.MaxPool2d(2, 2, ceil_mode=True),
            nn.ConvTranspose2d(6, 4, 3, stride=2, padding=1, output_padding=1, groups=2),
            nn.GroupNorm(2, 4),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(4, 5),
        ),
        (2, 3, 7, 6),
    ),
    "attention": (Attention, (2, 5, 8)),
    "signal": (Signal, (2, 3, 9)),
}


@pytest.mark.parametrize("name", MODULES)
def test_a_torch_modules_graph_computes_what_the_module_does(name) -> None:
    make, shape = MODULES[name]
    torch.manual_seed(0)
    module = make().eval()
    x = torch.randn(shape)
    made = import_torch(module, {next(iter(_arguments(module))): shape})
    with torch.no_grad():
        expected = module(x)
    expected = expected if isinstance(expected, tuple) else (expected,)
    found, macs = counted(made.graph, x.numpy())
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other.numpy(), rtol=1e-4, atol=1e-5)
    assert macs == made.network.macs


def _arguments(module):
    import inspect

    return inspect.signature(module.forward).parameters


def test_steps_run_in_any_order_that_has_what_they_read(tmp_path) -> None:
    """Whoever runs products in an order of their own asks for operands, and gives the sums."""
    model = Model(kind=TensorProto.FLOAT)
    x = model.input("x", 1, 3, 4, 4)
    weights = [np.random.default_rng(i).normal(size=(3, 3, 1, 1)) for i in range(2)]
    one = model.node("Sigmoid", model.node("Conv", x, model.constant(weights[0])))
    other = model.node("Conv", model.node("Tanh", x), model.constant(weights[1]))
    model.node("Mul", one, other, outputs=["out"])
    graph = import_onnx(model.save(tmp_path / "net.onnx", "out")).graph
    value = np.random.default_rng(2).normal(size=(1, 3, 4, 4))
    (expected,), _ = counted(graph, value)
    execution = Execution(graph, value, None)  # nothing multiplies but this loop
    for step in reversed(graph.products):
        assert isinstance(step.operation, Product)
        sums = [multiply_floats(*each) for each in execution.operands(step)]
        execution.finish(step, sums)
    np.testing.assert_array_equal(execution.value("out"), expected)
    assert [graph.steps_of(step.nodes[0]) for step in graph.products] == [
        (step,) for step in graph.products
    ]
