"""ONNX files run in the formats that they store: names by types, values kept, bits by hand."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from bfpsim.mapping.sources import stored_formats
from bfpsim.quant.formats import dequantize, parse_format, quantize_weight
from bfpsim.sim.simulate import simulate_network
from bfpsim.workloads import load_workload
from bfpsim.workloads.importers.onnx.model import import_onnx

E2M1, E4M3, E5M2, E8M0 = (
    TensorProto.FLOAT4E2M1, TensorProto.FLOAT8E4M3FN, TensorProto.FLOAT8E5M2,
    TensorProto.FLOAT8E8M0,
)  # fmt: skip


def raw(name: str, kind: int, shape: tuple[int, ...], words: np.ndarray) -> onnx.TensorProto:
    return helper.make_tensor(name, kind, shape, words.astype(np.uint8).tobytes(), raw=True)


def weight_codes(kind: int, shape: tuple[int, ...]) -> onnx.TensorProto:
    """Any codes but those of infinity and NaN, and INT8's -128."""
    rng, count = np.random.default_rng(0), int(np.prod(shape))
    if kind == E2M1:
        return raw("w", kind, shape, rng.integers(0, 256, -(-count // 2)))
    if kind == TensorProto.INT8:
        return raw("w", kind, shape, rng.integers(-127, 128, count) & 0xFF)
    signs = rng.integers(0, 2, count) << 7
    return raw("w", kind, shape, rng.integers(0, 0x7C, count) | signs)


def save(path, nodes, stored, shape=(1, 70, 6, 6), output=(1, 8, 6, 6)) -> str:  # type: ignore[no-untyped-def]
    graph = helper.make_graph(
        nodes,
        "stored",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, output)],
        stored,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 25)], ir_version=12)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, str(path))
    return str(path)


def conv_file(path, kind: int, block: int, two_scales: bool = False, axis: int = 1) -> str:  # type: ignore[no-untyped-def]
    """8 filters of 70 channels, 3 x 3, blocked along an axis."""
    shape = (8, 70, 3, 3)
    scales = tuple(-(-n // block) if d == axis else n for d, n in enumerate(shape))
    rng, count = np.random.default_rng(1), int(np.prod(scales))
    nodes, stored = [], [weight_codes(kind, shape)]
    if two_scales:
        own = numpy_helper.from_array(np.array(0.0037, np.float32), "once")
        stored += [raw("narrow", E4M3, scales, rng.integers(0x20, 0x7F, count)), own]
        nodes.append(helper.make_node("DequantizeLinear", ["narrow", "once"], ["s"]))
    else:
        stored.append(raw("s", E8M0, scales, rng.integers(110, 140, count)))
    nodes += [
        helper.make_node(
            "DequantizeLinear", ["w", "s"], ["floats"], axis=axis, block_size=block,
            output_dtype=TensorProto.FLOAT,
        ),
        helper.make_node("Conv", ["x", "floats"], ["y"], "conv", pads=[1, 1, 1, 1]),
    ]  # fmt: skip
    return save(path, nodes, stored)


@pytest.mark.parametrize(
    ("kind", "name", "bits"),
    [
        (TensorProto.INT8, "mxint8", 8), (E4M3, "mxfp8e4m3-rceil", 8), (E5M2, "mxfp8e5m2", 8),
        (E2M1, "mxfp4", 4),
    ],
)  # fmt: skip
def test_mx_weights_run_as_they_are_stored(tmp_path, kind: int, name: str, bits: int) -> None:
    """Their floats are those of the format; 9 x 3 scales of a filter move beside its elements."""
    path = conv_file(tmp_path / "mx.onnx", kind, 32)
    network = load_workload(path)
    formats = stored_formats(path, network)
    assert {layer: str(own) for layer, own in formats.items()} == {
        "conv": f"I=plain32 W={name} O=plain32"
    }
    weight = import_onnx(path).weights["conv"].weight
    kept = dequantize(quantize_weight(weight, parse_format(name)))
    assert np.array_equal(kept, weight.astype(np.float64))
    traffic = simulate_network(network, "ideal-64k", formats).traffic
    moved = traffic.query("level == 'DRAM' and tensor == 'W'").set_index("kind")["bits"]
    assert moved["mantissa"] == 8 * 70 * 9 * bits
    assert moved["exponent"] == 8 * 3 * 9 * 8


def test_nvfp4_is_known_by_its_two_scales(tmp_path) -> None:
    path = conv_file(tmp_path / "nv.onnx", E2M1, 16, two_scales=True)
    assert str(stored_formats(path, load_workload(path))["conv"].W) == "nvfp4"


@pytest.mark.parametrize(
    ("kind", "block", "two", "axis"), [(E2M1, 16, False, 1), (E2M1, 32, False, 0),
                                       (E4M3, 16, True, 1), (E2M1, 32, True, 1)]
)  # fmt: skip
def test_other_blocks_are_no_format_here(tmp_path, kind, block, two, axis) -> None:
    """Of another size, along another axis, of other elements: the format that is asked for."""
    path = conv_file(tmp_path / "other.onnx", kind, block, two, axis)
    formats = stored_formats(path, load_workload(path), otherwise="bfp16")
    assert str(formats["conv"].W) == "bfp16e5b16"


def test_integers_of_both_operands_and_behind_an_activation(tmp_path) -> None:
    """QDQ around a Gemm whose W is transposed, and a ReLU before the next tensor is stored."""
    one = numpy_helper.from_array(np.array(0.5, np.float32), "one")
    zero = numpy_helper.from_array(np.array(0, np.int8), "zero")
    own = numpy_helper.from_array(np.array(0.25, np.float32), "ws")
    weight = numpy_helper.from_array(np.arange(-20, 20, dtype=np.int8).reshape(4, 10), "w")
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "one", "zero"], ["xq"]),
        helper.make_node("DequantizeLinear", ["xq", "one", "zero"], ["xf"]),
        helper.make_node("DequantizeLinear", ["w", "ws"], ["wf"]),
        helper.make_node("Gemm", ["xf", "wf"], ["p"], "gemm", transB=1),
        helper.make_node("Relu", ["p"], ["r"]),
        helper.make_node("QuantizeLinear", ["r", "one", "zero"], ["rq"]),
        helper.make_node("DequantizeLinear", ["rq", "one", "zero"], ["y"]),
    ]
    path = save(tmp_path / "int8.onnx", nodes, [one, zero, own, weight], (1, 10), (1, 4))
    formats = stored_formats(path, load_workload(path))
    assert str(formats["gemm"]) == "plain8"


def test_a_matmuls_blocks_lie_along_its_rows(tmp_path) -> None:
    for axis, name in ((0, "mxfp4"), (1, "bfp8e3b16")):
        shape = (2, 64) if axis == 0 else (64, 2)
        scales = raw("s", E8M0, shape, np.full(128, 127))
        nodes = [
            helper.make_node(
                "DequantizeLinear", ["w", "s"], ["f"], axis=axis, block_size=32,
                output_dtype=TensorProto.FLOAT,
            ),
            helper.make_node("MatMul", ["x", "f"], ["y"], "product"),
        ]  # fmt: skip
        stored = [weight_codes(E2M1, (64, 64)), scales]
        path = save(tmp_path / f"{axis}.onnx", nodes, stored, (1, 5, 64), (1, 5, 64))
        formats = stored_formats(path, load_workload(path))
        assert str(formats["product"]) == f"I=plain32 W={name} O=plain32"


def test_a_file_of_floats_and_other_sources_store_no_formats(tmp_path) -> None:
    weight = numpy_helper.from_array(np.ones((8, 70, 1, 1), np.float32), "w")
    nodes = [helper.make_node("Conv", ["x", "w"], ["y"], "conv")]
    path = save(tmp_path / "floats.onnx", nodes, [weight])
    network = load_workload(path)
    assert stored_formats(path, network) == {}
    assert stored_formats("resnet18", network) == {}
    assert stored_formats(network, network) == {}
