"""Tables as CSV whose cells a spreadsheet shows and never runs."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd

# What a spreadsheet takes for a formula; a number with a sign is none.
_FORMULA = re.compile(r"'*[=+\-@\t\r]")
_NUMBER = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?|[+-]inf")


def inert(text: str) -> str:
    """Return a cell's text with the quote before it that makes a spreadsheet take it for text."""
    if not _FORMULA.match(text) or _NUMBER.fullmatch(text):
        return text
    return f"'{text}"


def original(cell: str) -> str:
    """Return the text of which `inert` made a cell."""
    return cell[1:] if cell.startswith("'") and _FORMULA.match(cell) else cell


def csv_of(frame: pd.DataFrame, header: bool = True) -> str:
    r"""Return a table without its index: '\n' line ends, floats in full precision, texts `inert`.

    Equal tables make equal texts.
    """
    changed = {}
    for place, name in enumerate(frame.columns):
        column = frame.iloc[:, place]
        if column.dtype.kind not in "biuf":
            cells = [inert(cell) if isinstance(cell, str) else cell for cell in column]
            changed[name] = type(column)(cells, index=frame.index, dtype=object)
    names = [inert(str(name)) for name in frame.columns]
    text: str = frame.assign(**changed).to_csv(
        index=False, header=names if header else False, lineterminator="\n"
    )
    return text
