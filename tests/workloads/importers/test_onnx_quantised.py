"""Quantised files: products of floats, as their operators compute them, and as many as they do."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from bfpsim.workloads.importers.onnx.file import read_file
from bfpsim.workloads.importers.onnx.model import import_onnx
from bfpsim.workloads.importers.onnx.shapes import Inference
from tests.workloads.importers.onnx_models import evaluate

RUNTIME = "com.microsoft"


@pytest.fixture
def path(tmp_path):
    return tmp_path / "model.onnx"


class Quantised:
    """A model whose constants keep their types; random, but the same every time."""

    def __init__(self, opset=17):
        self.opset, self.rng = opset, np.random.default_rng(0)
        self.nodes, self.inputs, self.stored, self.feeds = [], [], [], {}

    def input(self, name, array):
        kind = helper.np_dtype_to_tensor_dtype(array.dtype)
        self.inputs.append(helper.make_tensor_value_info(name, kind, array.shape))
        self.feeds[name] = array
        return name

    def integers(self, *shape, dtype=np.uint8):
        bounds = np.iinfo(dtype)
        return self.rng.integers(max(-128, bounds.min), min(256, bounds.max + 1), shape, dtype)

    def store(self, array):
        name = f"c{len(self.stored)}"
        self.stored.append(numpy_helper.from_array(np.asarray(array), name))
        return name

    def node(self, kind, *inputs, outputs=("y",), **attributes):
        self.nodes.append(helper.make_node(kind, inputs, outputs, **attributes))
        return outputs[0]

    def save(self, path, *outputs, kind=TensorProto.UINT8, **dims):
        values = []
        for name in outputs:
            values.append(helper.make_tensor_value_info(name, kind, dims.get(name)))
            if name not in dims:
                values[-1].type.tensor_type.ClearField("shape")
        graph = helper.make_graph(self.nodes, "g", self.inputs, values, self.stored)
        opsets = [helper.make_opsetid("", self.opset), helper.make_opsetid(RUNTIME, 1)]
        self.proto = helper.make_model(graph, opset_imports=opsets, ir_version=8)
        onnx.save(self.proto, str(path))
        return path

    def written_out(self, path):
        """The model of floats that the file is imported as."""
        known = Inference(read_file(path, {}, {}))
        proto = onnx.ModelProto()
        proto.CopyFrom(self.proto)
        del proto.graph.node[:], proto.graph.initializer[:]
        proto.graph.node.extend(known.nodes)
        for name, tensor in known.constants._stored.items():
            proto.graph.initializer.append(tensor)
            proto.graph.initializer[-1].name = name
        for entry in proto.opset_import:
            entry.version = max(entry.version, 19) if not entry.domain else 1
        return proto


def layers(path):
    return [(node.op, node.layer.macs * node.repeats) for node in import_onnx(path).network.nodes
            if node.layer is not None]  # fmt: skip


def close(found, wanted, steps=0):
    """Equal, or as many steps apart as rounding the other way at a half explains."""
    assert found.dtype == wanted.dtype
    assert np.abs(found.astype(int) - wanted.astype(int)).max() <= steps


SCALE = np.float32(0.031)


@pytest.mark.parametrize("opset", [10, 13, 21])
@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize("biased", [False, True])
def test_a_convolution_of_integers(opset, per_channel, biased, path):
    model = Quantised(opset)
    model.input("x", model.integers(2, 4, 5, 6))
    scales = model.rng.uniform(0.01, 0.05, 6 if per_channel else ()).astype(np.float32)
    zeros = model.integers(*scales.shape, dtype=np.int8) // 16
    parts = [
        "x", model.store(SCALE), model.store(np.uint8(120)),
        model.store(model.integers(6, 2, 3, 3, dtype=np.int8)), model.store(scales),
        model.store(zeros), model.store(np.float32(0.7)), model.store(np.uint8(90)),
    ]  # fmt: skip
    if biased:
        parts.append(model.store(model.rng.integers(-9999, 9999, 6).astype(np.int32)))
    model.node("QLinearConv", *parts, group=2, pads=[1, 1, 1, 1], strides=[2, 1])
    model.save(path, "y")
    assert layers(path) == [("conv", 2 * 6 * 3 * 6 * 2 * 9)]
    # Before opset 13 onnx's own reference takes no scales per channel.
    if opset > 10 or not per_channel:
        (wanted,) = evaluate(model.proto, model.feeds)
        (found,) = evaluate(model.written_out(path), model.feeds)
        close(found, wanted, steps=1)
    (weights,) = import_onnx(path).weights.values()
    integers = numpy_helper.to_array(model.stored[2]).astype(float)
    along = (-1, 1, 1, 1) if per_channel else ()
    floats = (integers - zeros.reshape(along)) * scales.reshape(along)
    np.testing.assert_allclose(weights.weight, floats, rtol=1e-6)


@pytest.mark.parametrize("zeros", [(), ("x",), ("x", "w")])
def test_a_convolution_without_scales(zeros, path):
    model = Quantised()
    model.input("x", model.integers(1, 3, 5, 6))
    parts = ["x", model.store(model.integers(4, 3, 3, 3))]
    parts += [model.store(np.uint8(7 + place)) for place, _ in enumerate(zeros)]
    model.node("ConvInteger", *parts, pads=[1, 1, 1, 1])
    model.save(path, "y", kind=TensorProto.INT32)
    assert layers(path) == [("conv", 4 * 5 * 6 * 27)]
    (wanted,) = evaluate(model.proto, model.feeds)
    (found,) = evaluate(model.written_out(path), model.feeds)
    close(found, wanted)


@pytest.mark.parametrize("per_column", [False, True])
def test_a_product_of_integers(per_column, path):
    model = Quantised()
    model.input("a", model.integers(2, 3, 8))
    zeros = model.integers(*([7] if per_column else []))
    parts = ["a", model.store(model.integers(8, 7)), model.store(np.uint8(5)), model.store(zeros)]
    model.node("MatMulInteger", *parts)
    model.save(path, "y", kind=TensorProto.INT32)
    assert layers(path) == [("linear", 2 * 3 * 8 * 7)]
    (wanted,) = evaluate(model.proto, model.feeds)
    (found,) = evaluate(model.written_out(path), model.feeds)
    close(found, wanted)


@pytest.mark.parametrize("constant", [False, True])
def test_a_product_with_scales(constant, path):
    model = Quantised()
    model.input("a", model.integers(2, 3, 8))
    b = model.integers(8, 7) if constant else model.integers(2, 8, 7)
    scaled = [(model.store(SCALE), model.store(np.uint8(zero))) for zero in (110, 130, 99)]
    right = model.store(b) if constant else model.input("b", b)
    model.node("QLinearMatMul", "a", *scaled[0], right, *scaled[1], *scaled[2])
    model.save(path, "y")
    assert layers(path) == [("linear" if constant else "matmul", 2 * 3 * 8 * 7)]
    (wanted,) = evaluate(model.proto, model.feeds)
    (found,) = evaluate(model.written_out(path), model.feeds)
    close(found, wanted, steps=1)


def test_dynamic_quantisation_as_the_runtime_writes_it(path):
    """DynamicQuantizeLinear, MatMulInteger, Cast, Mul: the weights are whole numbers."""
    model = Quantised()
    model.input("x", model.rng.normal(size=(3, 8)).astype(np.float32))
    model.node("DynamicQuantizeLinear", "x", outputs=["q", "s", "z"])
    weight = model.integers(8, 5)
    model.node("MatMulInteger", "q", model.store(weight), "z", model.store(np.uint8(128)),
               outputs=["i"])  # fmt: skip
    model.node("Cast", "i", to=TensorProto.FLOAT, outputs=["f"])
    model.node("Mul", "s", model.store(SCALE), outputs=["both"])
    model.node("Mul", "f", "both")
    model.save(path, "y", kind=TensorProto.FLOAT)
    imported = import_onnx(path)
    assert layers(path) == [("linear", 3 * 8 * 5)]
    (weights,) = imported.weights.values()
    np.testing.assert_array_equal(weights.weight[:, :, 0, 0], weight.T.astype(float) - 128)
    (wanted,) = evaluate(model.proto, model.feeds)
    (found,) = evaluate(model.written_out(path), model.feeds)
    np.testing.assert_allclose(found, wanted, rtol=1e-5)


def test_operators_of_the_runtime(path):
    """A residual block as its static quantiser writes it."""
    model = Quantised()
    x = model.input("x", model.integers(1, 4, 5, 5))
    q = model.store(SCALE), model.store(np.uint8(128))
    weight = model.store(model.integers(4, 4, 1, 1, dtype=np.int8)), *q[:1], model.store(np.int8(0))
    own = {"domain": RUNTIME}
    c = model.node("QLinearConv", x, *q, *weight, *q, outputs=["c"])
    c = model.node("QLinearLeakyRelu", c, *q, *q, outputs=["l"], alpha=0.1, **own)
    c = model.node("QLinearAdd", c, *q, x, *q, *q, outputs=["a"], **own)
    c = model.node("QLinearConcat", *q, c, *q, x, *q, axis=1, outputs=["cat"], **own)
    c = model.node("QLinearSigmoid", c, *q, *q, outputs=["sig"], **own)
    c = model.node("QLinearGlobalAveragePool", c, *q, *q, outputs=["p"], channels_last=0, **own)
    c = model.node("Flatten", c, outputs=["flat"])
    matrix = model.store(model.integers(3, 8, dtype=np.int8)), q[0], model.store(np.int8(0))
    c = model.node("QGemm", c, *q, *matrix, model.store(np.arange(3, dtype=np.int32)), *q,
                   outputs=["g"], transB=1, **own)  # fmt: skip
    model.save(path, model.node("QLinearSoftmax", c, *q, *q, outputs=["y"], **own))
    assert layers(path) == [("conv", 25 * 16), ("linear", 24)]
    kinds = [node.function or node.op for node in import_onnx(path).network.nodes]
    for kind in ("leaky_relu", "add", "concat", "sigmoid", "avgpool", "softmax"):
        assert kind in kinds
    (found,) = evaluate(model.written_out(path), model.feeds)
    assert found.shape == (1, 3)
    values = (model.feeds["x"].astype(float) - 128) * SCALE
    w = numpy_helper.to_array(model.stored[2])[:, :, 0, 0].astype(float) * SCALE

    def stored(x):
        return np.clip(np.round(x / SCALE) + 128, 0, 255)

    def step(x):
        return (stored(x) - 128) * SCALE

    t = step(np.einsum("kc,nchw->nkhw", w, values))
    t = step(step(np.where(t < 0, np.float32(0.1) * t, t)) + values)
    t = step(step(1 / (1 + np.exp(-np.concatenate([t, values], 1)))).mean((2, 3)))
    m = numpy_helper.to_array(model.stored[4]).astype(float) * SCALE
    t = step(t @ m.T + np.arange(3) * SCALE * SCALE)
    t = np.exp(t) / np.exp(t).sum()
    assert np.abs(found - stored(t)).max() <= 1


@pytest.mark.parametrize("kind", ["MatMulIntegerToFloat", "DynamicQuantizeMatMul"])
def test_products_of_the_runtime_that_give_floats(kind, path):
    model = Quantised()
    matrix, scales = model.integers(8, 5, dtype=np.int8), model.rng.uniform(0.01, 0.1, 5)
    scale, zero = model.store(scales.astype(np.float32)), model.store(np.zeros(5, np.int8))
    bias = model.rng.normal(size=5).astype(np.float32)
    if kind == "MatMulIntegerToFloat":
        a = model.input("a", model.integers(2, 3, 8))
        parts = a, model.store(matrix), model.store(SCALE), scale, model.store(np.uint8(9)), zero
        left = (model.feeds["a"].astype(float) - 9) * SCALE
    else:
        a = model.input("a", model.rng.normal(size=(2, 3, 8)).astype(np.float32))
        parts = a, model.store(matrix), scale, zero
        left = model.feeds["a"].astype(float)
    model.node(kind, *parts, model.store(bias), domain=RUNTIME)
    model.save(path, "y", kind=TensorProto.FLOAT)
    assert layers(path) == [("linear", 6 * 8 * 5)]
    (found,) = evaluate(model.written_out(path), model.feeds)
    wanted = left @ (matrix * scales) + bias
    # What is quantised on the way is off by half a step of each element at the most.
    step = np.ptp(left) / 255 if kind == "DynamicQuantizeMatMul" else 0
    allowed = step * np.abs(matrix * scales).sum(0) + 1e-4
    assert (np.abs(found - wanted) <= allowed).all()


@pytest.mark.parametrize("per_column", [False, True])
def test_an_lstm_of_the_runtime(per_column, path):
    """It computes what an LSTM of the dequantised weights does, and costs as much."""
    model = Quantised()
    x = model.input("x", model.rng.normal(size=(5, 1, 6)).astype(np.float32))
    w, r = (model.integers(2, n, 16, dtype=np.int8) for n in (6, 4))
    shape = (2, 16) if per_column else (2,)
    scales = [model.rng.uniform(0.001, 0.01, shape).astype(np.float32) for _ in range(2)]
    zeros = np.zeros(shape, np.int8)
    quantised = [model.store(part) for s in scales for part in (s, zeros)]
    options = {"hidden_size": 4, "direction": "bidirectional"}
    model.node("DynamicQuantizeLSTM", x, model.store(w), model.store(r), "", "", "", "", "",
               *quantised, outputs=["y", "h"], domain=RUNTIME, **options)  # fmt: skip
    model.save(path, "y", "h", kind=TensorProto.FLOAT)
    network = import_onnx(path).network
    assert [node.function for node in network.nodes if node.op == "host"][:1] == ["lstm"]
    assert network.host_macs == 5 * 2 * 16 * (6 + 4)
    plain = Quantised()
    plain.input("x", model.feeds["x"])
    floats = [
        (matrix * (s if per_column else s[:, None])[:, None]).transpose(0, 2, 1)
        for matrix, s in zip((w, r), scales, strict=True)
    ]
    plain.node("LSTM", "x", *(plain.store(f.astype(np.float32)) for f in floats),
               outputs=["y", "h"], **options)  # fmt: skip
    plain.save(path.with_name("plain.onnx"), "y", "h", kind=TensorProto.FLOAT)
    for found, wanted in zip(
        evaluate(model.written_out(path), model.feeds),
        evaluate(plain.proto, model.feeds),
        strict=True,
    ):
        np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-6)


def test_a_result_with_several_scales_stays_the_hosts(path):
    model = Quantised()
    model.input("a", model.integers(3, 8))
    several = model.store(np.full(3, SCALE)), model.store(np.full(3, 9, np.uint8))
    one = model.store(SCALE), model.store(np.uint8(9))
    model.node("QLinearMatMul", "a", *one, model.store(model.integers(8, 7)), *one, *several)
    model.save(path, "y")
    network = import_onnx(path).network
    assert (network.macs, network.host_macs) == (0, 3 * 8 * 7)
