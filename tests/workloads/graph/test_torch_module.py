"""ONNX graphs as torch modules: what they compute, in any batch, quantised, saved and trained."""

import copy
import importlib
import pickle
import random
import warnings

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto
from onnx.backend.test.case import node as cases
from torch import nn

from bfpsim.quant.formats import BFP
from bfpsim.quant.torch.model import quantize_model
from bfpsim.workloads import WorkloadError
from bfpsim.workloads.graph.graph import Execution
from bfpsim.workloads.graph.torch_module import OnnxModule, onnx_module
from bfpsim.workloads.graph.torch_operators import OPERATORS
from bfpsim.workloads.importers.onnx.model import import_onnx
from tests.long import often
from tests.workloads.graph.onnx_cases import array, equal
from tests.workloads.graph.test_onnx_cases import UNCLAIMED
from tests.workloads.graph.test_products import DRAWS
from tests.workloads.graph.test_recurrent import random_model
from tests.workloads.importers.onnx_models import Model

# One case module for each of many operators; others at length.
SAMPLE = (
    "averagepool", "clip", "concat", "expand", "gather", "gelu", "globalmaxpool",
    "groupnormalization", "hardswish", "layernormalization", "maxpool", "pad", "prelu", "reducemax",
    "resize", "slice", "softmax", "split", "squeeze", "topk", "where",
)  # fmt: skip
# Types of a few bits, whole numbers without a sign and text are not torch's.
KINDS = ["float32", "float64", "int32", "int64", "int8", "uint8", "bool"]


def modules(found, path):
    """The cases whose inputs and outputs torch has, as modules, and their inputs and outputs."""
    for case in found:
        inputs, outputs = ([array(each) for each in side] for side in case.data_sets[0])
        whole = [*inputs, *outputs]
        if case.name in UNCLAIMED or any(str(getattr(x, "dtype", "")) not in KINDS for x in whole):
            continue
        onnx.save(case.model, str(path))
        given = dict(zip((v.name for v in case.model.graph.input), inputs, strict=False))
        small = {
            name: np.asarray(value)
            for name, value in given.items()
            if np.asarray(value).dtype.kind in "iub" and np.asarray(value).size <= 64
        }
        for values in ({}, small):
            try:
                module = OnnxModule(import_onnx(path, values).graph)
            except WorkloadError:
                continue
            wanted = dict(zip((o.name for o in case.model.graph.output), outputs, strict=True))
            yield case.name, module, given, wanted
            break


def check(found, path) -> int:
    count = 0
    for name, module, given, wanted in modules(found, path):
        graph = module._graph
        values = [torch.from_numpy(np.array(given[each])) for each in graph.inputs]
        with torch.no_grad():
            made = module(*values)
        outputs = made if isinstance(made, tuple) else (made,)
        for output, value in zip(graph.outputs, outputs, strict=True):
            assert equal(value.numpy(), wanted[output]), name
        count += 1
    return count


def test_a_sample_of_onnxs_node_cases(tmp_path) -> None:
    with warnings.catch_warnings(action="ignore"):
        for module in SAMPLE:
            importlib.import_module(f"{cases.__name__}.{module}")
        found = [case for case in cases._NodeTestCases if _operator(case) in SAMPLE]
        assert check(found[::8], tmp_path / "case.onnx") > 20


def _operator(case) -> str:
    return str(case.model.graph.node[0].op_type).lower()


@pytest.mark.long
def test_all_of_onnxs_node_cases(tmp_path) -> None:
    with warnings.catch_warnings(action="ignore"):
        assert check(cases.collect_testcases(None), tmp_path / "case.onnx") > 1300


@pytest.mark.parametrize("drawn", DRAWS)
@pytest.mark.parametrize("seed", often(6, range(300)))
def test_any_product_is_the_executors(drawn, seed, tmp_path) -> None:
    model = drawn(random.Random(f"{drawn.__name__}{seed}"), np.random.default_rng(seed))
    graph = import_onnx(model.save(tmp_path / "net.onnx", "out")).graph
    data = np.random.default_rng(seed)
    inputs = [data.normal(size=own.shape).astype(np.float32) for own in graph.inputs.values()]
    expected = Execution(graph, dict(zip(graph.inputs, inputs, strict=True))).run()
    with torch.no_grad():
        found = OnnxModule(graph)(*map(torch.from_numpy, inputs))
    np.testing.assert_allclose(found.numpy(), expected["out"], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", ["RNN", "GRU", "LSTM"])
@pytest.mark.parametrize("seed", often(3, range(60)))
def test_any_recurrent_operator_is_the_executors(kind, seed, tmp_path) -> None:
    model, feeds, _ = random_model(kind, random.Random(f"{kind}{seed}"))
    path = tmp_path / "net.onnx"
    onnx.save(model, str(path))
    graph = import_onnx(path).graph
    expected = Execution(graph, feeds).run()
    with torch.no_grad():
        found = OnnxModule(graph)(torch.from_numpy(feeds["x"]))
    for name, value in zip(graph.outputs, found, strict=True):
        np.testing.assert_allclose(value.numpy(), expected[name], rtol=1e-4, atol=1e-5)


def small_network(path) -> Model:
    """Convolutions, attention to channels, tokens, and an operator that torch has not (Det)."""
    data = np.random.default_rng(0)
    model = Model(kind=TensorProto.FLOAT)
    x = model.input("x", 1, 2, 6, 6)

    def conv(name, x, filters, channels, kernel, **own):
        weight = model.constant(data.normal(size=(filters, channels, kernel, kernel)) / 3)
        bias = model.constant(data.normal(size=filters))
        return model.node("Conv", x, weight, bias, name=name, **own)

    y = model.node("HardSwish", conv("stem.conv", x, 4, 2, 3, pads=[1, 1, 1, 1]))
    gate = model.node("Sigmoid", conv("gate", model.node("GlobalAveragePool", y), 4, 4, 1))
    y = model.node("Mul", y, gate)
    flat = model.constant(np.array([1, 4, 36]))
    tokens = model.node("Transpose", model.node("Reshape", y, flat), perm=[0, 2, 1])
    turned = model.node("Transpose", tokens, perm=[0, 2, 1])
    scores = model.node("Softmax", model.node("MatMul", tokens, turned, name="qk"), axis=-1)
    mixed = model.node("MatMul", scores, tokens, name="av")
    mean = model.node("ReduceMean", mixed, axes=[1], keepdims=0)
    weight = model.constant(data.normal(size=(4, 3)))
    logits = model.node("MatMul", mean, weight, name="head")
    model.node("Add", logits, model.constant(data.normal(size=3)), outputs=["out"])
    model.save(path, "out")
    return model


def test_a_file_is_quantised_as_the_module_that_it_is(tmp_path) -> None:
    small_network(tmp_path / "net.onnx")
    module = onnx_module(tmp_path / "net.onnx")
    x = torch.randn(6, 2, 6, 6, generator=torch.Generator().manual_seed(0))
    assert module.batch is None  # as it was tried, though its Reshape holds a batch of one
    with torch.no_grad():
        together = module(x)
        apart = torch.cat([module(one[None]) for one in x])
    torch.testing.assert_close(together, apart)
    model = quantize_model(module, x[:2], BFP(8, 3, 16), [x])
    assert [site.name for site in model.sites] == [
        "stem.conv", "gate", "qk.qk", "av.av", "head",
    ]  # fmt: skip
    with torch.no_grad():
        coarse = model(x)
    assert 0 < float((coarse - together).abs().max()) < float(together.abs().max())
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        with torch.no_grad():
            torch.testing.assert_close(other(x), coarse, rtol=0, atol=0)


def test_weights_are_trained_through_operators_that_torch_has(tmp_path) -> None:
    small_network(tmp_path / "net.onnx")
    module = onnx_module(tmp_path / "net.onnx")
    x = torch.randn(4, 2, 6, 6, generator=torch.Generator().manual_seed(0))
    model = quantize_model(module, x, BFP(8, 3, 16))
    model(x).square().sum().backward()
    parameters = dict(model.named_parameters())
    assert len(parameters) == 6  # the sum behind the last layer is folded into its bias
    assert all(each.grad is not None and each.grad.any() for each in parameters.values())


def reference_between(path, kind: str = "Det") -> None:
    """A layer, an operator that torch does not have here, and a layer."""
    model = Model(kind=TensorProto.FLOAT)
    data = np.random.default_rng(0)
    x = model.input("x", 2, 3)
    y = model.node("MatMul", x, model.constant(data.normal(size=(3, 4))), name="first")
    y = model.node("TopK", y, model.constant(np.array([2])), outputs=["top", "places"])
    model.node("MatMul", y, model.constant(data.normal(size=(2, 5))), name="last", outputs=["out"])
    model.save(path, "out")
    assert "TopK" not in OPERATORS


def test_what_torch_lacks_is_the_references(tmp_path) -> None:
    reference_between(tmp_path / "net.onnx")
    module = onnx_module(tmp_path / "net.onnx")
    x = torch.randn(2, 3, generator=torch.Generator().manual_seed(0))
    expected = Execution(module._graph, x.numpy()).run()["out"]
    model = quantize_model(module, x, BFP(16, 4, 16))
    with torch.no_grad():
        np.testing.assert_allclose(module(x).numpy(), expected, rtol=1e-5)
        np.testing.assert_allclose(model(x).numpy(), expected, rtol=1e-2, atol=1e-2)
        again = pickle.loads(pickle.dumps(model))
        torch.testing.assert_close(again(x), model(x), rtol=0, atol=0)


def test_products_in_a_branch_that_data_decide_are_refused(tmp_path) -> None:
    """They run in the executor, and on the simulated array; a captured graph has no branches."""
    model = Model(kind=TensorProto.FLOAT)
    x = model.input("x", 2, 3)
    weight = model.constant(np.ones((3, 3)), "w")
    total = model.node("ReduceSum", x, keepdims=0)
    zero = model.constant(np.float32(0), "zero")
    branches = {}
    for name, nodes in (
        ("then_branch", [onnx.helper.make_node("MatMul", ["x", weight], ["a"], "product")]),
        ("else_branch", [onnx.helper.make_node("Neg", ["x"], ["b"])]),
    ):
        made = nodes[0].output[0]
        branches[name] = onnx.helper.make_graph(
            nodes, name, [], [onnx.helper.make_tensor_value_info(made, TensorProto.FLOAT, (2, 3))]
        )
    model.node("If", model.node("Greater", total, zero), outputs=["out"], **branches)
    graph = import_onnx(model.save(tmp_path / "net.onnx", "out")).graph
    seen = []

    def multiply(runs, inputs, weights):
        seen.append((runs.layer.name, runs.layer.macs, runs.stored))
        return inputs[:, :, :, :, :1].repeat(3, 4)

    for sign in (1, -1):
        out = Execution(graph, np.full((2, 3), sign, np.float32), multiply).run()["out"]
        assert (out == 1).all()
    assert seen == [("product", 2 * 3 * 3, True)]
    with pytest.raises(WorkloadError, match="has a MatMul within, which runs as data decide"):
        OnnxModule(graph)


def test_what_is_no_graph_of_onnx_is_refused() -> None:
    from bfpsim.workloads.importers.torch.module import import_torch

    graph = import_torch(nn.Linear(3, 2).eval(), {"input": (1, 3)}).graph
    assert OnnxModule(graph) is not None  # a product alone asks for no operator of ONNX
    graph = import_torch(nn.Sequential(nn.Linear(3, 2), nn.GELU()).eval(), {"input": (1, 3)}).graph
    with pytest.raises(WorkloadError, match="is no graph of ONNX operators"):
        OnnxModule(graph)


def test_training_names_the_operator_that_it_does_not_cross(tmp_path) -> None:
    reference_between(tmp_path / "net.onnx")
    model = quantize_model(onnx_module(tmp_path / "net.onnx"), torch.randn(2, 3), BFP(8, 3, 16))
    with pytest.raises(WorkloadError, match="TopK 'top' is onnx's reference, without a gradient"):
        model(torch.randn(2, 3)).sum().backward()


def test_layers_that_share_a_weight_share_one_in_memory(tmp_path) -> None:
    """In the file's weights and in the module's, where the second reader is folded otherwise."""
    model = Model(kind=TensorProto.FLOAT)
    data = np.random.default_rng(0)
    weight, bias = model.constant(data.normal(size=(4, 4))), model.constant(data.normal(size=4))
    kernel = model.constant(data.normal(size=(1, 1, 3)))
    y = model.input("x", 2, 4)
    for _ in range(3):
        y = model.node("Relu", model.node("Add", model.node("MatMul", y, weight), bias))
    axis = model.constant(np.array([1]))
    y = model.node("Unsqueeze", y, axis)
    for _ in range(2):
        y = model.node("Tanh", model.node("Conv", y, kernel, pads=[1, 1]))
    model.node("Squeeze", y, axis, outputs=["out"])
    made = import_onnx(model.save(tmp_path / "net.onnx", "out"))
    weights = [each.weight for each in made.weights.values()]
    assert len(weights) == 5
    assert all(np.shares_memory(weights[0], other) for other in weights[1:3])
    assert np.shares_memory(weights[3], weights[4])
    module = OnnxModule(made.graph)
    sizes = [each.numel() for name, each in module.named_parameters() if "weight" in name]
    assert sizes == [16, 3]
    model_ = quantize_model(module, torch.randn(2, 4), BFP(8, 3, 16))
    assert [site.shares for site in model_.sites] == [
        "", model_.sites[0].name, model_.sites[0].name, "", model_.sites[3].name,
    ]  # fmt: skip
