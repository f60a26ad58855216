"""Where a model's data lie, and what no file may do: end the process, or take all of memory."""

import os
import resource
import subprocess
import sys
import time

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from bfpsim.workloads import WorkloadError
from bfpsim.workloads.importers.onnx.model import import_onnx
from tests.workloads.importers.onnx_models import Model


def ones(*shape):
    return np.ones(shape)


def convolution():
    model = Model(kind=TensorProto.FLOAT)
    x = model.node("Conv", model.input("x", 1, 3, 9, 8), model.constant(ones(4, 3, 3, 3), "w"))
    return model, x


def save(path, *, external=True, shape=True):
    model, x = convolution()
    proto = model.proto(x)
    if not shape:
        proto.graph.output[0].type.tensor_type.ClearField("shape")
    path.parent.mkdir(exist_ok=True)
    (path.parent / "w.bin").unlink(missing_ok=True)  # it would grow
    onnx.save(proto, str(path), save_as_external_data=external, location="w.bin", size_threshold=0)
    return path


@pytest.mark.parametrize("external", [True, False])
@pytest.mark.parametrize("shape", [True, False])
def test_data_beside_the_model(external, shape, tmp_path):
    path = save(tmp_path / "model.onnx", external=external, shape=shape)
    assert import_onnx(path).network.macs == 7 * 6 * 4 * 27 == 4536


def test_links_of_a_cache_of_downloads(tmp_path):
    """Both are links to files of other names, as in Hugging Face's cache."""
    save(tmp_path / "blobs" / "model.onnx")
    os.rename(tmp_path / "blobs" / "model.onnx", tmp_path / "blobs" / "3f2a")
    os.rename(tmp_path / "blobs" / "w.bin", tmp_path / "blobs" / "77c1")
    cache = tmp_path / "snapshots"
    cache.mkdir()
    (cache / "model.onnx").symlink_to("../blobs/3f2a")
    (cache / "w.bin").symlink_to("../blobs/77c1")
    assert import_onnx(cache / "model.onnx").network.macs == 4536


def test_a_link_to_the_model_alone(tmp_path):
    save(tmp_path / "models" / "model.onnx")
    (tmp_path / "mine.onnx").symlink_to("models/model.onnx")
    assert import_onnx(tmp_path / "mine.onnx").network.macs == 4536


def relocated(tmp_path, **entries):
    path = save(tmp_path / "model.onnx")
    proto = onnx.load(str(path), load_external_data=False)
    for entry in proto.graph.initializer[0].external_data:
        entry.value = entries.get(entry.key, entry.value)
    onnx.save(proto, str(path))
    with pytest.raises(WorkloadError) as caught:
        import_onnx(path)
    return str(caught.value).removeprefix(f"{path}: ")


@pytest.mark.parametrize("location", ["/etc/passwd", "../w.bin", "below/../../w.bin", ""])
def test_data_elsewhere_are_not_read(location, tmp_path):
    assert relocated(tmp_path, location=location) == (
        f"tensor 'w': its external data are said to be at {location!r}; allowed: a file beside the "
        "model or below"
    )


def test_data_that_are_not_there(tmp_path):
    message = relocated(tmp_path, location="other.bin")
    assert message.startswith("tensor 'w': its external data cannot be read: there is no file ")
    assert message.endswith("it must lie beside the model, under that name")
    assert "which has 432" in relocated(tmp_path, offset="8000000000")
    assert "which has 432" in relocated(tmp_path, length="8000000000")
    assert "must be numbers" in relocated(tmp_path, offset="x" * 9)
    assert "must be numbers" in relocated(tmp_path, offset="9" * 5000)
    assert "tensor 'w'" in relocated(tmp_path, length="8")


def cut(path):
    """A convolution larger than its input, whose output a Slice reads."""
    model = Model(kind=TensorProto.FLOAT)
    x = model.node("Conv", model.input("x", "N", 3, "H", "W"), model.constant(ones(8, 3, 3, 3)))
    bounds = (model.constant(np.array([number])) for number in (0, 3, 2))
    return model.save(path, model.node("Slice", x, *bounds, outputs=["y"]))


def test_extents_below_zero_never_reach_onnx(tmp_path):
    path = cut(tmp_path / "model.onnx")
    with pytest.raises(WorkloadError) as caught:
        import_onnx(path, {"x": (1, 3, 1, 1)})
    assert str(caught.value) == (
        f"{path}: the output shapes of 1 Conv cannot be inferred, 1 of the graph's 2 nodes "
        "(50.0%): tensor 't0' has shape (1, 8, -1, -1): every dimension must be >= 1"
    )


def test_nor_do_they_within_a_body(tmp_path):
    model = Model(kind=TensorProto.FLOAT)
    x, flag = model.input("x", 1, 3, 1, 1), model.input("flag", kind=TensorProto.BOOL)
    weight = model.constant(ones(8, 3, 3, 3))
    start, end, axis = (model.constant(np.array([number])) for number in (0, 3, 2))
    value = onnx.ValueInfoProto(name="o")
    value.type.tensor_type.elem_type = TensorProto.FLOAT
    nodes = [helper.make_node("Conv", [x, weight], ["t"]),
             helper.make_node("Slice", ["t", start, end, axis], ["o"])]  # fmt: skip
    graph = helper.make_graph(nodes, "branch", [], [value])
    model.node("If", flag, then_branch=graph, else_branch=graph, outputs=["y"])
    # Not by `Model.proto`, whose inference would end this process.
    proto = helper.make_model(
        helper.make_graph(model.nodes, "g", model.inputs, [value], model.initialisers),
        opset_imports=[helper.make_opsetid("", 17)], ir_version=8,
    )  # fmt: skip
    proto.graph.output[0].name = "y"
    onnx.save(proto, str(tmp_path / "m.onnx"))
    with pytest.raises(WorkloadError, match=r"has shape \(1, 8, -1, -1\)"):
        import_onnx(tmp_path / "m.onnx")


def nested(path, depth, calls=2):
    """Functions, each of which calls the next twice."""
    model = Model(kind=TensorProto.FLOAT)
    model.input("x", 1, 3)
    for number in range(depth):
        last = number == depth - 1
        nodes = [
            helper.make_node("Relu" if last else f"F{number + 1}", [source], [made],
                             domain="" if last else "own")
            for source, made in zip("abc"[:calls], "bcd"[:calls], strict=True)
        ]  # fmt: skip
        model.functions.append(
            helper.make_function(
                "own",
                f"F{number}",
                ["a"],
                ["abcd"[calls]],
                nodes,
                [helper.make_opsetid("", 17), helper.make_opsetid("own", 1)],
            )
        )
    model.node("F0", "x", domain="own", outputs=["y"])
    graph = helper.make_graph(
        model.nodes, "g", model.inputs, [helper.make_tensor_value_info("y", 1, [1, 3])]
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("own", 1)]
    onnx.save(
        helper.make_model(graph, opset_imports=opsets, functions=model.functions, ir_version=8),
        str(path),
    )
    return path


def test_functions_are_counted_before_they_are_written_out(tmp_path):
    path = nested(tmp_path / "few.onnx", 4)
    assert len(import_onnx(path).network.nodes) == 1 + 2**4
    path = nested(tmp_path / "many.onnx", 25)
    before = time.process_time()
    with pytest.raises(WorkloadError, match=rf"written out, are {2**25} operators of \d+ bytes; "):
        import_onnx(path)
    assert time.process_time() - before < 2


def test_functions_within_too_many_others(tmp_path):
    path = nested(tmp_path / "deep.onnx", 80, calls=1)
    with pytest.raises(WorkloadError, match="lies within more than 64 others"):
        import_onnx(path)


def test_loops_within_loops_end(tmp_path):
    """Each body is looked at twice, where something grows: 2^30 looks."""
    graph = None
    for number in range(30):
        inner, grown = f"i{number}", f"g{number}"
        nodes = [helper.make_node("Concat", [inner, inner], [grown], axis=0)]
        if graph is not None:
            nodes = [helper.make_node("Loop", ["m", "", inner], [grown], body=graph)]
        values = [helper.make_tensor_value_info(f"n{number}", TensorProto.INT64, []),
                  helper.make_tensor_value_info(f"c{number}", TensorProto.BOOL, []),
                  helper.make_tensor_value_info(inner, 1, None)]  # fmt: skip
        graph = helper.make_graph(
            [*nodes, helper.make_node("Identity", [f"c{number}"], [f"on{number}"])],
            "body", values,
            [helper.make_tensor_value_info(f"on{number}", TensorProto.BOOL, []),
             helper.make_tensor_value_info(grown, 1, None)],
        )  # fmt: skip
    x = helper.make_tensor_value_info("x", 1, [2])
    count = helper.make_tensor("m", TensorProto.INT64, [], [3])
    main = helper.make_graph(
        [helper.make_node("Loop", ["m", "", "x"], ["y"], body=graph)], "g", [x],
        [helper.make_tensor_value_info("y", 1, None)], [count],
    )  # fmt: skip
    path = tmp_path / "loops.onnx"
    model = helper.make_model(main, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, str(path))
    before = time.process_time()
    with pytest.raises(WorkloadError):
        import_onnx(path)
    assert time.process_time() - before < 20


def test_hostile_files_end_in_one_line_within_a_gigabyte(tmp_path):
    """In a process of its own, since what fails may end it."""
    cut(tmp_path / "cut.onnx")
    nested(tmp_path / "nested.onnx", 25)
    for arguments in (["cut.onnx", "--shape", "x=1x3x1x1"], ["nested.onnx"]):
        done = subprocess.run(
            [sys.executable, "-m", "bfpsim.commands.app", "workload", "show", *arguments],
            cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_DATA, (2**30, 2**30)),
        )  # fmt: skip
        assert done.returncode == 2, done.stderr
        assert done.stderr.startswith("bfpsim: ")
        assert done.stderr.count("\n") == 1
