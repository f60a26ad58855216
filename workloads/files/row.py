"""One node as a row of a file: text under fixed keys, shared by YAML and CSV, and back.

Sizes bear the names of `ConvLayer`: K and C are per group, R x S is the window, a pooling's too.
What follows from the nodes above may be left out, and must agree where it is given.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import cast

from bfpsim.wording import hint
from bfpsim.workloads.builder import NetworkBuilder
from bfpsim.workloads.files.text import quote
from bfpsim.workloads.layer import ConvLayer, Pair, Shape, WorkloadError, check_name
from bfpsim.workloads.network import Network
from bfpsim.workloads.node import LAYER_OPS, OPS, Node, Op, Pool

Cell = str | tuple[str, ...]
"""What a file holds under a key: text, or a list of texts."""
Value = str | int | bool | list[int] | list[str]
"""What is written under a key."""

_MOST_NOTES = 20  # faults of a file that stand below the first
_FOLLOWS = ("N", "C", "P", "Q", "H", "W")  # from a layer's input
_SIZES = ("N", "G", "K", "C", "P", "Q", "R", "S", "H", "W")
_WINDOW = ("stride", "padding", "dilation")
_OWN_KEYS: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(LAYER_OPS, (*_SIZES, *_WINDOW)),
    "matmul": (*_SIZES, *_WINDOW, "repeats"),
    "input": ("shape",),
    "maxpool": ("R", "S", "stride", "padding", "ceil"),
    "host": ("shape", "function", "macs"),
}

KEYS = (
    *("name", "op", "inputs", "shape", *_SIZES, *_WINDOW),
    *("repeats", "ceil", "function", "macs", "unverified"),
)
"""Every key, in the order in which they are written."""


@dataclass(frozen=True, slots=True)
class Row:
    """One node as ``file`` spells it: ``cells`` by key, and the ``lines`` on which keys stand.

    A key that the file leaves out is in neither.
    """

    file: str
    line: int
    cells: Mapping[str, Cell]
    lines: Mapping[str, int]

    def refused(self, key: str, allowed: str) -> WorkloadError:
        """Return the error of a value that is wrong or missing: where, what, what is allowed."""
        value = self.cells.get(key)
        shown = list(value) if isinstance(value, tuple) else value
        wrong = f"{key} is missing" if value is None else f"{key}: {quote(shown)} is refused"
        return WorkloadError(f"{self._place(key)}: {wrong}; allowed: {allowed}")

    @contextmanager
    def located(self) -> Iterator[None]:
        """Say of which file and line the errors of layers and shapes are."""
        try:
            yield
        except WorkloadError as error:
            raise WorkloadError(f"{self.file}:{self.line}: {error}") from None

    def check_keys(self, op: str) -> None:
        """Refuse what is no key of ``op``."""
        allowed = ("name", "op", "inputs", *_OWN_KEYS.get(op, ()), "unverified")
        for key in self.cells:
            if key not in allowed:
                raise WorkloadError(
                    f"{self._place(key)}: key {quote(key)} is refused{hint(key, allowed)}; "
                    f"allowed for {op}: {', '.join(allowed)}"
                )

    def text(self, key: str) -> str:
        """Return text, empty where it is left out."""
        value = self.cells.get(key, "")
        if isinstance(value, tuple):
            raise self.refused(key, "one text")
        return value

    def names(self, key: str) -> tuple[str, ...]:
        """Return a list of names; a single one may stand alone."""
        value = self.cells.get(key, ())
        return value if isinstance(value, tuple) else (value,)

    def number(self, key: str, default: int | None = None, least: int = 1) -> int:
        """Return a whole number from ``least``; it must be there if there is no ``default``."""
        return self.numbers(key, (1,), None if default is None else (default,), least)[0]

    def numbers(
        self, key: str, counts: tuple[int, ...], default: tuple[int, ...] | None, least: int
    ) -> tuple[int, ...]:
        """Return whole numbers from ``least``, as many as one of ``counts``: a list, or 1x2x3."""
        if key not in self.cells and default is not None:
            return default
        value = self.cells.get(key, ())
        parts = value if isinstance(value, tuple) else value.split("x")
        numbers = tuple(int(part) for part in map(str.strip, parts) if _whole(part))
        if len(numbers) != len(parts) or len(parts) not in counts or min(numbers) < least:
            many = " or ".join(map(str, counts))
            several = "a whole number" if counts == (1,) else f"{many} whole numbers, each"
            raise self.refused(key, f"{several} from {least}")
        return numbers

    def flag(self, key: str) -> bool:
        """Return whether the text is ``true``; left out is false."""
        text = self.text(key).lower() if key in self.cells else "false"
        if text not in ("true", "false"):
            raise self.refused(key, "true or false")
        return text == "true"

    def _place(self, key: str) -> str:
        name = self.cells.get("name", "")
        return f"{self.file}:{self.lines.get(key, self.line)}: node {quote(name)}"


def network_of(name: str, rows: Sequence[Row]) -> Network:
    """Return the network of these rows, at least one, each of which reads only rows above it.

    Raises `WorkloadError`, naming the file, for the name, and with the line for the first row that
    makes no node; its notes are the other rows that make none, but for those that read such a node.
    """
    try:
        check_name("network", name)
    except WorkloadError as error:
        raise WorkloadError(f"{rows[0].file}: {error}") from None
    build = NetworkBuilder(name)
    faults: list[WorkloadError] = []
    lost = set[str]()  # nodes that are wrong, or read a wrong one: nothing is known of those
    for row in rows:
        try:
            if lost.intersection(row.names("inputs")):
                lost.add(row.text("name"))
                continue
            node = _node(row, build.shapes)
            with row.located():
                build.append(node)
        except WorkloadError as fault:
            faults.append(fault)
            own = row.cells.get("name")
            lost.update(own if isinstance(own, tuple) else [own or ""])
    if faults:
        for other in faults[1 : 1 + _MOST_NOTES]:
            faults[0].add_note(str(other))
        raise faults[0]
    return build.network()


def all_values(node: Node) -> dict[str, Value]:
    """Return all that there is to say of a node, under the keys of its operation."""
    values: dict[str, Value] = {"name": node.name, "op": node.op, "inputs": list(node.inputs)}
    for shape in (node.input_shape, node.output_shape):
        if shape is not None:
            values["shape"] = list(shape)
    if (layer := node.layer) is not None:
        values |= {dim: int(getattr(layer, dim)) for dim in _SIZES}
        values["stride"], values["dilation"] = _shortest(layer.strides), _shortest(layer.dilations)
        values["padding"] = _shortest(layer.paddings)
    if node.op == "matmul":
        values["repeats"] = node.repeats
    if (pool := node.pool) is not None:
        values["R"], values["S"] = pool.kernel
        values["stride"], values["padding"] = _shortest(pool.stride), _shortest(pool.padding)
        values["ceil"] = pool.ceil
    if node.op == "host":
        values["function"], values["macs"] = node.function, node.host_macs
    values["unverified"] = node.unverified
    return {key: values[key] for key in KEYS if key in values}


def brief_values(node: Node, shapes: Mapping[str, Shape]) -> dict[str, Value]:
    """Return `all_values` but for what reading fills in; ``shapes`` are those of its inputs."""
    given: dict[str, Value] = {"inputs": [], "unverified": ""}
    if node.layer is not None:
        given |= {"G": 1, "R": 1, "S": 1, "stride": 1, "padding": 0, "dilation": 1}
        given |= {dim: int(getattr(node.layer, dim)) for dim in _FOLLOWS}
    if node.layer is not None and node.op == "matmul":
        samples, rows, columns, channels = shapes[node.inputs[0]]
        given |= {"N": 1, "P": rows, "Q": columns, "repeats": samples}
        given["C"] = max(1, channels * samples // (node.layer.G * node.repeats))
    if node.pool is not None:
        given |= {"padding": 0, "ceil": False}
    if node.op == "host":
        given |= {"macs": 0}
        if node.inputs:
            given["shape"] = list(shapes[node.inputs[0]])
    values = all_values(node)
    return {key: value for key, value in values.items() if given.get(key) != value}


def _node(row: Row, shapes: Mapping[str, Shape]) -> Node:
    op = row.text("op")
    if op not in OPS:
        raise row.refused("op", f"one of {', '.join(OPS)}")
    row.check_keys(op)
    name, inputs = row.text("name"), row.names("inputs")
    if not name.strip():
        raise row.refused("name", "text that is not empty")
    for source in inputs:
        if source not in shapes:
            near = hint(source, shapes)
            raise row.refused("inputs", f"names of nodes above this one{near}")
    layer, pool, shape, repeats = None, None, None, 1
    if op in LAYER_OPS:
        if not inputs:
            raise row.refused("inputs", "the name of a node above this one")
        repeats = row.number("repeats", shapes[inputs[0]][0] if op == "matmul" else 1)
        layer = _layer(row, op, name, shapes[inputs[0]], repeats)
    elif op == "maxpool":
        kernel, padding = (row.number("R"), row.number("S")), _pair(row, "padding", (0, 0), 0)
        pool = Pool(kernel, _pair(row, "stride", None, 1), padding, row.flag("ceil"))
    elif op in ("input", "host"):
        default = shapes[inputs[0]] if op == "host" and inputs else None
        shape = cast(Shape, row.numbers("shape", (4,), default, 1))
    return Node(
        name,
        cast(Op, op),
        inputs,
        input_shape=shape if op == "input" else None,
        layer=layer,
        pool=pool,
        function=row.text("function"),
        output_shape=shape if op == "host" else None,
        host_macs=row.number("macs", 0, least=0),
        unverified=row.text("unverified"),
        repeats=repeats,
    )


def _layer(row: Row, op: str, name: str, source: Shape, repeats: int) -> ConvLayer:
    """Return the layer that a row spells on an input of shape ``source``."""
    K, G, R, S = row.number("K"), row.number("G", 1), row.number("R", 1), row.number("S", 1)
    stride, dilation = _pair(row, "stride", (1, 1), 1), _pair(row, "dilation", (1, 1), 1)
    sides = row.numbers("padding", (1, 2, 4), (0,), 0)
    padding = cast(Shape, sides * 4 if len(sides) == 1 else sides)
    if op == "matmul":
        # Its input may be shaped otherwise: only the number of elements counts.
        samples, rows, columns, channels = source
        C = row.number("C", max(1, channels * samples // (G * repeats)))
        N = row.number("N", 1)
        P, Q = row.number("P", rows), row.number("Q", columns)
        H, W = row.number("H", P), row.number("W", Q)
        with row.located():
            return ConvLayer(name, K, C, P, Q, R, S, N, G, stride, padding, dilation, H, W)
    with row.located():
        layer = ConvLayer.on_input(
            name,
            source,
            K * G,
            (R, S),
            stride=stride,
            padding=padding,
            dilation=dilation,
            groups=G,
        )
    for dim in _FOLLOWS:
        follows = int(getattr(layer, dim))
        if row.number(dim, follows) != follows:
            raise row.refused(dim, f"{follows}, which follows from its input, or nothing")
    return layer


def _pair(row: Row, key: str, default: Pair | None, least: int) -> Pair:
    numbers = row.numbers(key, (1, 2), default, least)
    return numbers[0], numbers[-1]


def _shortest(numbers: tuple[int, ...]) -> int | list[int]:
    """One number where all are equal, two where (top, bottom) and (left, right) are."""
    if len(set(numbers)) == 1:
        return numbers[0]
    if len(numbers) == 4 and numbers[0] == numbers[1] and numbers[2] == numbers[3]:
        return [numbers[0], numbers[2]]
    return list(numbers)


def _whole(part: str) -> bool:
    return re.fullmatch(r"[0-9]{1,18}", part.strip()) is not None
