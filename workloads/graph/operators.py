"""ONNX operators as onnx's reference runs them, but for their products and what it has wrong.

Products within other operators (bodies of If, Loop and Scan, recurrent operators, functions) are
multiplied as those of the graph are.
"""

from __future__ import annotations

import math
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun
from onnx.reference.ops import (
    op_conv,
    op_conv_transpose,
    op_einsum,
    op_gemm,
    op_loop,
    op_matmul,
    op_scan,
    op_scatter_elements,
)
from onnx.reference.ops.op_batch_normalization import (
    BatchNormalization_6,
    BatchNormalization_9,
    BatchNormalization_14,
)
from onnx.reference.ops.op_max_pool import MaxPool as ReferenceMaxPool

from bfpsim.workloads.graph.graph import Compute
from bfpsim.workloads.graph.product import Letters, Multiply, Phased, Windows, contraction, is_float
from bfpsim.workloads.graph.recurrent import Recurrent
from bfpsim.workloads.layer import ConvLayer, span
from bfpsim.workloads.transposed import phases

_erf_of = np.vectorize(math.erf, otypes=[np.float64])
# The reference knows no older ones; for int8 and uint8 they do the same.
_OLDEST_QUANTISERS = 19

OVERRIDDEN: Mapping[str, str] = {
    "BatchNormalization": "the reference mixes in the batch's own statistics at opsets 7 to 13",
    "Conv": "a product",
    "ConvTranspose": "a product; the reference splits groups wrongly",
    "Einsum": "a product, where it is one of two matrices",
    "Erf": "the reference rounds to float32",
    "GRU": "products within; the reference ignores sequence_lens, activations and clip",
    "Gemm": "a product",
    "GlobalMaxPool": "the reference reduces wrong axes at ranks other than 4",
    "LSTM": "products within; the reference ignores sequence_lens, activations, clip, input_forget",
    "Loop": "the reference joins what it gathers, and should stack it",
    "MatMul": "a product",
    "MaxPool": "the reference walks through windows one by one: hundreds of times slower",
    "Scan": "the reference scans first axes alone, and none backwards",
    "Scatter": "the reference has it under its later name alone, ScatterElements",
    "RNN": "products within; the reference ignores sequence_lens and clip",
}
"""Operators that are not left to onnx's reference, and why."""


@dataclass(frozen=True, eq=False)
class OnnxOperation:
    """An ONNX operator, with the tensors that it reads, those of its bodies included, in order.

    opsets: domain -> version
    constants: names of tensors that depend on no input
    functions: of the file, which the operator may call
    """

    node: onnx.NodeProto
    reads: tuple[str, ...]
    opsets: Mapping[str, int]
    constants: Container[str] = ()
    _bound: dict[Multiply, Compute] = field(default_factory=dict, repr=False)

    def bind(self, multiply: Multiply) -> Compute:
        """Return what computes the operator's outputs, those left out not among them."""
        if multiply not in self._bound:
            self._bound.clear()  # one at a time: a run uses one
            self._bound[multiply] = self._compute(multiply)
        return self._bound[multiply]

    @property
    def _special(self) -> bool:
        """Whether the operator is overridden, or others in its bodies may be."""
        bodies = any(own.HasField("g") or own.graphs for own in self.node.attribute)
        return bodies or self.node.op_type in OVERRIDDEN

    def _compute(self, multiply: Multiply) -> Compute:
        evaluator: Any = None
        wanted = [name for name in self.node.output if name]
        places = [place for place, name in enumerate(self.node.output) if name]

        def compute(*values: Any) -> Sequence[Any]:
            nonlocal evaluator
            given = dict(zip(self.reads, values, strict=True))
            present = {name: value for name, value in given.items() if value is not None}
            if evaluator is None:
                graph = helper.make_graph(
                    [self.node],
                    "operator",
                    [_declared(name, value) for name, value in present.items()],
                    [onnx.ValueInfoProto(name=name) for name in wanted],
                )
                evaluator = ReferenceEvaluator(
                    graph,
                    opsets=known_opsets(self.node, self.opsets),
                    new_ops=operators(multiply, self.constants) if self._special else None,
                )
            with np.errstate(all="ignore"):
                made = evaluator.run(None, present)
            outputs: list[Any] = [None] * len(self.node.output)
            for place, value in zip(places, made, strict=True):
                outputs[place] = value
            return outputs

        return compute


def known_opsets(node: onnx.NodeProto, opsets: Mapping[str, int]) -> dict[str, int]:
    """Return the versions under which the reference knows an operator that computes the same."""
    known = dict(opsets)
    if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
        known[""] = max(known[""], _OLDEST_QUANTISERS)
    return known


def _declared(name: str, value: Any) -> onnx.ValueInfoProto:
    if not isinstance(value, np.ndarray):
        return onnx.ValueInfoProto(name=name)
    try:
        kind = helper.np_dtype_to_tensor_dtype(value.dtype)
    except (KeyError, ValueError):
        return onnx.ValueInfoProto(name=name)
    return helper.make_tensor_value_info(name, kind, value.shape)


def operators(multiply: Multiply, constants: Container[str]) -> list[type[OpRun]]:
    """Return the implementations that take the place of the reference's."""
    made = [_batch_normalization(), _erf(), _global_max_pool(), _loop(), _max_pool(), _scan()]
    made.append(type("Scatter", (op_scatter_elements.ScatterElements,), {"op_domain": ""}))
    made += [_conv(multiply), _conv_transpose(multiply), _gemm(multiply, constants)]
    made += [_matmul(multiply, constants), _einsum(multiply, constants)]
    made += [_recurrent(kind, multiply) for kind in ("RNN", "GRU", "LSTM")]
    return made


# --- products ------------------------------------------------------------------------------------


def _title(operator: OpRun) -> str:
    node = operator.onnx_node
    return str(node.name or next(filter(None, node.output)))


def _product(
    operator: OpRun,
    letters: Letters,
    left: NDArray[Any],
    right: NDArray[Any],
    multiply: Multiply,
    constants: Container[str],
) -> NDArray[Any] | None:
    """Return a product; None for one that is not of floats, which is the reference's."""
    if not is_float(left.dtype) or not (left.size and right.size):
        return None
    node = operator.onnx_node
    stored = node.input[1] in constants
    made = contraction(_title(operator), letters, left.shape, right.shape, stored=stored)
    return made.compute([left, right], multiply)


def _matmul(multiply: Multiply, constants: Container[str]) -> type[OpRun]:
    class MatMul(op_matmul.MatMul):
        op_domain = ""

        def _run(self, a: Any, b: Any) -> tuple[Any, ...]:
            out = _product(self, Letters.matmul(a.shape, b.shape), a, b, multiply, constants)
            return super()._run(a, b) if out is None else (out,)  # type: ignore[no-untyped-call]

    return MatMul


def _einsum(multiply: Multiply, constants: Container[str]) -> type[OpRun]:
    class Einsum(op_einsum.Einsum):
        op_domain = ""

        def _run(self, *args: Any, equation: str | None = None) -> tuple[Any, ...]:
            letters, out = Letters.einsum(equation or "") if len(args) == 2 else None, None
            if letters is not None and letters.contracted:
                out = _product(self, letters, args[0], args[1], multiply, constants)
            return super()._run(*args, equation=equation) if out is None else (out,)  # type: ignore[no-untyped-call]

    return Einsum


def _gemm(multiply: Multiply, constants: Container[str]) -> type[OpRun]:
    class Gemm(op_gemm.Gemm_7):
        op_domain = ""

        def _run(
            self, a: Any, b: Any, c: Any = None, alpha: Any = None, beta: Any = None,
            transA: Any = None, transB: Any = None,
        ) -> tuple[Any, ...]:  # fmt: skip
            letters = Letters("km" if transA else "mk", "nk" if transB else "kn", "mn")
            out = _product(self, letters, a, b, multiply, constants)
            if out is None:
                return super()._run(a, b, c, alpha, beta, transA, transB)  # type: ignore[no-any-return, no-untyped-call]
            out = out if alpha == 1 else out * np.asarray(alpha, a.dtype)
            if c is not None and beta != 0:
                out = out + (c if beta == 1 else c * np.asarray(beta, a.dtype))
            return (out,)

    return Gemm


def _conv(multiply: Multiply) -> type[OpRun]:
    class Conv(op_conv.Conv):
        op_domain = ""

        def _run(
            self, X: Any, W: Any, B: Any = None, auto_pad: Any = None, dilations: Any = None,
            group: Any = None, kernel_shape: Any = None, pads: Any = None, strides: Any = None,
        ) -> tuple[Any, ...]:  # fmt: skip
            axes = X.ndim - 2
            if axes not in (1, 2) or not is_float(X.dtype) or 0 in (*X.shape, *W.shape):
                return super()._run(  # type: ignore[no-any-return, no-untyped-call]
                    X, W, B, auto_pad, dilations, group, kernel_shape, pads, strides
                )
            steps, apart = list(strides or [1] * axes), list(dilations or [1] * axes)
            sides = _sides(X.shape[2:], W.shape[2:], steps, apart, pads, auto_pad)
            wide = [1] * (2 - axes)
            layer = ConvLayer.on_input(
                _title(self),
                (len(X), *wide, *X.shape[2:], X.shape[1]),
                len(W),
                (*wide, *W.shape[2:]),
                stride=(*wide, *steps),
                padding=(*[0, 0] * (2 - axes), *(int(x) for side in sides for x in side)),  # type: ignore[arg-type]
                dilation=(*wide, *apart),
                groups=int(group or 1),
            )
            values = [X, W, *([] if B is None else [B])]
            return (Windows(layer, None).compute(values, multiply),)

    return Conv


def _conv_transpose(multiply: Multiply) -> type[OpRun]:
    class ConvTranspose(op_conv_transpose.ConvTranspose):
        op_domain = ""

        def _run(
            self, X: Any, W: Any, B: Any = None, auto_pad: Any = None, dilations: Any = None,
            group: Any = None, kernel_shape: Any = None, output_padding: Any = None,
            output_shape: Any = None, pads: Any = None, strides: Any = None,
        ) -> tuple[Any, ...]:  # fmt: skip
            axes, groups = X.ndim - 2, int(group or 1)
            plain = auto_pad in (None, "NOTSET") and output_shape is None
            plain = plain and {*(dilations or [1])} == {1} and is_float(X.dtype)
            if plain and axes in (1, 2) and X.size and W.size:
                wide = [1] * (2 - axes)
                sides = _sides(X.shape[2:], W.shape[2:], strides or (), dilations or (), pads, None)
                steps = (*wide, *(strides or [1] * axes))
                cut: Any = (*[0, 0] * (2 - axes), *(x for side in sides for x in side))
                extra = (*[0] * (2 - axes), *(output_padding or [0] * axes))
                parts, shape = phases(
                    _title(self),
                    (len(X), *wide, *X.shape[2:], X.shape[1]),
                    groups * W.shape[1],
                    (*wide, *W.shape[2:]),
                    steps,
                    cut,
                    extra,
                    groups,
                )
                run = tuple((part, part.layer, None) for part in parts)
                product = Phased(shape, run, None, None, steps, cut, extra, groups)
                return (product.compute([X, W, B], multiply),)
            rest = (
                auto_pad,
                dilations,
                1,
                kernel_shape,
                output_padding,
                output_shape,
                pads,
                strides,
            )
            made = [
                super(ConvTranspose, self)._run(x, w, b, *rest)[0]  # type: ignore[no-untyped-call]
                for x, w, b in zip(
                    np.split(X, groups, 1),
                    np.split(W, groups),
                    [None] * groups if B is None else np.split(B, groups),
                    strict=True,
                )
            ]
            return (np.concatenate(made, 1),)

    return ConvTranspose


def _recurrent(kind: Any, multiply: Multiply) -> type[OpRun]:
    def run(self: Any, *values: Any, **attributes: Any) -> tuple[Any, ...]:
        cell = recurrent_cell(kind, attributes)
        title = _title(self)

        def product(name: str, rows: Any, matrix: Any) -> Any:
            letters = Letters("mk", "nk", "mn")
            made = contraction(f"{title}.{name}", letters, rows.shape, matrix.shape, stored=True)
            return made.compute([rows, matrix], multiply)

        outputs = cell.run(np, values, product)
        return tuple(
            np.ascontiguousarray(each, values[0].dtype)
            for each in outputs[: len(self.onnx_node.output)]
        )

    return type(kind, (OpRun,), {"op_domain": "", "_run": run})


def recurrent_cell(kind: Any, attributes: Mapping[str, Any]) -> Recurrent:
    """Return a recurrent operator of its attributes."""
    clip = attributes.get("clip")
    return Recurrent(
        kind,
        attributes.get("direction") or "forward",
        tuple(attributes.get("activations") or ()),
        tuple(attributes.get("activation_alpha") or ()),
        tuple(attributes.get("activation_beta") or ()),
        None if clip is None else float(clip),
        bool(attributes.get("input_forget")),
        bool(attributes.get("linear_before_reset")),
        bool(attributes.get("layout")),
    )


# --- what the reference has wrong ----------------------------------------------------------------


def _batch_normalization() -> type[OpRun]:
    def run(self: Any, x: Any, scale: Any, bias: Any, mean: Any, var: Any, **own: Any) -> Any:
        version = self.run_params["opsets"][""]
        training = own.get("training_mode") if version >= 14 else version < 7 and not own["is_test"]
        if training or len(self.onnx_node.output) > 1:
            kind: Any = BatchNormalization_14 if version >= 14 else BatchNormalization_9
            kind = BatchNormalization_6 if version < 7 else kind
            return kind._run(self, x, scale, bias, mean, var, **own)
        shape = (-1, *[1] * (x.ndim - 2))
        scale, bias, mean, var = (each.reshape(shape) for each in (scale, bias, mean, var))
        out = scale * (x - mean) / np.sqrt(var + own["epsilon"]) + bias
        return (out.astype(x.dtype),)

    return type("BatchNormalization", (OpRun,), {"op_domain": "", "_run": run})


def _erf() -> type[OpRun]:
    def run(self: Any, x: Any) -> tuple[Any, ...]:
        return (_erf_of(x.astype(np.float64)).astype(x.dtype),)

    return type("Erf", (OpRun,), {"op_domain": "", "_run": run})


def _global_max_pool() -> type[OpRun]:
    def run(self: Any, x: Any) -> tuple[Any, ...]:
        return (x.max(axis=tuple(range(2, x.ndim)), keepdims=True),)

    return type("GlobalMaxPool", (OpRun,), {"op_domain": "", "_run": run})


def _loop() -> type[OpRun]:
    class Loop(op_loop.Loop):
        body: Any
        _run_body: Any
        op_domain = ""

        def _run(
            self, most: Any, goes_on: Any, *carried: Any, context: Any = None, body: Any = None,
            attributes: Any = None, bindings: Any = None,
        ) -> tuple[Any, ...]:  # fmt: skip
            names, steps = self.body.input_names, 0
            scanned: list[list[Any]] = [[] for _ in self.body.output_names[1 + len(carried) :]]
            on = goes_on is None or bool(goes_on)
            while on and (most is None or steps < most):
                own = (np.array(steps, np.int64), np.array(on), *carried)
                feeds = {**(context or {}), **dict(zip(names, own, strict=True))}
                on_, *made = self._run_body(feeds, attributes=attributes, bindings=bindings)
                on, carried = bool(on_), (*made[: len(carried)],)
                for values, value in zip(scanned, made[len(carried) :], strict=True):
                    values.append(value)
                steps += 1
            return (*carried, *(np.stack(each) if each else np.empty(0) for each in scanned))

    return Loop


def _scan() -> type[OpRun]:
    class Scan(op_scan.Scan):
        body: Any
        _run_body: Any
        op_domain = ""

        def _run(
            self, *args: Any, context: Any = None, num_scan_inputs: int = 0,
            scan_input_axes: Any = None, scan_input_directions: Any = None,
            scan_output_axes: Any = None, scan_output_directions: Any = None,
            attributes: Any = None, bindings: Any = None, **_: Any,
        ) -> tuple[Any, ...]:  # fmt: skip
            count = len(args) - num_scan_inputs
            states, names = args[:count], self.body.input_names
            axes, back = (
                list(each or [0] * num_scan_inputs)
                for each in (scan_input_axes, scan_input_directions)
            )
            parts = [
                np.moveaxis(value, axis, 0)[:: -1 if turned else 1]
                for value, axis, turned in zip(args[count:], axes, back, strict=True)
            ]
            scanned: list[list[Any]] = [[] for _ in self.body.output_names[count:]]
            for own in zip(*parts, strict=True):
                feeds = {**(context or {}), **dict(zip(names, (*states, *own), strict=True))}
                made = self._run_body(feeds, attributes=attributes, bindings=bindings)
                states = (*made[:count],)
                for values, value in zip(scanned, made[count:], strict=True):
                    values.append(value)
            places, turns = (
                list(each or [0] * len(scanned))
                for each in (scan_output_axes, scan_output_directions)
            )
            outputs = []
            for values, place, turned in zip(scanned, places, turns, strict=True):
                outputs.append(np.stack(values[:: -1 if turned else 1], place))
            return (*states, *outputs)

    return Scan


def _max_pool() -> type[OpRun]:
    class MaxPool(ReferenceMaxPool):
        op_domain = ""

        def _run(  # type: ignore[override]
            self, x: Any, auto_pad: Any = None, ceil_mode: Any = None, dilations: Any = None,
            kernel_shape: Any = None, pads: Any = None, storage_order: Any = None,
            strides: Any = None,
        ) -> tuple[Any, ...]:  # fmt: skip
            if len(self.onnx_node.output) > 1:
                return super()._run(  # type: ignore[no-any-return, no-untyped-call]
                    x, auto_pad, ceil_mode, dilations, kernel_shape, pads, storage_order, strides
                )
            return (max_pool(x, kernel_shape, strides, dilations, pads, auto_pad, ceil_mode),)

    return MaxPool


def max_pool(
    x: NDArray[Any],
    kernel: Sequence[int],
    strides: Sequence[int] | None = None,
    dilations: Sequence[int] | None = None,
    pads: Sequence[int] | None = None,
    auto_pad: str | None = None,
    ceil: bool | int | None = False,
) -> NDArray[Any]:
    """Return the maxima over windows of (N, C, ...), as ONNX's MaxPool; padding never wins."""
    axes = len(kernel)
    steps, apart = list(strides or [1] * axes), list(dilations or [1] * axes)
    sides = _sides(x.shape[2:], kernel, steps, apart, pads, auto_pad)
    counts, ends = [], []
    for extent, taps, step, gap, (before, after) in zip(
        x.shape[2:], kernel, steps, apart, sides, strict=True
    ):
        length = extent + before + after - span(taps, gap)
        count = (-(-length // step) if ceil else length // step) + 1
        if ceil and (count - 1) * step >= extent + before:
            count -= 1  # a last window that would begin in the padding behind
        counts.append(count)
        ends.append(max(0, (count - 1) * step + span(taps, gap) - extent - before))
    least = -np.inf if is_float(x.dtype) else np.iinfo(x.dtype).min
    around = [(0, 0), (0, 0), *((s[0], end) for s, end in zip(sides, ends, strict=True))]
    padded = np.pad(x, around, constant_values=least)
    place = tuple(range(2, 2 + axes))
    spans = tuple(span(taps, gap) for taps, gap in zip(kernel, apart, strict=True))
    windows = np.lib.stride_tricks.sliding_window_view(padded, spans, axis=place)
    taken = tuple(slice(0, (c - 1) * s + 1, s) for c, s in zip(counts, steps, strict=True))
    gaps = tuple(slice(None, None, gap) for gap in apart)
    whole = windows[(slice(None), slice(None), *taken, *gaps)]
    pooled: NDArray[Any] = whole.max(axis=tuple(range(-axes, 0)))
    return pooled


def _sides(
    extents: Sequence[int],
    kernel: Sequence[int],
    strides: Sequence[int],
    dilations: Sequence[int],
    pads: Sequence[int] | None,
    auto: str | None,
) -> list[tuple[int, int]]:
    """Return the padding (before, after) of each axis of a window."""
    axes = len(kernel)
    if auto in (None, "", "NOTSET"):
        given = list(pads or [0] * 2 * axes)
        return [(int(given[axis]), int(given[axis + axes])) for axis in range(axes)]
    if auto == "VALID":
        return [(0, 0)] * axes
    sides = []
    for extent, taps, step, gap in zip(extents, kernel, strides, dilations, strict=True):
        total = max(0, (math.ceil(extent / step) - 1) * step + span(taps, gap) - extent)
        less, more = total // 2, total - total // 2
        sides.append((less, more) if auto == "SAME_UPPER" else (more, less))
    return sides
