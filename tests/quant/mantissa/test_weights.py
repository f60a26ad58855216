"""The weights of ONNX files, against those that stand in them."""

import numpy as np

from bfpsim.quant.mantissa.weights import imported_weights
from bfpsim.workloads.importers.onnx.model import import_onnx
from tests.workloads.importers.onnx_models import Model


def test_a_shared_weight_and_a_transposed_convolution_count_once(tmp_path) -> None:
    """As torch's layers do: a layer that runs twice, one of four phases, and one of a single."""
    rng = np.random.default_rng(0)
    shapes = {"twice": (4, 4, 3, 3), "up": (4, 4, 3, 3), "even": (4, 3, 2, 2), "last": (2, 3, 1, 1)}
    stored = {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    model = Model()
    weights = {name: model.constant(own, f"{name}.weight") for name, own in stored.items()}
    x = model.input("x", 1, 4, 5, 5)
    for name in ("twice", "twice again"):
        x = model.node("Relu", model.node("Conv", x, weights["twice"], pads=[1] * 4, name=name))
    for name in ("up", "up again"):
        x = model.node(
            "Relu", model.node("ConvTranspose", x, weights["up"], strides=[2, 2], name=name)
        )
    x = model.node("ConvTranspose", x, weights["even"], strides=[2, 2], name="even")
    x = model.node("Conv", x, weights["last"], name="last")
    imported = import_onnx(model.save(tmp_path / "net.onnx", x))
    assert len(imported.weights) == 2 + 2 * 4 + 1 + 1
    found = imported_weights(imported.network, imported.weights)
    assert list(found) == list(stored)
    for name, own in stored.items():
        assert sorted(found[name].ravel()) == sorted(own.ravel())


def test_layers_of_other_values_or_shapes_are_all_there(tmp_path) -> None:
    model = Model()
    own = np.arange(6.0)
    x = model.input("x", 1, 3)
    x = model.node("MatMul", x, model.constant(own.reshape(3, 2)), name="wide")
    x = model.node("MatMul", x, model.constant(own.reshape(2, 3)), name="narrow")
    x = model.node("MatMul", x, model.constant(own.reshape(3, 2) + 1), name="other")
    x = model.node("MatMul", x, model.constant(own.reshape(2, 3)), name="narrow again")
    imported = import_onnx(model.save(tmp_path / "net.onnx", x))
    found = imported_weights(imported.network, imported.weights)
    assert list(found) == ["wide", "narrow", "other"]
