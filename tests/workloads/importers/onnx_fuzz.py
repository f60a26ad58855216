"""Imports damaged ONNX files: ``python -m tests.workloads.importers.onnx_fuzz FOLDER SEED COUNT``.

ONNX's node cases, their small inputs made constants, with bytes, attributes, extents, operands or
operators changed. Prints how many were imported and refused; ends with an error at the first file
that does neither, or by the signal that it causes. FOLDER/case.onnx is the file.
"""

import faulthandler
import importlib
import random
import resource
import sys
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper
from onnx.backend.test.case import node as cases

from bfpsim.workloads import WorkloadError
from bfpsim.workloads.importers.onnx.model import import_onnx
from bfpsim.workloads.importers.onnx.stored import stored_formats

SAMPLE = (
    "attention", "concat", "conv", "convtranspose", "einsum", "expand", "gather", "gemm",
    "groupnormalization", "if_", "layernormalization", "loop", "lstm", "matmul", "maxpool", "pad",
    "qlinearconv", "qlinearmatmul", "rangeop", "reshape", "resize", "scan", "slice", "split",
    "squeeze", "tile", "topk", "transpose",
)  # fmt: skip
NUMBERS = (-1, 0, 1, 2, -2, 7, 1000, 10**5, 2**31, -(2**31), 2**62, -(2**63), 2**63 - 1)
MEMORY = 2**30
"""Bytes of data that a file may take, those of Python's own included."""

LONGEST = 20
"""Seconds that a file may take."""


def models() -> list[bytes]:
    """The cases, with inputs of few elements as constants."""
    with warnings.catch_warnings(action="ignore"):
        for module in SAMPLE:
            importlib.import_module(f"{cases.__name__}.{module}")
    found = []
    for case in cases._NodeTestCases:
        model = onnx.ModelProto()
        model.CopyFrom(case.model)
        for value, array in zip(list(model.graph.input), case.data_sets[0][0], strict=False):
            small = isinstance(array, np.ndarray) and array.size <= 64 and array.dtype.kind in "iu"
            if small and len(model.graph.input) > 1:
                model.graph.initializer.append(numpy_helper.from_array(array, value.name))
                model.graph.input.remove(value)
        found.append(model.SerializeToString())
    return found


def graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    yield graph
    for node in graph.node:
        for own in node.attribute:
            if own.HasField("g"):
                yield from graphs(own.g)


def damage(model: onnx.ModelProto, rng: random.Random, operators: list[str]) -> None:
    graph = rng.choice(list(graphs(model.graph)))
    if not graph.node:
        return
    node = rng.choice(graph.node)
    match rng.randrange(6):
        case 0 if node.attribute:
            own = rng.choice(node.attribute)
            if own.ints:
                own.ints[rng.randrange(len(own.ints))] = rng.choice(NUMBERS)
            elif own.type == onnx.AttributeProto.INT:
                own.i = rng.choice(NUMBERS)
            elif own.type == onnx.AttributeProto.STRING:
                own.s = rng.choice([b"", b"none", b"\xff"])
        case 1 if graph.initializer:
            tensor = rng.choice(graph.initializer)
            if tensor.data_type == onnx.TensorProto.INT64 and not tensor.external_data:
                values = numpy_helper.to_array(tensor).copy()
                if values.size:
                    values.flat[rng.randrange(values.size)] = rng.choice(NUMBERS)
                tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
            elif tensor.dims:
                tensor.dims[rng.randrange(len(tensor.dims))] = rng.choice(NUMBERS)
        case 2 if graph.input:
            dims = rng.choice(graph.input).type.tensor_type.shape.dim
            if dims:
                dims[rng.randrange(len(dims))].dim_value = rng.choice([1, 2, 5, 2**31, 2**62])
        case 3 if node.input:
            names = [name for each in graph.node for name in each.input]
            node.input[rng.randrange(len(node.input))] = rng.choice([*names, "", "none"])
        case 4 if node.input:
            del node.input[-1]
        case 5:
            node.op_type = rng.choice(operators)


def main(folder: Path, seed: int, count: int) -> None:
    files, rng, path = models(), random.Random(seed), folder / "case.onnx"
    operators = sorted({schema.name for schema in onnx.defs.get_all_schemas() if not schema.domain})
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))
    outcomes: Counter[str] = Counter()
    for _ in range(count):
        data = bytearray(rng.choice(files))
        if rng.random() < 0.25:
            for _ in range(rng.randint(1, 3)):
                data[rng.randrange(len(data))] = rng.randrange(256)
        else:
            model = onnx.ModelProto.FromString(bytes(data))
            for _ in range(rng.randint(1, 3)):
                with suppress(TypeError, ValueError):  # of a tensor that was damaged before
                    damage(model, rng, operators)
            data = bytearray(model.SerializeToString())
        path.write_bytes(data)
        faulthandler.dump_traceback_later(LONGEST, exit=True)
        try:
            with warnings.catch_warnings(action="ignore"):
                import_onnx(path)
                stored_formats(path)
            outcomes["imported"] += 1
        except WorkloadError as error:
            outcomes["refused" if "\n" not in str(error) else "in several lines"] += 1
    faulthandler.cancel_dump_traceback_later()
    print(outcomes["imported"], outcomes["refused"])


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
