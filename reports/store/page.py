"""One page of HTML that holds tables and figures, and needs nothing else."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from html import escape
from importlib import resources
from string import Template
from typing import TYPE_CHECKING, Any

import numpy as np

from bfpsim.arch.units import magnitude

if TYPE_CHECKING:
    import pandas as pd

_DECIMALS = 6  # that are kept of a number, to sort and to filter by


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a page's table: `name` in the frame, divided by `scale`, with so many digits.

    digits: None for words
    """

    name: str
    label: str
    scale: float = 1.0
    digits: int | None = None


@dataclass(frozen=True, slots=True)
class PageTable:
    """A table that the page sorts and filters."""

    name: str
    title: str
    note: str
    frame: pd.DataFrame
    columns: tuple[Column, ...]


@dataclass(frozen=True, slots=True)
class PageFigure:
    """A PNG, and what it shows in words."""

    caption: str
    png: bytes


@dataclass(frozen=True, slots=True)
class Section:
    """Figures under one heading."""

    name: str
    title: str
    figures: tuple[PageFigure, ...]


def render(
    title: str,
    facts: Sequence[str],
    warnings: Sequence[str],
    parts: Sequence[Section | PageTable],
) -> str:
    """The page: facts and warnings, then figures and tables. Equal content makes equal text.

    All words are taken as plain text. Names of parts must be good as HTML ids, and differ.
    """
    here = resources.files("bfpsim.reports.store")
    style, script = (here.joinpath(f"page.{kind}").read_text("utf-8") for kind in ("css", "js"))
    data = {part.name: _table_data(part) for part in parts if isinstance(part, PageTable)}
    return Template(here.joinpath("page.html").read_text("utf-8")).substitute(
        title=escape(title),
        facts="\n".join(
            [f"<p>{escape(text)}</p>" for text in facts]
            + [f'<p class="warning">{escape(text)}</p>' for text in warnings]
        ),
        contents="\n".join(
            f'<li><a href="#section-{part.name}">{escape(part.title)}</a></li>' for part in parts
        ),
        sections="\n".join(map(_section, parts)),
        # "</script>" inside a string would end the element
        data=json.dumps(data, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c"),
        style=style,
        style_hash=_hash(style),
        script=script,
        script_hash=_hash(script),
    )


def _section(part: Section | PageTable) -> str:
    if isinstance(part, Section):
        content = f'<div class="figures">\n{"".join(map(_figure, part.figures))}</div>'
    else:
        content = f'<p>{escape(part.note)}</p>\n<div id="table-{part.name}"></div>'
    heading = f"<h2>{escape(part.title)}</h2>"
    return f'<section id="section-{part.name}">\n{heading}\n{content}\n</section>'


def _figure(figure: PageFigure) -> str:
    caption, image = escape(figure.caption), base64.b64encode(figure.png).decode()
    return (
        f'<figure><img src="data:image/png;base64,{image}" alt="{caption}">'
        f"<figcaption>{caption}</figcaption></figure>\n"
    )


def _table_data(table: PageTable) -> dict[str, Any]:
    columns = [
        {"label": column.label, **_values(table.frame[column.name], column)}
        for column in table.columns
    ]
    return {"title": table.title, "length": len(table.frame), "columns": columns}


def _values(series: pd.Series[Any], column: Column) -> dict[str, Any]:
    """Words as places in a list of distinct ones; numbers rounded, null where there is none.

    Quantities are words with their `ranks`: as text, "1 MiB" is less than "64 KiB".
    """
    if column.digits is None:
        codes, distinct = series.astype(object).where(series.notna(), "").astype(str).factorize()
        words = [str(word) for word in distinct]
        ranks = _ranks(words)
        return {"words": words, "at": codes.tolist(), **({"ranks": ranks} if ranks else {})}
    numbers = np.round(series.to_numpy(float, na_value=np.nan) / column.scale, _DECIMALS)
    if column.digits == 0 and column.scale == 1 and not np.isnan(numbers).any():
        return {"values": numbers.astype(int).tolist(), "digits": 0}
    values = [None if value != value else value for value in numbers.tolist()]
    return {"values": values, "digits": column.digits}


def _ranks(words: Sequence[str]) -> list[int]:
    """The places of quantities by their size, equal ones in one; nothing if any word is none."""
    sizes = []
    for word in words:
        size = magnitude(word) if word else Fraction(0)
        if size is None:
            return []
        sizes.append(size)
    places = {size: place for place, size in enumerate(sorted(set(sizes)))}
    return [places[size] for size in sizes] if any(words) else []


def _hash(text: str) -> str:
    """The hash by which a Content-Security-Policy allows a script or a style."""
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"
