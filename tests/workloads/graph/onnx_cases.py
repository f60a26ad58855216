"""ONNX's node cases: each imported and run as a graph, beside the outputs that are stored."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
from onnx import numpy_helper

from bfpsim.workloads import WorkloadError
from bfpsim.workloads.graph.graph import Execution
from bfpsim.workloads.importers.onnx.model import import_onnx


class Outcome(NamedTuple):
    """What became of a case: ``equal``, ``refused`` at import, ``failed`` in the run, ``differs``.

    kinds: operators of the graph that ran
    """

    name: str
    state: str
    kinds: tuple[str, ...]
    reason: str


def array(value: Any) -> Any:
    if isinstance(value, onnx.TensorProto):
        return numpy_helper.to_array(value)
    return [array(each) for each in value] if isinstance(value, list) else value


def attempt(case: Any, path: Path) -> Outcome:
    onnx.save(case.model, str(path))
    inputs, outputs = case.data_sets[0]
    given = dict(zip((v.name for v in case.model.graph.input), map(array, inputs), strict=False))
    small = {
        name: value
        for name, value in given.items()
        if isinstance(value, np.ndarray) and value.dtype.kind in "iub" and value.size <= 64
    }
    reason = ""
    for values in ({}, small):
        try:
            graph = import_onnx(path, values).graph
            break
        except WorkloadError as error:
            reason = reason or str(error)
    else:
        return Outcome(case.name, "refused", (), reason)
    kinds = tuple(step.kind for step in graph.steps)
    try:
        found = Execution(graph, {name: given[name] for name in graph.inputs}).run()
    except WorkloadError as error:
        return Outcome(case.name, "failed", kinds, str(error))
    for output, value in zip(case.model.graph.output, outputs, strict=True):
        if output.name in found and not equal(found[output.name], array(value)):
            return Outcome(case.name, "differs", kinds, output.name)
    return Outcome(case.name, "equal", kinds, "")


def equal(found: Any, wanted: Any) -> bool:
    if isinstance(wanted, list):
        return len(found) == len(wanted) and all(map(equal, found, wanted))
    one, other = np.asarray(found), np.asarray(wanted)
    if one.shape != other.shape:
        return False
    if other.dtype.kind in "OUS":
        return bool((one == other).all())
    one, other = one.astype(np.float64), other.astype(np.float64)
    return np.allclose(one, other, rtol=1e-3, atol=1e-5, equal_nan=True)


def attempt_all(cases: Iterable[Any], path: Path) -> list[Outcome]:
    return [attempt(case, path) for case in cases]
