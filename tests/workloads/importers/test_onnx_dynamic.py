"""Exports whose shapes and branches follow from their inputs' shapes, or from values given."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from bfpsim.workloads import WorkloadError
from bfpsim.workloads.importers.onnx.model import import_onnx
from tests.workloads.importers.onnx_models import Model, evaluate, execute, nhwc


@pytest.fixture
def path(tmp_path):
    return tmp_path / "model.onnx"


def ones(*shape):
    return np.ones(shape)


def scalar(model, number):
    return model.constant(np.array(number))


def kinds(network):
    return [node.function or node.op for node in network.nodes]


def test_a_shape_of_a_range_of_a_shape(path):
    """The grid of YOLOv8's head, as every dynamic export of it has it."""
    model = Model()
    y = model.node("Conv", model.input("x", 1, 3, "H", "W"), model.constant(ones(4, 3, 1, 1)))
    rows = model.node("Gather", model.node("Shape", y), scalar(model, 2), axis=0)
    rows = model.node("Cast", rows, to=TensorProto.FLOAT)
    zero, one = (model.constant(np.float32(n)) for n in (0, 1))
    model.initialisers[-1].CopyFrom(helper.make_tensor(one, TensorProto.FLOAT, [], [1.0]))
    model.initialisers[-2].CopyFrom(helper.make_tensor(zero, TensorProto.FLOAT, [], [0.0]))
    grid = model.node("Range", zero, rows, one)
    grid = model.node("Expand", model.constant(np.array(1.0)), model.node("Shape", grid))
    network = import_onnx(model.save(path, model.node("Add", y, grid)), {"x": (1, 3, 8, 8)}).network
    assert network.macs == 8 * 8 * 3 * 4 == 768
    assert kinds(network) == ["input", "conv", "add"]
    assert network.shape(network.nodes[-1].name) == (1, 8, 8, 4)


def branch(*nodes, outputs=("o",), tensors=()):
    values = [onnx.ValueInfoProto(name=name) for name in outputs]
    for value in values:
        value.type.tensor_type.elem_type = TensorProto.DOUBLE
    return helper.make_graph(list(nodes), "branch", [], values, list(tensors))


def squeezed(dims):
    """Torch's squeeze of an open axis: If its extent is 1, Squeeze, else the tensor itself."""
    model = Model()
    x = model.input("x", *dims)
    y = model.node("Conv", x, model.constant(ones(4, 8, 3)), outputs=["y"])
    length = model.node("Gather", model.node("Shape", y), scalar(model, 2), axis=0)
    axes = helper.make_tensor("axes", TensorProto.INT64, [1], [2])
    v = model.node(
        "If",
        model.node("Equal", length, scalar(model, 1)),
        then_branch=branch(helper.make_node("Squeeze", ["y", "axes"], ["o"]), tensors=[axes]),
        else_branch=branch(helper.make_node("Identity", ["y"], ["o"])),
    )
    return model, v


def test_a_branch_that_a_shape_decides(path):
    model, v = squeezed(("n", 8, "l"))
    model.node("MatMul", v, model.constant(ones(4, 5)), outputs=["out"])
    proto = model.proto("out")
    onnx.save(proto, str(path))
    imported = import_onnx(path, {"x": (1, 8, 3)})
    assert kinds(imported.network) == ["input", "conv1d", "linear"]
    assert imported.network.macs == 4 * 24 + 4 * 5 == 116
    x = np.random.default_rng(0).integers(-3, 4, (1, 8, 3)).astype(float)
    (wanted,) = evaluate(proto, {"x": x})
    found = execute(imported, {"x": nhwc(x)})[imported.network.nodes[-1].name]
    np.testing.assert_array_equal(found, nhwc(wanted))


def test_the_other_branch(path):
    model, v = squeezed(("n", 8, "l"))
    network = import_onnx(model.save(path, v), {"x": (1, 8, 9)}).network
    assert kinds(network) == ["input", "conv1d"]
    assert network.macs == 7 * 4 * 24


def by_rate(kind=TensorProto.INT64, shape=(), *, nested=False):
    """Layers whose number depends on a sample rate; both branches call their tensors alike."""
    model = Model()
    _x, rate = model.input("x", 1, 16), model.input("rate", *shape, kind=kind)
    model.constant(ones(16, 4), "w4")
    model.constant(ones(16, 8), "w8")
    made = {
        size: branch(
            helper.make_node("Relu", ["x"], ["t"]),
            helper.make_node("MatMul", ["t", f"w{size}"], ["o"], name="fc"),
        )
        for size in (4, 8)
    }
    decided = model.node("Equal", rate, model.constant(np.full(shape, 16000).astype(
        helper.tensor_dtype_to_np_dtype(kind)), "wanted"))  # fmt: skip
    model.initialisers[-1].data_type = kind
    inner = helper.make_node("If", [decided], ["o"], then_branch=made[8], else_branch=made[4])
    if nested:
        once = branch(inner), branch(helper.make_node("Identity", ["x"], ["o"]))
        y = model.node("If", decided, then_branch=once[0], else_branch=once[1])
    else:
        y = model.node("If", decided, then_branch=made[8], else_branch=made[4])
    return model, y


@pytest.mark.parametrize("shape", [(), (1,)])
def test_a_branch_that_a_value_decides(shape, path):
    model, y = by_rate(shape=shape)
    model.save(path, y)
    network = import_onnx(path, {"rate": np.array(16000)}).network
    assert (network.macs, kinds(network)) == (128, ["input", "relu", "linear"])
    assert import_onnx(path, {"rate": np.array(8000)}).network.macs == 64
    with pytest.raises(WorkloadError) as caught:
        import_onnx(path)
    assert str(caught.value) == (
        f"{path}: the output shapes of 1 If cannot be inferred, 1 of the graph's 2 nodes (50.0%): "
        f"If {y!r} has outputs of several shapes; the value of input 'rate' decides: give it, as "
        "--value rate=1"
    )


def test_a_branch_within_a_branch(path):
    model, y = by_rate(nested=True)
    model.save(path, y)
    network = import_onnx(path, {"rate": np.array(16000)}).network
    assert (network.macs, kinds(network)) == (128, ["input", "relu", "linear"])


def test_values_that_do_not_fit(path):
    model, y = by_rate()
    model.save(path, y)
    for given, message in (
        ({"speed": np.array(1)}, "input 'speed' is unknown, must be one of x, rate"),
        ({"rate": np.array(0.5)}, "input 'rate': value array(0.5) must be of type int64"),
        ({"rate": np.array([1, 2])}, "input 'rate': value of shape (2,) must be numbers of ()"),
        ({"rate": np.array("fast")}, "input 'rate': value of shape () must be numbers of ()"),
    ):
        with pytest.raises(WorkloadError) as caught:
            import_onnx(path, given)
        assert str(caught.value) == f"{path}: {message}"


def test_undecided_branches_of_one_shape_stay_an_if_with_the_dearer_ones_macs(path):
    model, x = Model(), "x"
    model.input("x", 1, 16)
    model.input("rate", kind=TensorProto.BOOL)
    for name, size in (("a", 4), ("b", 40)):
        model.constant(ones(16, size), name)
        model.constant(ones(size, 2), f"{name}2")
    made = [
        branch(helper.make_node("MatMul", [x, name], ["t"]),
               helper.make_node("MatMul", ["t", f"{name}2"], ["o"]))
        for name in "ab"
    ]  # fmt: skip
    y = model.node("If", "rate", then_branch=made[0], else_branch=made[1])
    network = import_onnx(model.save(path, y)).network
    assert kinds(network) == ["input", "input", "if"]
    assert network.host_macs == 16 * 40 + 40 * 2
    assert import_onnx(path, {"rate": np.array(True)}).network.macs == 16 * 4 + 4 * 2


def test_a_loop_of_known_length(path):
    model = Model()
    x = model.input("x", 1, 4)
    model.constant(ones(4, 4), "w")
    body = helper.make_graph(
        [
            helper.make_node("MatMul", ["h", "w"], ["next"]),
            helper.make_node("Identity", ["go"], ["on"]),
        ],
        "body",
        [helper.make_tensor_value_info("i", TensorProto.INT64, []),
         helper.make_tensor_value_info("go", TensorProto.BOOL, []),
         onnx.ValueInfoProto(name="h")],
        [onnx.ValueInfoProto(name="on"), onnx.ValueInfoProto(name="next"),
         onnx.ValueInfoProto(name="next")],
    )  # fmt: skip
    for value in (*body.input[2:], *body.output[1:]):
        value.type.tensor_type.elem_type = TensorProto.DOUBLE
    body.output[0].type.tensor_type.elem_type = TensorProto.BOOL
    length = model.node("Gather", model.node("Shape", x), scalar(model, 1), axis=0)
    model.node("Loop", length, "", x, body=body, outputs=["last", "all"])
    network = import_onnx(model.save(path, "last", "all", last=(1, 4), all=(4, 1, 4))).network
    assert network.host_macs == 4 * 16
    assert network.shape(network.nodes[-2].name)[0] == 4


@pytest.mark.parametrize("opset", [18, 20, 21, 23])
def test_group_normalisation_keeps_its_shape(opset, path):
    model = Model(opset=opset, kind=TensorProto.FLOAT)
    x = model.node("Conv", model.input("x", 1, 3, 6, 6), model.constant(ones(4, 3, 3, 3)))
    parts = [model.constant(ones(2 if opset < 21 else 4)) for _ in range(2)]
    x = model.node("GroupNormalization", x, *parts, num_groups=2)
    x = model.node("Conv", x, model.constant(ones(4, 4, 3, 3)), outputs=["y"])
    network = import_onnx(model.save(path, x, y=(1, 4, 2, 2))).network
    assert network.macs == 16 * 4 * 27 + 4 * 4 * 36 == 2304
    assert kinds(network) == ["input", "conv", "group_normalization", "conv"]


@pytest.mark.parametrize("opset", [9, 13])
def test_mean_variance_normalisation_does(opset, path):
    model = Model(opset=opset, kind=TensorProto.FLOAT)
    x = model.node("MeanVarianceNormalization", model.input("x", 1, 3, 6, 6))
    x = model.node("Conv", x, model.constant(ones(4, 3, 3, 3)), outputs=["y"])
    assert import_onnx(model.save(path, x, y=(1, 4, 4, 4))).network.macs == 16 * 4 * 27


def test_what_is_computed_is_bounded(path):
    """A constant of 10^10 elements is never made, where its shape or its first element says all."""
    model = Model()
    x = model.input("x", 1, 4)
    huge = model.node("Expand", model.constant(np.array(1.0)),
                      model.constant(np.array([10**5, 10**5])))  # fmt: skip
    shape = model.node("Shape", huge)
    shape = model.node("Div", shape, scalar(model, 10**5))
    y = model.node("Reshape", x, model.node("Concat", shape, scalar_list(model, 4), axis=0))
    assert import_onnx(model.save(path, y)).network.shape("x") == (1, 1, 1, 4)
    model.node("MatMul", x, model.node("Slice", huge, *(
        scalar_list(model, n) for n in (0, 4, 0))), outputs=["far"])  # fmt: skip
    with pytest.raises(WorkloadError, match=r"takes \d+ elements to evaluate, .* allowed: 1677"):
        import_onnx(model.save(path, "far", far=(1, 10**5)))


def scalar_list(model, number):
    return model.constant(np.array([number]))


def test_what_only_values_tell_the_size_of(path):
    model = Model()
    x = model.input("x", 2, 5)
    kept = model.node("NonZero", model.constant(np.array([1, 0, 3, 0, 2])))
    picked = model.node("Gather", x, model.node("Squeeze", kept), axis=1)
    network = import_onnx(model.save(path, picked)).network
    assert network.shape(network.nodes[-1].name)[0::3] == (2, 3)
