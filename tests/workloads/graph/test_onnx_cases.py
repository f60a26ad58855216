"""ONNX's own node cases run as graphs: what is claimed equals the outputs that are stored."""

import importlib
import warnings
from pathlib import Path

import pytest
from onnx.backend.test.case import node as cases

from tests.workloads.graph.onnx_cases import attempt_all

SAMPLE = (
    "attention", "batch_normalization", "clip", "conv", "convinteger", "convtranspose", "einsum",
    "gelu", "gemm", "globalmaxpool", "groupnormalization", "gru", "hardswish", "if_",
    "layernormalization", "loop", "lstm", "matmul", "maxpool", "pad", "prelu", "qlinearconv",
    "qlinearmatmul", "resize",
    "rnn", "scatter", "slice", "softmax", "split", "topk",
)  # fmt: skip

# Random numbers, and a Scan as it was before opset 9.
UNCLAIMED = {
    "test_bernoulli", "test_bernoulli_double", "test_bernoulli_double_expanded",
    "test_bernoulli_expanded", "test_bernoulli_seed", "test_bernoulli_seed_expanded",
    "test_scan_sum",
}  # fmt: skip


def check(found, path: Path) -> int:
    """How many cases are equal; none may differ but those that are not claimed."""
    outcomes = attempt_all(found, path)
    wrong = [each for each in outcomes if each.state in ("differs", "failed")]
    assert [each for each in wrong if each.name not in UNCLAIMED] == []
    return sum(each.state == "equal" for each in outcomes)


def test_a_sample(tmp_path: Path) -> None:
    with warnings.catch_warnings(action="ignore"):
        for module in SAMPLE:
            importlib.import_module(f"{cases.__name__}.{module}")
        found = list(cases._NodeTestCases)
        assert check(found[::4], tmp_path / "case.onnx") > 110


@pytest.mark.long
def test_all_of_them(tmp_path: Path) -> None:
    with warnings.catch_warnings(action="ignore"):
        found = cases.collect_testcases(None)
        assert check(found, tmp_path / "case.onnx") >= 1707
