"""Recurrent operators beside ONNX Runtime's, in every direction, activation and option."""

import random

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from bfpsim.workloads.graph.graph import Execution
from bfpsim.workloads.graph.product import multiply_floats
from bfpsim.workloads.graph.recurrent import GATES
from bfpsim.workloads.importers.onnx.model import import_onnx
from tests.long import often

ACTS = ("Elu", "HardSigmoid", "LeakyRelu", "Relu", "ScaledTanh", "Sigmoid", "Softsign", "Tanh")
ALPHA = ("Elu", "HardSigmoid", "LeakyRelu", "ScaledTanh")
BETA = ("HardSigmoid", "ScaledTanh")
PER_DIRECTION = {"RNN": 1, "GRU": 2, "LSTM": 3}


def random_model(kind: str, draw: random.Random):
    """A model of one recurrent operator with constant weights, and its inputs."""
    steps, batch, size, hidden = (draw.randint(1, 4) for _ in range(4))
    direction = draw.choice(["forward", "reverse", "bidirectional"])
    ways = 2 if direction == "bidirectional" else 1
    data = np.random.default_rng(draw.randrange(2**32))
    gates = GATES[kind] * hidden

    def normal(*shape):
        return data.normal(size=shape).astype(np.float32)

    values = [normal(ways, gates, size), normal(ways, gates, hidden)]
    values.append(normal(ways, 2 * gates) if draw.random() < 0.7 else None)
    feeds = {"x": normal(steps, batch, size)}
    lengths = None
    if draw.random() < 0.4:
        lengths = data.integers(1, steps + 1, size=batch).astype(np.int32)
    values.append(lengths)
    values.append(normal(ways, batch, hidden) if draw.random() < 0.5 else None)
    own = {"direction": direction, "hidden_size": hidden}
    if kind == "LSTM":
        values.append(normal(ways, batch, hidden) if draw.random() < 0.5 else None)
        values.append(normal(ways, 3 * hidden) if draw.random() < 0.4 else None)
        if draw.random() < 0.3:
            own["input_forget"] = 1
    if kind == "GRU":
        own["linear_before_reset"] = draw.randint(0, 1)
    if draw.random() < 0.5:
        count = PER_DIRECTION[kind] * ways
        own["activations"] = [draw.choice(ACTS) for _ in range(count)]
        # ONNX Runtime has no defaults for these.
        for name, these in (("alpha", ALPHA), ("beta", BETA)):
            given = [draw.uniform(0.1, 0.9) for act in own["activations"] if act in these]
            if given:
                own[f"activation_{name}"] = given
    if draw.random() < 0.3:
        own["clip"] = 0.5
    names, stored = ["x"], []
    for place, value in enumerate(values):
        names.append("" if value is None else f"c{place}")
        if value is not None:
            stored.append(numpy_helper.from_array(value, f"c{place}"))
    outputs = ["y", "y_h", "y_c"][: 3 if kind == "LSTM" else 2]
    graph = helper.make_graph(
        [helper.make_node(kind, names, outputs, "cell", **own)],
        "recurrent",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, feeds["x"].shape)],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
        stored,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return model, feeds, own


@pytest.mark.parametrize("kind", ["RNN", "GRU", "LSTM"])
@pytest.mark.parametrize("seed", often(12, range(200)))
def test_any_recurrent_operator_equals_onnxruntime(kind, seed, tmp_path) -> None:
    model, feeds, own = random_model(kind, random.Random(f"{kind}{seed}"))
    path = tmp_path / "net.onnx"
    onnx.save(model, str(path))
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    expected = session.run(None, feeds)
    found = Execution(import_onnx(path).graph, feeds).run()
    for name, value in zip([o.name for o in model.graph.output], expected, strict=True):
        np.testing.assert_allclose(found[name], value, rtol=1e-4, atol=1e-5, err_msg=str(own))


def test_products_within_an_lstm_are_the_hooks(tmp_path) -> None:
    """Of 3 steps: one product of all inputs, and one of the hidden state for each step."""
    weights = np.random.default_rng(0).normal(size=(2, 8, 5)).astype(np.float32)
    hidden = np.random.default_rng(1).normal(size=(2, 8, 2)).astype(np.float32)
    graph = helper.make_graph(
        [helper.make_node("LSTM", ["x", "w", "r"], ["y"], "cell", direction="bidirectional")],
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, (3, 4, 5))],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(weights, "w"), numpy_helper.from_array(hidden, "r")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    graph.node[0].attribute.append(helper.make_attribute("hidden_size", 2))
    onnx.save(helper.make_model(graph, opset_imports=model.opset_import), str(tmp_path / "n.onnx"))
    seen = []

    def multiply(runs, inputs, stored):
        seen.append((runs.layer.name, runs.layer.macs, runs.count, runs.stored))
        return multiply_floats(runs, inputs, stored)

    made = import_onnx(tmp_path / "n.onnx")
    Execution(made.graph, {"x": np.zeros((3, 4, 5), np.float32)}, multiply).run()
    step = ("cell.R", 4 * 2 * 8, 1, True)
    back = ("cell.R.reverse", 4 * 2 * 8, 1, True)
    assert seen == [
        ("cell.W", 12 * 5 * 8, 1, True), step, step, step,
        ("cell.W.reverse", 12 * 5 * 8, 1, True), back, back, back,
    ]  # fmt: skip
    assert sum(macs for _, macs, _, _ in seen) == made.network.host_macs
