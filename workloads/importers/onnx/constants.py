"""Constants of an ONNX graph: initialisers, and what is computed from them or from shapes alone."""

from __future__ import annotations

import math
from collections import ChainMap
from collections.abc import Iterable, Iterator, Mapping, MutableMapping
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import external_data_helper, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from bfpsim.workloads.graph.operators import known_opsets
from bfpsim.workloads.importers.onnx.file import (
    LARGEST_SHAPE,
    OnnxFile,
    is_onnx,
    load_external,
    one_line,
)
from bfpsim.workloads.importers.view import Dims
from bfpsim.workloads.layer import WorkloadError

_RANDOM = (
    "Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform",
    "RandomUniformLike",
)  # fmt: skip
# Their outputs have no more elements than these inputs, times the inputs' rank.
SHRINKING = ("Compress", "NonMaxSuppression", "NonZero", "Unique")

# Elements that computing a constant may take altogether: so many, and so many times those stored.
_MOST = 2**24
_GROWTH = 16


class Constants:
    """Initialisers and what is computed from them alone, or from known shapes.

    Nothing is computed until it is asked for, and nothing whose size is not known and bounded.

    dims: the shapes known so far, by tensor
    """

    def __init__(self, file: OnnxFile, dims: Mapping[str, Dims]) -> None:
        self._file = file
        self._dims = dims
        self._stored: MutableMapping[str, onnx.TensorProto] = ChainMap({**file.initialisers})
        self._makers: MutableMapping[str, onnx.NodeProto] = ChainMap({})
        self._values: MutableMapping[str, NDArray[Any]] = ChainMap({})

    def within(self, dims: Mapping[str, Dims]) -> Constants:
        """Return the constants of a subgraph, which has those of the graph around it, too."""
        inner = Constants.__new__(Constants)
        inner._file, inner._dims = self._file, dims
        inner._stored = ChainMap({}, self._stored)
        inner._makers = ChainMap({}, self._makers)
        inner._values = ChainMap({}, self._values)
        return inner

    def __contains__(self, name: object) -> bool:
        return name in self._stored or name in self._makers or name in self._values

    @property
    def names(self) -> list[str]:
        """All constants."""
        return [*dict.fromkeys((*self._stored, *self._makers, *self._values))]

    def store(self, tensor: onnx.TensorProto, name: str = "") -> None:
        """Add an initialiser."""
        self._stored[name or tensor.name] = tensor

    def keep(self, name: str, value: NDArray[Any]) -> None:
        """Add a constant whose value is known."""
        self._values[name] = value

    def make(self, node: onnx.NodeProto) -> bool:
        """Add an operator's outputs if they are constants; return whether they are."""
        if not is_onnx(node) or any(a.HasField("g") or a.graphs for a in node.attribute):
            return False
        read = [name for name in node.input if name]
        if node.op_type in _RANDOM or not (read or node.op_type == "Constant"):
            return False
        if not all(name in self for name in read):
            return False
        self._makers.update({name: node for name in node.output if name})
        return True

    def array(self, name: str) -> NDArray[Any]:
        """Return a constant's value; masks hold -Inf.

        Raises `WorkloadError`, naming the tensor, if it has no data, cannot be evaluated, or takes
        too many elements to be.
        """
        if name in self._values:
            return self._values[name]
        if name in self._stored:
            return self._initialiser(name)
        maker = self._makers[name]
        if maker.op_type == "ConstantOfShape":
            # All elements are one in memory: files without weights fill theirs in this way.
            fill = next((numpy_helper.to_array(a.t) for a in maker.attribute), np.float32(0))
            return np.broadcast_to(fill.reshape(()), tuple(self.array(maker.input[0])))
        return self._evaluate(name)

    def finite(self, name: str) -> NDArray[Any]:
        """Return the value of a constant that is multiplied or added, as `array` does.

        Raises `WorkloadError` if it holds NaN or Inf, too.
        """
        value = self.array(name)
        if not all_finite(value):
            raise WorkloadError(f"tensor {name!r} holds NaN or Inf")
        return value

    def small(self, name: str, *, compute: bool = True) -> NDArray[Any] | None:
        """Return a constant's value if it may say what shape another tensor has; else None.

        Without ``compute`` only if it is known already.
        """
        dims = self._dims.get(name)
        if name not in self or dims is None or math.prod(dims) > LARGEST_SHAPE:
            return None
        if not compute and name not in self._values and name not in self._stored:
            return None
        try:
            value = self.array(name)
        except WorkloadError:
            return None
        self._values[name] = value
        return value

    def shrunk(self, node: onnx.NodeProto) -> NDArray[Any] | None:
        """Return the first output of an operator whose output's size only its values tell."""
        read = [math.prod(self._dims.get(name, (_MOST,))) for name in node.input if name]
        if node.op_type not in SHRINKING or sum(read) > LARGEST_SHAPE**2:
            return None
        try:
            return self._evaluate(node.output[0])
        except WorkloadError:
            return None

    def _initialiser(self, name: str) -> NDArray[Any]:
        tensor = self._stored[name]
        if external_data_helper.uses_external_data(tensor):
            stored, tensor = tensor, onnx.TensorProto()
            tensor.CopyFrom(stored)
            load_external(tensor, self._file.folders)
        try:
            return numpy_helper.to_array(tensor)
        except (KeyError, ValueError, TypeError) as error:  # the first of a type that is none
            raise WorkloadError(f"tensor {name!r} cannot be read: {one_line(error)}") from None

    def _evaluate(self, name: str) -> NDArray[Any]:
        """Run the part of the graph that makes a constant."""
        nodes = self._behind(name)
        feeds = {
            source: self._values[source] if source in self._values else self._initialiser(source)
            for node in nodes
            for source in node.input
            if source and (source in self._values or source in self._stored)
        }
        self._check_size(name, nodes, feeds.values())
        try:
            for node in nodes:
                self._run(node, feeds)
        except Exception as error:  # evaluators of operators raise what they like
            raise WorkloadError(
                f"tensor {name!r} is constant but cannot be evaluated: {one_line(error)}"
            ) from None
        self._values.update(
            {
                output: feeds[output]
                for node in nodes
                for output in node.output
                if output and feeds[output].size <= LARGEST_SHAPE
            }
        )
        return feeds[name]

    def _behind(self, name: str) -> list[onnx.NodeProto]:
        """Return the operators that make a constant, in the order in which they run."""
        order: dict[int, onnx.NodeProto] = {}
        waiting: list[tuple[str, bool]] = [(name, False)]
        while waiting:
            wanted, ready = waiting.pop()
            maker = self._makers.get(wanted)
            if maker is None or wanted in self._values or wanted in self._stored:
                continue
            if ready:
                order.setdefault(id(maker), maker)
            elif id(maker) not in order:
                waiting.append((wanted, True))
                waiting += [(source, False) for source in maker.input if source]
        return list(order.values())

    def _check_size(
        self, name: str, nodes: list[onnx.NodeProto], feeds: Iterable[NDArray[Any]]
    ) -> None:
        """Refuse what takes more elements than a file's own constants explain."""
        allowed = _MOST + _GROWTH * sum(value.size for value in feeds)
        total = 0
        for node in nodes:
            for output in filter(None, node.output):
                dims = self._dims.get(output)
                if dims is not None:
                    total += math.prod(dims)
                elif node.op_type not in SHRINKING and node.op_type != "Constant":
                    raise WorkloadError(
                        f"tensor {name!r} is constant but cannot be evaluated: the shape of "
                        f"{output!r} is not known"
                    )
                if total > allowed:
                    raise WorkloadError(
                        f"tensor {name!r} is constant but takes {total} elements to evaluate, "
                        f"{output!r} {dims} among them; allowed: {allowed}"
                    )

    def _run(self, node: onnx.NodeProto, feeds: dict[str, NDArray[Any]]) -> None:
        inputs = [onnx.ValueInfoProto(name=name) for name in dict.fromkeys(node.input) if name]
        outputs = [name for name in node.output if name]
        graph = helper.make_graph(
            [node], "constant", inputs, [onnx.ValueInfoProto(name=name) for name in outputs]
        )
        opsets = known_opsets(node, self._file.opsets)
        values: Any = ReferenceEvaluator(graph, opsets=opsets).run(
            None, {value.name: feeds[value.name] for value in inputs}
        )
        feeds.update({name: np.asarray(value) for name, value in zip(outputs, values, strict=True)})


class Stored(Mapping[str, NDArray[Any]]):
    """Constants by name, each made when it is first asked for and kept then."""

    def __init__(self, constants: Constants) -> None:
        self._constants = constants
        self._made: dict[str, NDArray[Any]] = {}

    def __getitem__(self, name: str) -> NDArray[Any]:
        if name not in self._made:
            if name not in self._constants:
                raise KeyError(name)
            self._made[name] = self._constants.array(name)
        return self._made[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._constants.names)

    def __len__(self) -> int:
        return len(self._constants.names)


def all_finite(values: NDArray[Any]) -> bool:
    """Return whether no element is NaN or Inf; anything but floats is finite."""
    if values.dtype.kind != "f":
        return True
    # Elements that are one in memory are looked at once.
    values = values[tuple(slice(1) if step == 0 else slice(None) for step in values.strides)]
    # Without a temporary array: the float64 sum of anything narrower is finite exactly then.
    with np.errstate(invalid="ignore", over="ignore"):
        return bool(np.isfinite(values.sum(dtype=np.float64)))
