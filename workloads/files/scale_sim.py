"""SCALE-Sim's topology files: lists of layers that know no connections.

A file of convolutions has the columns "Layer name, IFMAP Height, IFMAP Width, Filter Height, Filter
Width, Channels, Num Filter, Strides," (or "Stride height, Stride width,") and one of matrix
products "Layer, M, N, K,", each line with a comma at its end. The rules below are those of
SCALE-Sim's ``topology_utils.py``:

- an input map includes its padding, so layers have none; there are ceil((map - filter) / stride) +
  1 outputs along an axis, and a last window that hangs over the edge reads zeros there;
- a layer with ``DP`` in its name is depthwise, with ``Num Filter`` filters for each channel;
- a further column may give a sparsity N:M, of which only 1:1 (dense) is taken, or in a file of
  products a batch, of which only 1 is; other further columns are remarks.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from bfpsim.workloads.builder import NetworkBuilder
from bfpsim.workloads.files.text import quote, read_text
from bfpsim.workloads.layer import ConvLayer, WorkloadError
from bfpsim.workloads.network import Network
from bfpsim.workloads.node import Node, Op

_CONVOLUTIONS = (
    *("layer name", "ifmap height", "ifmap width", "filter height", "filter width"),
    *("channels", "num filter", "strides"),
)
_TWO_STRIDES = (*_CONVOLUTIONS[:-1], "stride height", "stride width")
_PRODUCTS = ("layer", "m", "n", "k")


def is_topology(text: str) -> bool:
    """Return whether a CSV file's text has a header of SCALE-Sim's, right or nearly so."""
    first = text.lstrip().partition("\n")[0]
    return first.partition(",")[0].strip().lower() in (_CONVOLUTIONS[0], _PRODUCTS[0])


def read_scale_sim(path: str | Path) -> Network:
    """Return the layers of a topology file, each reading an input of its own, ``NAME.input``.

    The network bears the file's name. Raises `WorkloadError`: file, line and column, what is wrong,
    and what is allowed.
    """
    rows = list(_rows(read_text(path)))
    line, header = rows[0]
    columns = _columns(f"{path}:{line}", header)
    build = NetworkBuilder(Path(path).stem)
    for line, cells in rows[1:]:
        place = f"{path}:{line}"
        sizes = _sizes(place, columns, cells)
        try:
            for node in _nodes(cells[0], sizes):
                build.append(node)
        except WorkloadError as error:
            raise WorkloadError(f"{place}: {error}") from None
    if not build.shapes:
        raise WorkloadError(f"{path}: has no layer; allowed: a row per layer below the header")
    return build.network()


def _rows(text: str) -> Iterator[tuple[int, list[str]]]:
    for line, row in enumerate(text.splitlines(), start=1):
        cells = [cell.strip() for cell in row.split(",")]
        if any(cells):
            yield line, cells


def _columns(place: str, header: list[str]) -> tuple[str, ...]:
    found = tuple(" ".join(cell.lower().split()) for cell in header)
    for columns in (_CONVOLUTIONS, _TWO_STRIDES, _PRODUCTS):
        if found[: len(columns)] == columns:
            return columns
    raise WorkloadError(
        f"{place}: header {quote(','.join(header))} is refused; allowed: "
        f"{', '.join(_CONVOLUTIONS)} (or {', '.join(_TWO_STRIDES[-2:])}), or "
        f"{', '.join(_PRODUCTS)}"
    )


def _sizes(place: str, columns: tuple[str, ...], cells: list[str]) -> tuple[int, ...]:
    """The numbers behind a layer's name."""
    if len(cells) < len(columns):
        raise WorkloadError(
            f"{place}: {len(cells)} cells; allowed: at least {len(columns)}: {', '.join(columns)}"
        )
    wanted = list(zip(columns[1:], cells[1:], strict=False))
    for column, cell in wanted:
        if not re.fullmatch(r"0{0,99}[1-9][0-9]{0,17}", cell):
            raise WorkloadError(
                f"{place}: {column}: {quote(cell)} is refused; allowed: a whole number from 1"
            )
    for cell in cells[len(columns) :]:
        if re.fullmatch(r"[0-9]+\s*:\s*[0-9]+", cell) and len({*cell.split(":")}) > 1:
            raise WorkloadError(f"{place}: sparsity {quote(cell)} is refused; allowed: 1:1, dense")
    batch = cells[len(columns)] if columns == _PRODUCTS and len(cells) > len(columns) else ""
    if re.fullmatch(r"[0-9]+", batch) and batch.lstrip("0") != "1":
        raise WorkloadError(
            f"{place}: batch {quote(batch)} is refused; allowed: 1, or a row for each"
        )
    return tuple(int(cell) for _, cell in wanted)


def _nodes(name: str, sizes: tuple[int, ...]) -> tuple[Node, Node]:
    """A layer, and the input that it reads."""
    op: Op = "conv"
    if len(sizes) == 3:  # (M, K) x (K, N)
        M, N, K = sizes
        op, layer = "linear", ConvLayer(name, K=N, C=K, P=1, Q=M)
    else:
        H, W, R, S, channels, filters, *strides = sizes
        rows, cols = strides[0], strides[-1]
        if H < R or W < S:
            raise WorkloadError(f"filter of {R} x {S} must fit into the input map of {H} x {W}")
        P, Q = -(-(H - R) // rows) + 1, -(-(W - S) // cols) + 1
        depthwise = "DP" in name
        layer = ConvLayer(
            *(name, filters, 1 if depthwise else channels, P, Q, R, S),
            G=channels if depthwise else 1,
            stride=(rows, cols),
            padding=(0, (P - 1) * rows + R - H, 0, (Q - 1) * cols + S - W),
            H=H,
            W=W,
        )
    source = Node(f"{name}.input", "input", input_shape=layer.input_shape)
    return source, Node(name, op, (source.name,), layer=layer)
