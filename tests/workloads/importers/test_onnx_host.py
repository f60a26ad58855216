"""What is left to the host, its multiply-accumulates, and everything about names and constants."""

import itertools
import math
import random
import subprocess
import sys

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator

from bfpsim.workloads import WorkloadError
from bfpsim.workloads.importers.onnx.model import import_onnx
from tests.workloads.importers.onnx_models import Model, execute, nhwc, whole


@pytest.fixture
def path(tmp_path):
    return tmp_path / "model.onnx"


def kinds(network):
    return [node.function or node.op for node in network.nodes]


def ones(*shape):
    return np.ones(shape)


def counted(shape, kernel, filters, groups, strides, pads, dilations):
    """Multiply-accumulates of a convolution of any rank, tap by tap, padding's included."""
    outputs = [
        len(range(0, extent + 2 * pad - (k - 1) * dilation, stride))
        for extent, k, stride, pad, dilation in zip(
            shape[2:], kernel, strides, pads, dilations, strict=True
        )
    ]
    total = 0
    for _ in itertools.product(range(shape[0]), range(filters), *map(range, outputs)):
        for _ in itertools.product(range(shape[1] // groups), *map(range, kernel)):
            total += 1
    return total


def test_a_convolution_of_three_dimensions(path):
    model = Model()
    x = model.node(
        "Conv", model.input("x", 2, 4, 5, 6, 7), model.constant(ones(6, 2, 2, 3, 1)),
        group=2, strides=[1, 2, 3], pads=[1, 0, 0] * 2, dilations=[2, 1, 1],
    )  # fmt: skip
    network = import_onnx(model.save(path, x)).network
    assert kinds(network) == ["input", "conv"]
    assert network.layers == ()
    assert network.host_macs == counted(
        (2, 4, 5, 6, 7), (2, 3, 1), 6, 2, (1, 2, 3), (1, 0, 0), (2, 1, 1)
    )


def test_a_convolution_with_computed_weights(path):
    model = Model()
    w = model.node("Sigmoid", model.input("w", 6, 2, 2, 3))
    x = model.node("Conv", model.input("x", 1, 4, 5, 6), w, group=2)
    network = import_onnx(model.save(path, x)).network
    assert kinds(network) == ["input", "input", "sigmoid", "conv"]
    assert network.nodes[-1].inputs == ("x", network.nodes[2].name)
    assert network.host_macs == counted((1, 4, 5, 6), (2, 3), 6, 2, (1, 1), (0, 0), (1, 1))


@pytest.mark.parametrize("extra", [{"dilations": [2, 2]}, {}])
def test_transposed_convolutions_that_no_layer_takes(extra, path):
    """With dilation, or of three dimensions: every input element meets every tap and filter."""
    model = Model()
    dims = (5, 6) if extra else (5, 6, 2)
    kernel = (2, 3) if extra else (2, 3, 1)
    x = model.node("ConvTranspose", model.input("x", 1, 4, *dims),
                   model.constant(ones(4, 3, *kernel)), group=2, **extra)  # fmt: skip
    network = import_onnx(model.save(path, x)).network
    assert kinds(network) == ["input", "conv_transpose"]
    assert network.host_macs == 4 * math.prod(dims) * 3 * 6


@pytest.mark.parametrize(("kind", "gates"), [("RNN", 1), ("GRU", 3), ("LSTM", 4)])
@pytest.mark.parametrize("direction", ["forward", "bidirectional"])
def test_recurrent_operators(kind, gates, direction, path):
    steps, samples, inputs, hidden = 5, 2, 3, 4
    ways = 1 + (direction == "bidirectional")
    model = Model()
    x = model.node(
        kind, model.input("x", steps, samples, inputs),
        model.constant(ones(ways, gates * hidden, inputs)),
        model.constant(ones(ways, gates * hidden, hidden)),
        hidden_size=hidden, direction=direction, outputs=["y", "h"],
    )  # fmt: skip
    network = import_onnx(model.save(path, x, "h")).network
    assert kinds(network) == ["input", kind.lower(), kind.lower(), "outputs"]
    # Per step, sample and direction: each gate's cells take all inputs and all cells.
    assert network.host_macs == steps * samples * ways * gates * hidden * (inputs + hidden)
    assert network.nodes[-1].inputs == ("y", "y.1")


def test_a_deformable_convolution(path):
    model = Model(opset=19)
    offset = model.input("offset", 1, 2 * 9, 4, 5)
    x = model.node("DeformConv", model.input("x", 1, 3, 6, 7), model.constant(ones(4, 3, 3, 3)),
                   offset)  # fmt: skip
    network = import_onnx(model.save(path, x)).network
    assert kinds(network) == ["input", "input", "deform_conv"]
    assert network.host_macs == 4 * 20 * 27


def branch(name, *nodes, inputs=(), outputs=("out",)):
    """A subgraph; (name, *dims) in ``inputs`` are float64."""
    return helper.make_graph(
        nodes, name,
        [helper.make_tensor_value_info(each, kind, dims) for each, kind, *dims in inputs],
        [helper.make_tensor_value_info(each, kind, dims) for each, kind, *dims in outputs],
    )  # fmt: skip


def test_of_an_if_the_dearer_branch_counts(path):
    model = Model()
    x = model.node("Relu", model.input("x", 2, 3))
    weight = model.constant(ones(3, 4))
    outputs = [("out", TensorProto.DOUBLE, 2, 4)]
    one = branch("one", helper.make_node("MatMul", [x, weight], ["out"]), outputs=outputs)
    two = branch(
        "two", helper.make_node("MatMul", [x, weight], ["a"]),
        helper.make_node("MatMul", [x, weight], ["b"]),
        helper.make_node("Add", ["a", "b"], ["out"]), outputs=outputs,
    )  # fmt: skip
    yes = model.input("yes", 1, kind=TensorProto.BOOL)
    x = model.node("If", yes, then_branch=one, else_branch=two)
    network = import_onnx(model.save(path, x)).network
    assert kinds(network) == ["input", "input", "relu", "if"]
    assert set(network.nodes[-1].inputs) == {"yes", network.nodes[2].name}
    assert network.host_macs == 2 * (2 * 3 * 4)


def test_of_a_scan_the_body_counts_for_every_step(path):
    body = branch(
        "body", helper.make_node("MatMul", ["state", "w"], ["next"]),
        helper.make_node("Add", ["next", "step"], ["out"]),
        inputs=[("state", TensorProto.DOUBLE, 2, 3), ("step", TensorProto.DOUBLE, 2, 3)],
        outputs=[("next", TensorProto.DOUBLE, 2, 3), ("out", TensorProto.DOUBLE, 2, 3)],
    )  # fmt: skip
    model = Model()
    model.constant(ones(3, 3), "w")
    model.node("Scan", model.input("first", 2, 3), model.input("steps", 5, 2, 3), body=body,
               num_scan_inputs=1, outputs=["last", "all"])  # fmt: skip
    network = import_onnx(model.save(path, "all")).network
    assert kinds(network) == ["input", "input", "scan"]
    assert network.host_macs == 5 * 2 * 3 * 3


def test_of_a_loop_the_body_counts_for_every_trip_where_that_is_known(path):
    body = branch(
        "body", helper.make_node("Identity", ["on"], ["still"]),
        helper.make_node("MatMul", ["state", "w"], ["next"]),
        inputs=[("i", TensorProto.INT64), ("on", TensorProto.BOOL),
                ("state", TensorProto.DOUBLE, 2, 3)],
        outputs=[("still", TensorProto.BOOL), ("next", TensorProto.DOUBLE, 2, 3)],
    )  # fmt: skip
    for trips, wanted in ((7, 7), (None, 1)):
        model = Model()
        model.constant(ones(3, 3), "w")
        count = "" if trips is None else model.constant(np.array(trips))
        x = model.node("Loop", count, model.input("on0", kind=TensorProto.BOOL),
                       model.input("x", 2, 3), body=body)  # fmt: skip
        # What a loop carries may change its shape: that it does not, the file must say.
        network = import_onnx(model.save(path, x, **{x: (2, 3)})).network
        assert network.nodes[-1].function == "loop"
        assert network.host_macs == wanted * 2 * 3 * 3


def test_an_operator_of_another_domain_needs_a_declared_shape(path):
    model = Model()
    x = model.node("Own", model.input("x", "N", 3, 4, 5), domain="own")
    x = model.node("Relu", x)
    with pytest.raises(WorkloadError, match=r"shapes of 1 Own \(own\) cannot be inferred, 1 of the "
                       r"graph's 2 nodes \(50\.0%\)"):  # fmt: skip
        import_onnx(model.save(path, x), {"x": (2, 3, 4, 5)})
    proto = model.proto(x)
    declared = helper.make_tensor_value_info("t0", TensorProto.DOUBLE, ["N", 6, 2, 2])
    proto.graph.value_info.append(declared)
    onnx.save(proto, str(path))
    network = import_onnx(path, {"x": (2, 3, 4, 5)}).network
    assert kinds(network) == ["input", "own.own", "relu"]
    assert network.shape("t1") == (2, 2, 2, 6)


@pytest.mark.parametrize(
    ("attributes", "function"),
    [({}, "gelu"), ({"approximate": "none"}, "gelu"), ({"approximate": "tanh"}, "gelu_tanh")],
)
def test_an_approximate_gelu_is_another_function(attributes, function, path):
    model = Model(opset=20)
    x = model.node("Gelu", model.input("x", 1, 3, 4, 5), **attributes)
    assert kinds(import_onnx(model.save(path, x)).network) == ["input", function]


def test_functions_of_the_file_are_written_out(path):
    model = Model(opset=17)
    model.functions.append(
        helper.make_function(
            "own", "Twice", ["a"], ["b"],
            [helper.make_node("Relu", ["a"], ["c"]), helper.make_node("Relu", ["c"], ["b"])],
            [helper.make_opsetid("", 17)],
        )
    )  # fmt: skip
    x = model.node("Twice", model.input("x", 1, 3, 4, 5), domain="own")
    assert kinds(import_onnx(model.save(path, x)).network) == ["input", "relu", "relu"]


def test_names_are_the_files_made_unique(path):
    model = Model()
    x = model.input("x", 1, 3)
    x = model.node("Relu", x, name="same")
    x = model.node("Sigmoid", x, name="same")
    x = model.node("Relu", x, name=" ", outputs=["third"])
    x = model.node("Tanh", x, name="x")
    network = import_onnx(model.save(path, x)).network
    assert [node.name for node in network.nodes] == ["x", "same", "same.2", "third", "x.2"]
    assert network.name == "model"


def test_phases_of_a_transposed_convolution_find_free_names(path):
    model = Model()
    x = model.node("Relu", model.input("x", 1, 1, 3, 3), name="up.phase0")
    x = model.node("ConvTranspose", x, model.constant(ones(1, 1, 3, 3)), strides=[2, 2], name="up")
    imported = import_onnx(model.save(path, x))
    names = [layer.name for layer in imported.network.layers]
    assert names == ["up.phase0.2", "up.phase1", "up.phase2", "up.phase3"]
    assert sorted(imported.weights) == sorted(names)


def test_several_outputs_are_gathered(path):
    model = Model()
    x = model.input("x", 1, 3, 4, 5)
    a = model.node("Relu", x, outputs=["a"])
    b = model.node("GlobalAveragePool", a, outputs=["b"])
    network = import_onnx(model.save(path, a, b, x)).network
    last = network.nodes[-1]
    assert (last.function, last.inputs, last.output_shape) == (
        "outputs",
        ("a", "b", "x"),
        (1, 4, 5, 3),
    )


def test_what_no_output_needs_is_left_out(path):
    model = Model()
    x = model.input("x", 1, 3)
    model.input("unread", "N", 3)
    model.node("Conv", model.input("y", 1, 3, 4, 5), model.constant(ones(1, 3, 1, 1)))
    x = model.node("Relu", x)
    # The Conv reads `y`, whose shape is known; `unread`'s is not, and nobody asks.
    assert kinds(import_onnx(model.save(path, x)).network) == ["input", "relu"]


def test_identity_and_dropout_are_nothing(path):
    model = Model()
    x = model.node("Dropout", model.node("Identity", model.input("x", 1, 3, 4, 5)))
    x = model.node("Sum", model.node("Relu", x))
    assert kinds(import_onnx(model.save(path, x)).network) == ["input", "relu"]


def test_a_network_may_be_its_input(path):
    model = Model()
    x = model.node("Identity", model.input("x", 1, 3, 4, 5))
    assert kinds(import_onnx(model.save(path, x)).network) == ["input"]


@pytest.mark.parametrize("how", ["Dropout", "read twice", "output", "per pixel", "training"])
def test_a_normalisation_is_folded_only_where_nothing_else_sees_the_layer(how, path):
    """Where it is not, the host's node keeps it."""
    model = Model()
    x = model.node("Conv", model.input("x", 1, 3, 4, 5), model.constant(ones(3, 3, 1, 1)))
    outputs = [x] if how == "output" else []
    if how == "read twice":
        outputs.append(model.node("Relu", x))
    if how == "Dropout":
        x = model.node("Dropout", x)
    if how == "per pixel":
        y = model.node("Mul", x, model.constant(ones(1, 1, 4, 5)))
    elif how == "training":
        y = model.node("BatchNormalization", x, *[model.constant(ones(3)) for _ in range(4)],
                       training_mode=1, outputs=["y", "m", "v"])  # fmt: skip
    else:
        y = model.node("BatchNormalization", x, *[model.constant(ones(3)) for _ in range(4)])
    functions = kinds(import_onnx(model.save(path, y, *outputs)).network)
    assert ("mul" if how == "per pixel" else "batch_normalization") in functions


def test_shapes_that_are_computed_are_evaluated(path):
    """As torch flattens: Shape, Gather, Unsqueeze, Concat, Reshape; and arithmetic on the way."""
    model = Model()
    x = model.input("x", "N", 3, "H", "W")
    shape = model.node("Shape", x)
    first = model.node("Gather", shape, model.constant(np.array(0)), axis=0)
    first = model.node("Unsqueeze", first, model.constant(np.array([0])))
    rest = model.node("ReduceProd", model.node("Shape", x, start=1), keepdims=1)
    half = model.node("Div", rest, model.constant(np.array([2])))
    square = model.node("Pow", half, model.constant(np.array([1])))  # not propagated by onnx
    dims = model.node("Concat", first, square, model.constant(np.array([2])), axis=0)
    x = model.node("Reshape", x, dims)
    x = model.node("Expand", x, model.node("ConstantOfShape", model.constant(np.array([3])),
                   value=helper.make_tensor("v", TensorProto.INT64, [1], [1])))  # fmt: skip
    network = import_onnx(model.save(path, x), {"x": (2, 3, 4, 6)}).network
    assert network.shape(network.nodes[-1].name) == (2, 36, 1, 2)
    assert len(network.nodes) == 2  # the Expand changes nothing


def test_resize_to_a_computed_size(path):
    model = Model(kind=TensorProto.FLOAT)
    x = model.input("x", 1, 3, 4, 5)
    sizes = model.node("Cast", model.node("Shape", x), to=TensorProto.FLOAT)
    sizes = model.node("Mul", sizes, model.constant(np.array([1, 1, 2, 2.4])))
    sizes = model.node("Cast", model.node("Floor", sizes), to=TensorProto.INT64)
    x = model.node("Resize", x, "", "", sizes, mode="nearest")
    network = import_onnx(model.save(path, x)).network
    assert network.shape(network.nodes[-1].name) == (1, 8, 12, 3)


def test_quantised_weights_are_resolved(path):
    """QDQ: the integers and their scale are constants, the activations' pair is the host's."""
    rng = np.random.default_rng(1)
    model = Model(kind=TensorProto.FLOAT, opset=13)
    stored = rng.integers(-127, 128, (4, 3, 3, 3)).astype(np.int8)
    scales = np.array([0.5, 0.25, 2, 1])
    zero = model.constant(np.zeros(4, np.int8))
    weight = model.node("DequantizeLinear", model.constant(stored), model.constant(scales), zero,
                        axis=0)  # fmt: skip
    step, none = model.constant(0.5), model.constant(np.int8(0))
    x = model.node("QuantizeLinear", model.input("x", 1, 3, 5, 5), step, none)
    x = model.node("DequantizeLinear", x, step, none)
    x = model.node("Conv", x, weight, name="conv")
    imported = import_onnx(model.save(path, x))
    assert kinds(imported.network) == ["input", "quantize_linear", "dequantize_linear", "conv"]
    np.testing.assert_array_equal(
        imported.weights["conv"].weight, stored * scales[:, None, None, None]
    )


@pytest.mark.parametrize(
    "kind", [TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.FLOAT, TensorProto.DOUBLE]
)
def test_weights_of_any_float_become_float32(kind, path):
    model = Model(kind=kind)
    values = np.arange(-4, 5).reshape(3, 3, 1, 1) / 8
    x = model.node("Conv", model.input("x", 1, 3, 4, 5), model.constant(values), name="c")
    own = import_onnx(model.save(path, x)).weights["c"]
    assert own.weight.dtype == np.float32
    np.testing.assert_array_equal(own.weight, values)
    np.testing.assert_array_equal(own.bias, np.zeros(3))


def test_folding_is_rounded_once(path):
    """In float64, then to float32: one tenth of one tenth, and a bias of a third."""
    model = Model(kind=TensorProto.FLOAT)
    tenth, third = np.float32(0.1), np.float32(1 / 3)
    x = model.node("Conv", model.input("x", 1, 1, 2, 2), model.constant(np.full((1, 1, 1, 1), 0.1)),
                   model.constant([1 / 3]), name="c")  # fmt: skip
    x = model.node("Mul", x, model.constant(np.full((1, 1, 1, 1), 0.1)))
    x = model.node("BatchNormalization", x, *map(model.constant, ([0.1], [0.2], [0.3], [0.7])))
    own = import_onnx(model.save(path, x)).weights["c"]
    root = np.sqrt(np.float64(np.float32(0.7)) + np.float64(np.float32(1e-5)))
    scale = np.float64(tenth) / root
    weight = np.float64(tenth) * (np.float64(tenth) * scale)
    bias = (np.float64(third) * np.float64(tenth) - np.float64(np.float32(0.3))) * scale
    assert own.weight.ravel() == pytest.approx(weight, rel=6e-8)
    assert own.bias == pytest.approx(bias + np.float64(np.float32(0.2)), rel=6e-8)


def test_layers_whose_weights_are_not_in_the_file(path):
    """Weights may be inputs of the file; then there are none, and no node for them."""
    model = Model()
    x = model.node("Conv", model.input("x", 1, 3, 4, 5), model.input("w", 6, 3, 1, 1),
                   model.input("b", 6), name="a")  # fmt: skip
    x = model.node("Conv", x, model.constant(ones(2, 6, 1, 1)), name="c")
    imported = import_onnx(model.save(path, x))
    assert kinds(imported.network) == ["input", "conv", "conv"]
    assert list(imported.weights) == ["c"]
    assert imported.network.macs == 20 * (18 + 12)


def test_old_models_are_converted(path):
    """Opset 6 broadcast by an attribute, and so did Gemm."""
    model = Model(opset=6, kind=TensorProto.FLOAT)
    bias = np.random.default_rng(2).integers(-4, 4, 5).astype(float)
    x = model.input("x", 2, 3)
    x = model.node("Gemm", x, model.constant(ones(3, 5)), model.constant(bias), broadcast=1,
                   name="fc")  # fmt: skip
    x = model.node("Add", x, model.constant(bias), broadcast=1)
    imported = import_onnx(model.save(path, x))
    assert kinds(imported.network) == ["input", "linear"]
    np.testing.assert_array_equal(imported.weights["fc"].bias, 2 * bias)


def test_weights_in_files_of_their_own(tmp_path):
    model = Model(kind=TensorProto.FLOAT)
    values = np.random.default_rng(3).normal(size=(40, 30, 1, 1)).astype(np.float32)
    x = model.node("Conv", model.input("x", 1, 30, 4, 5), model.constant(values), name="c")
    x = model.node("Reshape", x, model.constant(np.array([1, -1])))
    path = tmp_path / "deep" / "model.onnx"
    path.parent.mkdir()
    onnx.save(model.proto(x), str(path), save_as_external_data=True, location="weights.bin",
              size_threshold=0)  # fmt: skip
    imported = import_onnx(path)
    np.testing.assert_array_equal(imported.weights["c"].weight, values)
    assert imported.network.shape(imported.network.nodes[-1].name) == (1, 1, 1, 800)
    (path.parent / "weights.bin").write_bytes(b"short")
    with pytest.raises(WorkloadError, match=r"tensor 'c\d': its external data are \d+ bytes"):
        import_onnx(path)
    (path.parent / "weights.bin").unlink()
    with pytest.raises(WorkloadError, match=r"model\.onnx: tensor 'c\d': .* there is no file"):
        import_onnx(path)


def test_a_batch_scales(path):
    model = Model()
    x = model.node("Conv", model.input("x", "N", 3, 6, 6), model.constant(ones(4, 3, 3, 3)))
    x = model.node("Flatten", model.node("GlobalAveragePool", x))
    x = model.node("Softmax", model.node("Gemm", x, model.constant(ones(4, 5))))
    model.save(path, x)
    one, three = (import_onnx(path, {"x": (n, 3, 6, 6)}).network for n in (1, 3))
    assert one.batched(3) == three
    assert three.macs == 3 * one.macs == 3 * (4 * 4 * 4 * 27 + 20)


def test_onnx_is_not_imported_before_it_is_used():
    count = "sum(name.split('.')[0] == 'onnx' for name in sys.modules)"
    code = f"import bfpsim.workloads, sys; print({count})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "0\n"


def test_a_sum_of_unequal_shapes_is_the_hosts_and_of_equal_ones_in_other_layouts_is_moved(path):
    rng = random.Random(5)
    model = Model()
    image = whole(rng, 1, 3, 4, 4)
    x = model.input("x", *image.shape)
    weight = whole(rng, 3, 3, 1, 1)
    y = model.node("Conv", x, model.constant(weight))
    turned = model.node("Transpose", y, perm=[0, 1, 3, 2])  # rows become columns
    x = model.node("Add", y, turned)
    proto = model.proto(x)
    onnx.save(proto, str(path))
    imported = import_onnx(path)
    assert kinds(imported.network) == ["input", "conv", "transpose", "add"]
    host = {"transpose": lambda node, sources: sources[0].transpose(0, 2, 1, 3)}
    found = execute(imported, {"x": nhwc(image)}, host)[imported.network.nodes[-1].name]
    wanted = ReferenceEvaluator(proto).run(None, {"x": image})[0]
    np.testing.assert_array_equal(found, nhwc(wanted))
    broadcast = model.node("Add", x, model.node("GlobalMaxPool", x))
    network = import_onnx(model.save(path, broadcast)).network
    assert network.nodes[-1].function == "add"
    assert len(network.nodes[-1].inputs) == 2


def test_a_dropout_is_nothing_but_in_training_or_where_its_mask_is_read(path):
    model = Model()
    x, half = model.input("x", 1, 3, 4, 5), model.constant(np.array(0.5))
    off, on = model.constant(np.array(False)), model.constant(np.array(True))
    model.node("Dropout", x, half, off, outputs=["a"])
    assert kinds(import_onnx(model.save(path, "a")).network) == ["input"]
    model.node("Dropout", x, half, on, outputs=["b"])
    assert kinds(import_onnx(model.save(path, "b")).network) == ["input", "dropout"]
    model.node("Dropout", x, outputs=["c", "mask"])
    model.node("Cast", "mask", to=TensorProto.DOUBLE, outputs=["d"])
    network = import_onnx(model.save(path, "d")).network
    assert kinds(network) == ["input", "dropout", "cast"]


@pytest.mark.parametrize(
    ("axis", "shapes", "constant", "wanted"),
    [
        (1, [(1, 3, 4, 5)], False, ["input"]),
        (1, [(1, 3, 4, 5), (1, 2, 4, 5)], False, ["input", "input", "concat"]),
        (-3, [(1, 3, 4, 5), (1, 2, 4, 5)], False, ["input", "input", "concat"]),
        (2, [(1, 3, 4, 5), (1, 3, 2, 5)], False, ["input", "input", "host"]),
        (0, [(1, 3, 4, 5), (2, 3, 4, 5)], False, ["input", "input", "host"]),
        (1, [(1, 3, 4, 5)], True, ["input", "host"]),
        (2, [(1, 7, 3), (1, 7, 2)], False, ["input", "input", "concat"]),  # tokens
        (1, [(1, 7, 3), (1, 2, 3)], False, ["input", "input", "host"]),
        (1, [(1, 1, 4, 5), (1, 1, 4, 5)], False, ["input", "input", "concat"]),
    ],
)
def test_a_concat_of_channels_is_a_node_and_any_other_the_hosts(
    axis, shapes, constant, wanted, path
):
    model = Model()
    names = [model.input(f"x{place}", *shape) for place, shape in enumerate(shapes)]
    if constant:
        names.append(model.constant(ones(1, 2, 4, 5)))
    proto = model.proto(model.node("Concat", *names, axis=axis))
    onnx.save(proto, str(path))
    network = import_onnx(path).network
    assert [node.op for node in network.nodes] == wanted
    dims = [dim.dim_value for dim in proto.graph.output[0].type.tensor_type.shape.dim]
    order = [0, 2, 3, 1] if len(dims) == 4 else [0, 1, 2]
    shape = network.shape(network.nodes[-1].name)
    assert [extent for extent in shape if extent > 1] == [dims[a] for a in order if dims[a] > 1]


@pytest.mark.parametrize("bias", ["activation", "matrix", "column", "row of both"])
def test_what_a_gemm_adds_that_is_no_bias_stands_behind_it(bias, path):
    model = Model()
    given = {"activation": model.input("c", 4, 6)} if bias == "activation" else {}
    shape = {"matrix": (4, 6), "column": (4, 1), "row of both": (6,)}.get(bias)
    c = given.get(bias) or model.constant(ones(*shape))
    b = model.input("b", 5, 6) if bias == "row of both" else model.constant(ones(5, 6))
    x = model.node("Gemm", model.input("a", 4, 5), b, c)
    network = import_onnx(model.save(path, x)).network
    *_, layer, last = network.nodes
    assert layer.op == ("matmul" if bias == "row of both" else "linear")
    assert (last.op, last.function) == (("add", "") if given else ("host", "add"))
    assert network.macs == 4 * 5 * 6


def test_a_factor_of_a_product_of_activations_is_the_hosts(path):
    model = Model()
    x = model.node("Gemm", model.input("a", 4, 5), model.input("b", 5, 6), alpha=0.5)
    network = import_onnx(model.save(path, x)).network
    assert kinds(network)[-2:] == ["matmul", "mul"]


def test_a_constant_left_factor_of_a_gemm_is_scaled(path):
    model = Model()
    x = model.node("Gemm", model.constant(ones(4, 5)), model.input("b", 5, 6), alpha=0.5, name="g")
    own = import_onnx(model.save(path, x)).weights["g"]
    np.testing.assert_array_equal(own.weight, np.full((4, 5, 1, 1), 0.5))


@pytest.mark.parametrize(
    ("kind", "dims", "attributes"),
    [
        ("MaxPool", (1, 2, 5, 5, 5), {"kernel_shape": [2, 2, 2]}),
        ("MaxPool", (1, 2, 5, 5), {"kernel_shape": [2, 2], "dilations": [2, 1]}),
        ("AveragePool", (1, 2, 5, 5), {"kernel_shape": [5, 4]}),
        ("AveragePool", (1, 2, 5, 5), {"kernel_shape": [4, 5], "strides": [2, 1]}),
        ("AveragePool", (1, 2, 5, 5), {"kernel_shape": [5, 4], "strides": [1, 2]}),
        ("AveragePool", (1, 2, 5, 5), {"kernel_shape": [5, 5], "pads": [0, 0, 1, 1]}),
        ("AveragePool", (1, 2, 5, 5), {"kernel_shape": [5, 5], "pads": [1] * 4, "strides": [3, 3]}),
        ("AveragePool", (1, 2, 5, 5, 5), {"kernel_shape": [5, 5, 5]}),
        (
            "AveragePool",
            (1, 2, 5, 5),
            {"kernel_shape": [6, 6], "pads": [0, 0, 1, 1], "count_include_pad": 1},
        ),
        ("ReduceMean", (1, 2, 5, 5), {"axes": [1]}),
        ("ReduceMean", (1, 2, 5, 5), {"axes": [2]}),
        ("ReduceMean", (1, 2, 5, 5), {}),
        ("ReduceMax", (1, 2, 5, 5), {"axes": [2, 3]}),
    ],
)
def test_pooling_that_is_no_node_is_the_hosts(kind, dims, attributes, path):
    model = Model()
    network = import_onnx(model.save(path, model.node(kind, model.input("x", *dims), **attributes)))
    assert [node.op for node in network.network.nodes] == ["input", "host"]


def test_indices_of_a_maximum_are_the_hosts(path):
    model = Model()
    x = model.node("MaxPool", model.input("x", 1, 2, 4, 4), kernel_shape=[2, 2], strides=[2, 2],
                   outputs=["y", "i"])  # fmt: skip
    model.node("Cast", "i", to=TensorProto.DOUBLE, outputs=["z"])
    network = import_onnx(model.save(path, x, "z")).network
    assert kinds(network) == ["input", "max_pool", "max_pool", "cast", "outputs"]


def test_means_whose_axes_are_an_input(path):
    model = Model(opset=18)
    x = model.input("x", 2, 3, 4, 5)
    y = model.node("ReduceMean", x, model.constant(np.array([-1, -2])), keepdims=0)
    network = import_onnx(model.save(path, y)).network
    assert [node.op for node in network.nodes] == ["input", "avgpool"]
    tokens = Model(opset=18)
    y = tokens.node("ReduceMean", tokens.input("x", 2, 7, 3), tokens.constant(np.array([1])))
    network = import_onnx(tokens.save(path, y)).network
    assert [node.op for node in network.nodes] == ["input", "avgpool"]
    assert network.shape(network.nodes[-1].name) == (2, 1, 1, 3)


def test_constants_made_of_sizes_and_by_chance(path):
    """Size of a known shape is a constant; what is random is none, though nothing is read."""
    model = Model()
    x = model.input("x", 2, 3)
    x = model.node("Reshape", x, model.node("Unsqueeze", model.node("Size", x),
                   model.constant(np.array([0]))))  # fmt: skip
    noise = model.node("RandomNormal", shape=[6], dtype=TensorProto.DOUBLE)
    more = model.node("RandomNormalLike", model.constant(ones(6)))
    network = import_onnx(model.save(path, model.node("Sum", x, noise, more))).network
    assert {"random_normal", "random_normal_like"} < {*kinds(network)}
    assert network.nodes[-1].op == "add"


def test_padding_that_an_average_does_not_count_is_none(path):
    """A window of 6 x 6 over a map of 5 x 5 and one row and column of padding."""
    model = Model()
    x = model.node("AveragePool", model.input("x", 1, 2, 5, 5), kernel_shape=[6, 6],
                   pads=[0, 0, 1, 1])  # fmt: skip
    assert kinds(import_onnx(model.save(path, x)).network) == ["input", "avgpool"]
