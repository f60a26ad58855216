"""ONNX's own node cases: none crashes, and every shape inferred is that of the stored output."""

import importlib
import warnings

import numpy as np
import onnx
import pytest
from onnx.backend.test.case import node as cases

from bfpsim.workloads import WorkloadError
from bfpsim.workloads.importers.onnx.file import read_file
from bfpsim.workloads.importers.onnx.graph import resolve
from bfpsim.workloads.importers.onnx.model import import_onnx

SAMPLE = (
    "attention", "conv", "convinteger", "convtranspose", "einsum", "gemm", "groupnormalization",
    "gru", "if_", "loop", "lstm", "matmul", "matmulinteger", "meanvariancenormalization", "pad",
    "qlinearconv", "qlinearmatmul", "rangeop", "reshape", "scan", "slice", "split", "topk",
)  # fmt: skip


def shape(value):
    return tuple(value.dims) if isinstance(value, onnx.TensorProto) else np.shape(value)


def attempt(case, path):
    """Import with shapes alone, or with the small inputs' values; return what is found wrong."""
    onnx.save(case.model, str(path))
    inputs, outputs = case.data_sets[0]
    given = {
        value.name: array
        for value, array in zip(case.model.graph.input, inputs, strict=False)
        if isinstance(array, np.ndarray) and array.dtype.kind in "iub" and array.size <= 64
    }
    for values in ({}, given):
        try:
            graph = resolve(read_file(path, {}, values))
            import_onnx(path, values)
        except WorkloadError:
            continue
        return "imported", [
            f"{case.name}: {output.name}: {graph.dims[output.name]}, must be {shape(value)}"
            for output, value in zip(case.model.graph.output, outputs, strict=True)
            if graph.dims[output.name] != shape(value)
        ]
    return "refused", []


def attempt_all(found, path):
    counts, wrong = {"imported": 0, "refused": 0}, []
    for case in found:
        outcome, differences = attempt(case, path)
        counts[outcome] += 1
        wrong += differences
    assert wrong == []
    return counts


def test_a_sample(tmp_path):
    with warnings.catch_warnings(action="ignore"):
        for module in SAMPLE:
            importlib.import_module(f"{cases.__name__}.{module}")
    found = list(cases._NodeTestCases)
    counts = attempt_all(found[::3], tmp_path / "case.onnx")
    assert counts["imported"] > 100


@pytest.mark.long
def test_all_of_them(tmp_path):
    with warnings.catch_warnings(action="ignore"):
        found = cases.collect_testcases(None)
    counts = attempt_all(found, tmp_path / "case.onnx")
    assert sum(counts.values()) >= 1884
    assert counts["refused"] <= 175  # without elements, sequences, or constant
