"""What an ONNX file stores its layers' tensors in: names of formats, by layer.

A tensor is stored in what DequantizeLinear reads, whatever only keeps or moves its elements on the
way, and in its own type where nothing dequantises it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from bfpsim.workloads.importers.onnx.file import attribute, is_onnx, read_file
from bfpsim.workloads.importers.onnx.shapes import Inference
from bfpsim.workloads.layer import WorkloadError

_T = onnx.TensorProto
_LAYERS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
_KEEPS = (
    "Cast", "Clip", "Concat", "Flatten", "Identity", "MaxPool", "Relu", "Reshape", "Slice",
    "Squeeze", "Transpose", "Unsqueeze",
)  # fmt: skip
_ON_THE_WAY = (*_KEEPS, "Add")
_FLOATS: dict[int, str] = {
    _T.FLOAT: "plain32", _T.DOUBLE: "plain32", _T.FLOAT16: "plain16", _T.BFLOAT16: "bf16",
}  # fmt: skip
_INTEGERS: dict[int, str] = {
    _T.INT8: "plain8", _T.UINT8: "plain8", _T.INT4: "plain4", _T.UINT4: "plain4",
    _T.INT2: "plain2", _T.UINT2: "plain2",
}  # fmt: skip
_MX: dict[int, str] = {
    _T.INT8: "mxint8", _T.FLOAT8E4M3FN: "mxfp8e4m3-rceil", _T.FLOAT8E5M2: "mxfp8e5m2",
    _T.FLOAT4E2M1: "mxfp4",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Stored:
    """Names of the formats of a layer's I, W and O; None for what no format here is."""

    I: str | None  # noqa: E741 - the tensor's name in the field
    W: str | None
    O: str | None  # noqa: E741

    @property
    def names(self) -> tuple[str | None, str | None, str | None]:
        """Of I, W and O."""
        return self.I, self.W, self.O


def stored_formats(path: str | Path, shapes: Mapping[str, Any] | None = None) -> dict[str, Stored]:
    """Return the formats by layer, named as `import_onnx` names layers; none for a file of floats.

    MX is a block of 32 under E8M0 scales, NVFP4 one of 16 under E4M3 scales that are dequantised
    themselves, both along what a product reduces. Values that a file holds in MX stay what they are
    in the format named: E4M3, whose largest number is less than twice the power of two below, keeps
    them under the least scale that saturates nothing. Integers under a scale for the whole tensor
    or a channel are ``plain8`` and the like, whose scale is a power of two.

    Raises `WorkloadError`, naming the file, if it cannot be read.
    """
    given = shapes or {}
    values = {name: each for name, each in given.items() if isinstance(each, np.ndarray)}
    sizes = {name: each for name, each in given.items() if name not in values}
    try:
        reading = _Reading(Inference(read_file(Path(path), sizes, values)))
    except WorkloadError as error:
        raise WorkloadError(f"{path}: {error}") from None
    except UnicodeError as error:
        raise WorkloadError(f"{path}: has a name that is no text: {error}") from None
    found = {
        node.name.strip() or node.output[0]: reading.layer(node)
        for node in reading.nodes
        if node.op_type in _LAYERS and is_onnx(node)
    }
    floats = set(_FLOATS.values())
    if all(name in floats for stored in found.values() for name in stored.names):
        return {}
    return found


class _Reading:
    """A graph, and who makes and who reads its tensors."""

    def __init__(self, known: Inference) -> None:
        self.nodes, self._types, self._dims = known.nodes, known.types, known.dims
        self._constants = known.constants
        self._makers = {name: node for node in self.nodes for name in node.output if name}
        self._readers: dict[str, list[onnx.NodeProto]] = {}
        for node in self.nodes:
            for name in node.input:
                self._readers.setdefault(name, []).append(node)

    def layer(self, node: onnx.NodeProto) -> Stored:
        """What a product's tensors are stored in."""
        first, second = (self._source(node.input[n], self._reduced(node, n)) for n in (0, 1))
        if node.input[0] in self._constants and node.input[1] not in self._constants:
            first, second = second, first
        return Stored(first, second, self._target(node.output[0]))

    def _reduced(self, node: onnx.NodeProto, place: int) -> int | None:
        """The axis of an operand that a product goes through; of W of a Conv, input channels."""
        rank = self._rank(node.input[place])
        if node.op_type == "Conv":
            return 1
        if node.op_type == "ConvTranspose":
            return 1 - place
        flipped = attribute(node, ("transA", "transB")[place], 0) if node.op_type == "Gemm" else 0
        return rank - 1 if (place == 0) != bool(flipped) else rank - 2

    def _source(self, name: str, reduced: int | None) -> str | None:
        """What a tensor that is read is stored in."""
        permuted = False
        while (maker := self._makers.get(name)) is not None and maker.op_type in _KEEPS:
            permuted = permuted or maker.op_type not in ("Cast", "Clip", "Identity", "Relu")
            name = maker.input[0]
        if maker is None or maker.op_type != "DequantizeLinear":
            return _FLOATS.get(self._type(name))
        return self._dequantised(maker, None if permuted else reduced)

    def _target(self, name: str) -> str | None:
        """What a result is quantised to behind sums and activations, or its own type."""
        names, seen = [name], {name}
        while names:
            for reader in self._readers.get(names.pop(), ()):
                if reader.op_type == "QuantizeLinear":
                    quantised = self._readers.get(reader.output[0], ())
                    return next(
                        (self._dequantised(own, None) for own in quantised
                         if own.op_type == "DequantizeLinear"),
                        _INTEGERS.get(self._type(reader.output[0])),
                    )  # fmt: skip
                if reader.op_type in _ON_THE_WAY and reader.output[0] not in seen:
                    seen.add(reader.output[0])
                    names.append(reader.output[0])
        return _FLOATS.get(self._type(name))

    def _dequantised(self, node: onnx.NodeProto, reduced: int | None) -> str | None:
        """The format of what DequantizeLinear reads.

        reduced: the axis that blocks must lie along; None: any
        """
        values, scale = self._type(node.input[0]), node.input[1]
        block = attribute(node, "block_size", 0)
        if not block:
            return _INTEGERS.get(values)
        axis = attribute(node, "axis", 1) % max(self._rank(node.input[0]), 1)
        if reduced is not None and axis != reduced:
            return None
        if block == 32 and self._type(scale) == _T.FLOAT8E8M0:
            return _MX.get(values)
        maker = self._makers.get(scale)
        if (
            block == 16
            and values == _T.FLOAT4E2M1
            and maker is not None
            and maker.op_type == "DequantizeLinear"
            and self._type(maker.input[0]) == _T.FLOAT8E4M3FN
        ):
            return "nvfp4"
        return None

    def _rank(self, name: str) -> int:
        return len(self._dims[name]) if name in self._dims else 0

    def _type(self, name: str) -> int:
        known = self._types.get(name)
        return known.tensor_type.elem_type if known is not None else 0
