"""Bad files and bad shapes: each one line that names the file and says what is wrong."""

import random
import re

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from bfpsim.workloads import WorkloadError
from bfpsim.workloads.importers.onnx import file as onnx_file
from bfpsim.workloads.importers.onnx.model import import_onnx
from tests.workloads.importers.onnx_models import LIGHT, Model


@pytest.fixture
def path(tmp_path):
    return tmp_path / "model.onnx"


def refused(path, shapes=None):
    """The error's line without the file's name."""
    with pytest.raises(WorkloadError) as caught:
        import_onnx(path, shapes)
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith(f"{path}: ")
    return message.removeprefix(f"{path}: ")


def convolution(**attributes):
    """x -> Conv -> Relu -> y, in float32."""
    model = Model(kind=TensorProto.FLOAT)
    x = model.input("x", 1, 3, 6, 6)
    x = model.node("Conv", x, model.constant(np.ones((4, 3, 3, 3)), "w"), name="c", **attributes)
    return model, model.node("Relu", x)


def test_no_file(tmp_path):
    assert refused(tmp_path / "none.onnx") == "cannot be read: No such file or directory"
    assert refused(tmp_path) == "cannot be read: Is a directory"


@pytest.mark.parametrize("data", [b"", b"no model", b"\x89PNG\r\n\x1a\n" + bytes(100), bytes(64)])
def test_no_model(data, path):
    path.write_bytes(data)
    assert refused(path).startswith(("is no ONNX model, or is cut off", "is no valid ONNX model: "))


def test_a_file_that_is_cut_off_anywhere(path):
    data = (LIGHT / "light_squeezenet.onnx").read_bytes()
    for place in [*range(0, len(data), len(data) // 40), *range(len(data) - 12, len(data))]:
        path.write_bytes(data[:place])
        assert refused(path).startswith(
            ("is no ONNX model, or is cut off", "is no valid ONNX model: ")
        )


def test_damaged_files_are_read_or_refused_but_nothing_else(path):
    """One byte of a small model changed: 600 ways."""
    model, x = convolution(pads=[1, 1, 1, 1])
    x = model.node("Reshape", x, model.constant(np.array([1, -1])))
    x = model.node("MatMul", x, model.constant(np.ones((144, 2))))
    data = model.proto(x).SerializeToString()
    rng = random.Random(7)
    refusals, lines = 0, set()
    for _ in range(600):
        damaged = bytearray(data)
        # Weights are most of the file, and most of their bytes do no harm.
        place = rng.choice([rng.randrange(600), len(data) - 1 - rng.randrange(200)])
        damaged[place] = rng.randrange(256)
        path.write_bytes(damaged)
        try:
            import_onnx(path)
        except WorkloadError as error:
            refusals += 1
            lines.add(str(error).count("\n"))
    assert lines == {0}
    assert refusals > 100


def test_a_file_beyond_what_protobuf_can_hold(path, monkeypatch):
    model, x = convolution()
    model.save(path, x)
    monkeypatch.setattr(onnx_file, "_LARGEST_FILE", 100)
    size = path.stat().st_size
    assert refused(path) == (
        f"is {size} bytes, must be at most 100: larger weights must be external data"
    )


def test_a_cycle(path):
    model = Model()
    model.node("Add", model.input("x", 1, 2), "b", outputs=["a"])
    model.node("Relu", "a", outputs=["b"])
    assert "must be topologically sorted, however input 'b'" in refused(
        model.save(path, "b", b=(1, 2))
    )


def test_operators_in_the_wrong_order(path):
    model, x = convolution()
    model.nodes.reverse()
    assert "must be topologically sorted" in refused(model.save(path, x, **{x: (1, 4, 4, 4)}))


def test_an_operator_that_does_not_exist(path):
    model, x = convolution()
    model.nodes[1].op_type = "Rely"
    assert "No Op registered for Rely" in refused(model.save(path, x, **{x: (1, 4, 4, 4)}))


def test_an_open_shape_is_asked_for(path):
    model = Model()
    model.node("Relu", model.input("data", "N", 3, 224, 224), outputs=["a"])
    model.save(path, "a")
    assert refused(path) == (
        "input 'data' has shape (N, 3, 224, 224): dimension 'N' is dynamic; give its shape, as "
        "data=1x3x224x224"
    )
    model.node("Relu", model.input("mask", None, "T"), outputs=["b"])
    model.save(path, "a", "b")
    assert refused(path, {"data": (1, 3, 224, 224)}) == (
        "input 'mask' has shape (?, T): dimensions '?', 'T' are dynamic; give its shape, as "
        "mask=1x1"
    )
    assert refused(path).count("; give its shape, as ") == 2


def test_an_input_without_a_shape(path):
    model = Model()
    model.node("Relu", model.input("x", 1), outputs=["a"])
    proto = model.proto("a")
    proto.graph.input[0].type.tensor_type.ClearField("shape")
    proto.graph.output[0].type.tensor_type.ClearField("shape")
    onnx.save(proto, str(path))
    assert refused(path) == "input 'x' has no shape; give it, as x=1x3x224x224"
    assert import_onnx(path, {"x": (2, 3)}).network.nodes[0].input_shape == (2, 1, 1, 3)


def test_extents_of_one_name_are_one(path):
    model = Model()
    a, b = model.input("a", "N", 3), model.input("b", "N", 3)
    model.save(path, model.node("Add", a, b))
    assert import_onnx(path, {"a": (4, 3)}).network.shape("b") == (4, 1, 1, 3)
    assert refused(path, {"a": (4, 3), "b": (5, 3)}) == (
        "input 'b': shape 5x3 gives dimension 'N' 5, must be 4 as before"
    )


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        ({"y": (1, 3, 6, 6)}, "input 'y' is unknown, must be one of x"),
        ({"x": (1, 3, 6)}, "input 'x': shape 1x3x6 must have the 4 dimensions (1, 3, 6, 6)"),
        ({"x": (1, 4, 6, 6)}, "input 'x': shape 1x4x6x6 must agree with (1, 3, 6, 6)"),
        ({"x": (1, 3, 0, 6)}, "input 'x': shape=0 must be an int >= 1"),
        ({"x": (1, 3, 6.5, 6)}, "input 'x': shape=6.5 must be an int >= 1"),
    ],
)
def test_shapes_that_do_not_fit(shapes, message, path):
    model, x = convolution()
    assert refused(model.save(path, x), shapes) == message


def test_sizes_of_nothing(path):
    model = Model()
    x = model.node("Relu", model.input("x", 1, 0, 6, 6))
    assert refused(model.save(path, x)) == (
        "input 'x' has shape (1, 0, 6, 6): every dimension must be >= 1"
    )
    model = Model()
    none = model.constant(np.array([2])), model.constant(np.array([2]))
    x = model.node("Slice", model.input("x", 1, 3), *none, model.constant(np.array([1])))
    x = model.node("Relu", x)
    assert refused(model.save(path, x)) == (
        "tensor 't0' has shape (1, 0): every dimension must be >= 1"
    )


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_weights_that_are_not_finite(bad, path):
    model, x = convolution()
    values = np.ones((4, 3, 3, 3))
    values[3, 2, 1, 0] = bad
    model.initialisers.clear()
    model.constant(values, "w")
    assert refused(model.save(path, x)) == "tensor 'w' holds NaN or Inf"


def test_weights_too_large_for_float32(path):
    model = Model()
    weight = model.constant(np.full((1, 1, 1, 1), 1e39))
    x = model.node("Conv", model.input("x", 1, 1, 2, 2), weight, name="c")
    assert refused(model.save(path, x)) == "layer 'c': its weight is not finite in float32"


def test_a_variance_below_zero(path):
    model, _ = convolution()
    parts = [model.constant(np.ones(4)) for _ in range(3)]
    x = model.node("BatchNormalization", "t0", *parts, model.constant(np.full(4, -1.0)))
    assert refused(model.save(path, x)) == (
        f"BatchNormalization {x!r}: multiplies a channel by nan; allowed: finite factors, so no "
        "division by 0 and no variance below 0"
    )


def test_a_division_by_zero(path):
    model, _ = convolution()
    divided = model.node("Div", "t0", model.constant(np.zeros((4, 1, 1))))
    x = model.node("Mul", divided, model.constant(np.zeros((4, 1, 1))))
    assert refused(model.save(path, x)) == (
        f"Div {divided!r}: multiplies a channel by inf; allowed: finite factors, so no division "
        "by 0 and no variance below 0"
    )


def test_an_initialiser_without_data(path):
    model, x = convolution()
    proto = model.proto(x)
    proto.graph.initializer[0].ClearField("raw_data")
    onnx.save(proto, str(path))
    assert re.search("is no valid ONNX model: .*tensor name: w", refused(path))
    proto.graph.initializer[0].raw_data = b"1234"
    onnx.save(proto, str(path))
    assert re.search("tensor name: w.* 4 bytes.* too small", refused(path).replace("(4", " 4"))


def test_weights_that_do_not_fit(path):
    model, x = convolution(group=3)
    proto = model.proto(x)
    onnx.save(proto, str(path))
    message = refused(path)
    assert message.startswith("layer 'c': groups=3 must divide out_channels=4") or "Conv" in message
    model = Model()
    x = model.node("Conv", model.input("x", 1, 4, 6, 6), model.constant(np.ones((4, 3, 1, 1))),
                   name="c")  # fmt: skip
    assert refused(model.save(path, x)) == (
        "layer 'c': weight (4, 3, 1, 1) must be (4, 4, 1, 1) for 4 channels in and 1 groups"
    )


def test_padding_below_zero(path):
    model, x = convolution(pads=[-1, 0, 0, 0])
    assert refused(model.save(path, x, **{x: (1, 4, 3, 4)})) == (
        "the output shapes of 1 Conv cannot be inferred, 1 of the graph's 2 nodes (50.0%): "
        "Conv 't0': [ShapeInferenceError] Attribute pads must not contain negative values"
    )


def test_operators_without_an_output_shape_are_listed_with_their_share(path):
    model = Model()
    x = model.input("x", 1, 3)
    outputs = [model.node("Own", x, domain="own") for _ in range(2)]
    outputs.append(model.node("NonZero", x))
    behind = model.node("Relu", outputs[0])
    model.save(path, behind, *outputs)
    assert refused(path) == (
        "the output shapes of 1 NonZero, 2 Own (own) cannot be inferred, 3 of the graph's 4 nodes "
        "(75.0%)"
    )


def test_sequences_are_refused(path):
    model = Model()
    x = model.node("SequenceConstruct", model.input("x", 1, 3))
    x = model.node("SequenceAt", x, model.constant(np.array(0)))
    assert refused(model.save(path, x)).startswith(
        "the output shapes of 1 SequenceConstruct cannot"
    )
    proto = model.proto(x)
    proto.graph.input[0].CopyFrom(
        helper.make_tensor_sequence_value_info("x", TensorProto.DOUBLE, [1, 3])
    )
    onnx.save(proto, str(path))
    assert refused(path) == "input 'x' must be a tensor"


def test_a_network_that_no_input_reaches(path):
    model = Model()
    x = model.node("Relu", model.constant(np.ones(3)))
    assert refused(model.save(path, x)) == "no output depends on an input"


def test_broadcasts_along_an_axis_of_before_opset_7(path):
    model = Model(opset=6, kind=TensorProto.FLOAT)
    x = model.node("Add", model.input("x", 1, 3, 4, 4), model.constant(np.ones(3)), broadcast=1,
                   axis=1, outputs=["y"])  # fmt: skip
    assert refused(model.save(path, x)) == (
        "Add 'y' is broadcast along an axis, as before opset 7: must be converted to that or a "
        "later one"
    )


def test_a_newer_format_than_onnx_knows(path):
    model, x = convolution()
    proto = model.proto(x)
    proto.ir_version = 999
    onnx.save(proto, str(path))
    assert refused(path).startswith("is no valid ONNX model: Your model ir_version 999 is higher")


def test_a_reshape_to_another_size(path):
    model = Model()
    x = model.node("Reshape", model.input("x", 2, 3), model.constant(np.array([7])))
    assert refused(model.save(path, x)) == (
        "Reshape 't0': shape (7,) must have the elements of (2, 3)"
    )


def test_factors_of_the_wrong_rank(path):
    model = Model()
    x, y = model.input("x", 2, 3, 4), model.input("y", 3, 4)
    x = model.node("Einsum", x, y, equation="ij,jk->ik")
    assert refused(model.save(path, x)).startswith(
        "the output shapes of 1 Einsum cannot be inferred, 1 of the graph's 1 nodes (100.0%): "
    )


def test_a_transpose_that_is_none(path):
    model = Model()
    x = model.node("Transpose", model.input("x", 2, 3), perm=[0])
    assert refused(model.save(path, x, **{x: (2,)})) == (
        "Transpose 't0': perm=[0] must be an order of the 2 axes"
    )


def test_sparse_initialisers(path):
    model, x = convolution()
    proto = model.proto(x)
    values = helper.make_tensor("sparse", TensorProto.FLOAT, [1], [1.0])
    indices = helper.make_tensor("at", TensorProto.INT64, [1], [0])
    proto.graph.sparse_initializer.append(helper.make_sparse_tensor(values, indices, [4]))
    onnx.save(proto, str(path))
    assert refused(path) == "initialiser 'sparse' is sparse, must be dense"


@pytest.mark.parametrize(("operator", "strides"), [("Conv", [1, 1]), ("ConvTranspose", [2, 2])])
@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        ({"auto_pad": "SAME"}, "auto_pad='SAME' must be one of NOTSET, SAME_LOWER, SAME_UPPER, "),
        ({"kernel_shape": [5, 5]}, "kernel_shape=[5, 5] must be [3, 3], as its weight 'w' has"),
    ],
    ids=["auto_pad", "kernel_shape"],
)
def test_windows_that_are_told_wrong(operator, strides, attributes, message, path):
    model = Model()
    weight = model.constant(np.ones((3, 3, 3, 3)), "w")
    x = model.node(operator, model.input("x", 1, 3, 6, 6), weight, outputs=["y"],
                   strides=strides, **attributes)  # fmt: skip
    assert refused(model.save(path, x)).startswith(f"{operator} 'y': {message}")


def test_an_operator_of_another_domain_that_reads_weights(path):
    model = Model()
    weight = model.constant(np.ones((4, 3, 1, 1)), "w")
    x = model.node("FusedConv", model.input("x", 1, 3, 6, 6), weight, outputs=["y"], domain="own")
    assert refused(model.save(path, x, **{x: (1, 4, 6, 6)})) == (
        "FusedConv 'y' of domain 'own': its multiply-accumulates with 'w' (4, 3, 1, 1) are not "
        "known; allowed: ONNX's own operators, as in a file that no runtime has fused"
    )
