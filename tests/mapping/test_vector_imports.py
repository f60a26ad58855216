"""Imported networks as programs: which unit each operator is, and that vector operations tile."""

import numpy as np
import pytest
from onnx import TensorProto

from bfpsim.arch import load_arch
from bfpsim.mapping.steps.vector import vector_tiles
from bfpsim.mapping.stored import activation_formats
from bfpsim.mapping.vector import vector_tilings
from bfpsim.quant.formats import BFP, LayerFormats
from bfpsim.workloads import Network
from bfpsim.workloads.importers.onnx.model import import_onnx
from bfpsim.workloads.program import Program, program_of
from tests.workloads.importers.onnx_models import Model


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Network:
    """A convolution network with windows, attention of channels, resizing, norms and sorting."""
    model = Model(opset=18, kind=TensorProto.FLOAT)
    x = model.input("x", 1, 4, 16, 16)
    x = model.node("Conv", x, model.constant(np.ones((16, 4, 3, 3))), pads=[1] * 4)
    x = model.node("Mul", x, model.node("HardSigmoid", x))
    x = model.node("AveragePool", x, kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4)
    squeezed = model.node("GlobalAveragePool", x)
    gate = model.node("Conv", squeezed, model.constant(np.ones((16, 16, 1, 1))))
    x = model.node("Mul", x, model.node("Sigmoid", gate))
    scales = model.constant(np.array([1, 1, 2, 2], np.float32))
    x = model.node("Resize", x, "", scales, mode="linear")
    x = model.node("LRN", x, size=5)
    x = model.node("Greater", x, model.constant(0.5))
    x = model.node("Cast", x, to=model.kind)
    most = model.node("ReduceMax", x, model.constant(np.array([1])), keepdims=1)
    x = model.node("Softmax", model.node("Sub", x, most), axis=1)
    x = model.node("InstanceNormalization", x, *(model.constant(np.ones(16)) for _ in range(2)))
    x = model.node("TopK", x, model.constant(np.array([2])), outputs=["best", "places"], axis=1)
    path = tmp_path_factory.mktemp("imported") / "model.onnx"
    return import_onnx(model.save(path, "best", best=[1, 2, 16, 16])).network


@pytest.fixture(scope="module")
def program(network: Network) -> Program:
    return program_of(network, block=16)


def test_operators_are_of_the_vector_unit_but_for_sorting(program: Program) -> None:
    units = {own.nodes[0].function or own.nodes[0].op: own.unit for own in program.operations}
    assert units == {
        "conv": "array",
        "average_pool": "vector",
        "avgpool": "vector",
        "mul": "vector",
        "resize": "vector",
        "reduce_max": "vector",
        "sub": "vector",
        "instance_normalization": "vector",
        "top_k": "host",
    }
    groups = [tuple(node.function or node.op for node in own.nodes) for own in program.operations]
    assert groups[0] == ("conv", "hard_sigmoid", "mul")
    assert ("conv", "sigmoid") in groups
    assert ("resize", "lrn", "greater", "cast") in groups
    # What is read by the maximum and the differences ends its group.
    assert ("sub", "softmax") in groups


def test_every_vector_operation_does_its_work_under_large_and_small_tiles(
    program: Program,
) -> None:
    formats = activation_formats(program, LayerFormats.uniform(BFP(8, 3, 16)))
    arch = load_arch("edge-64k")
    for operation in program.operations:
        if operation.unit != "vector":
            continue
        tilings = vector_tilings(operation, formats)
        for tiling in (tilings[0], tilings[len(tilings) // 2], tilings[-1]):
            tiles = vector_tiles(operation, tiling, arch, formats)
            assert int(tiles.work.sum()) == program.vector_work[operation.name]
            boxes = tiles.results.resident
            made = [boxes.at(i) for i in range(len(tiles.results.stays))]
            elements = sum(box.pixels * sum(b - a for a, b in box.channels) for box in made)
            assert elements == operation.writes.elements
    windows = next(own for own in program.operations if own.name == "t3")
    (read,) = vector_tiles(windows, vector_tilings(windows, formats)[-1], arch, formats).operands
    assert not read.placed  # where its windows lie is not written down
