"""A network as a CSV file: one row per node, every size written out, for spreadsheets.

Lists of numbers are joined by ``x`` (1x224x224x3), the inputs' names by ``;``. What follows from
other cells may be left blank. A text that a spreadsheet would take for a formula has ``'`` before
it.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from pathlib import Path

from bfpsim.workloads.files.row import KEYS, Cell, Row, Value, all_values, network_of
from bfpsim.workloads.files.table import inert, original
from bfpsim.workloads.files.text import quote, read_text, write_text
from bfpsim.workloads.layer import WorkloadError
from bfpsim.workloads.network import Network

HEADER = ("network", *KEYS)
"""The columns, in the order in which they are written."""
_NEEDED = ("network", "name", "op", "inputs")
_TEXTS = ("network", "name", "inputs", "function", "unverified")  # blanks around them count


def write_csv(network: Network, path: str | Path) -> None:
    """Write a network so that `read_csv` returns an equal one.

    Equal networks make equal bytes. Raises `WorkloadError` if the file cannot be written.
    """
    lines = [_line(HEADER, ",")]
    for node in network.nodes:
        values = all_values(node)
        cells = (_cell(key, values.get(key, "")) for key in KEYS)
        lines.append(_line([inert(network.name), *map(inert, cells)], ","))
    write_text(path, "".join(f"{line}\n" for line in lines))


def read_csv(path: str | Path) -> Network:
    """Return the network of a CSV file; its columns may stand in any order.

    Raises `WorkloadError`: file, line, node and column, what is wrong, and what is allowed.
    """
    file, text = str(path), read_text(path)
    if not text.endswith(("\n", "\r")):
        raise WorkloadError(
            f"{file}: the last line does not end, the file may be cut off; allowed: a line end"
        )
    records = list(_records(file, text))
    _, header = records[0]
    _check_header(file, header)
    rows, network = [], ""
    for line, record in records[1:]:
        if len(record) != len(header):
            raise WorkloadError(
                f"{file}:{line}: {len(record)} cells; allowed: {len(header)}, as the header has"
            )
        texts = {
            key: original(text) if key in _TEXTS else text.strip()
            for key, text in zip(header, record, strict=True)
        }
        named = texts.pop("network") or network
        if not named or (network and named != network):
            allowed = repr(network) if network else "the network's name"
            raise WorkloadError(f"{file}:{line}: network: {named!r} is refused; allowed: {allowed}")
        network = named
        cells: dict[str, Cell] = {key: text for key, text in texts.items() if text}
        if "inputs" in cells:
            cells["inputs"] = _names(file, line, texts["inputs"])
        rows.append(Row(file, line, cells, {}))
    if not rows:
        raise WorkloadError(f"{file}: has no node; allowed: a row per node below the header")
    return network_of(network, rows)


def _records(file: str, text: str) -> Iterator[tuple[int, list[str]]]:
    """The rows that are not blank, each with its first line."""
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    line = 1
    while True:
        try:
            record = next(reader, None)
        except csv.Error as error:
            raise WorkloadError(f"{file}:{line}: is not valid CSV: {error}") from None
        if record is None:
            return
        if any(cell.strip() for cell in record):
            yield line, record
        line = reader.line_num + 1


def _check_header(file: str, header: list[str]) -> None:
    for column in header:
        if column not in HEADER:
            raise WorkloadError(
                f"{file}:1: column {quote(column)} is refused; allowed: {', '.join(HEADER)}"
            )
        if header.count(column) > 1:
            raise WorkloadError(f"{file}:1: column {column!r} stands twice; allowed: once")
    for column in _NEEDED:
        if column not in header:
            raise WorkloadError(
                f"{file}:1: column {column!r} is missing; needed: {', '.join(_NEEDED)}"
            )


def _names(file: str, line: int, text: str) -> tuple[str, ...]:
    """The names that are joined by ';', each quoted where it holds one itself."""
    wrong = "more than one line"
    try:
        lines = list(csv.reader(io.StringIO(text, newline=""), delimiter=";", strict=True))
    except csv.Error as error:
        lines, wrong = [], str(error)
    if len(lines) != 1:
        raise WorkloadError(
            f"{file}:{line}: inputs: {quote(text)} is refused: {wrong}; "
            "allowed: names joined by ';'"
        )
    return tuple(lines[0])


def _cell(key: str, value: Value) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return _line(value, ";") if key == "inputs" else "x".join(map(str, value))
    return str(value)


def _line(cells: list[str] | list[int] | tuple[str, ...], delimiter: str) -> str:
    stream = io.StringIO()
    # With this line end the writer quotes both of its characters, so any text comes back whole.
    csv.writer(stream, delimiter=delimiter, lineterminator="\r\n").writerow(cells)
    return stream.getvalue().removesuffix("\r\n")
