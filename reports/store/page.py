"""One page of HTML that holds tables and figures, and needs nothing else."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from importlib import resources
from string import Template
from typing import TYPE_CHECKING, Any

import numpy as np

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
    sections: Sequence[Section],
    tables: Sequence[PageTable],
) -> str:
    """The page: facts and warnings, then figures, then tables. Equal content makes equal text.

    All words are taken as plain text. Names of sections and tables must be good as HTML ids.
    """
    here = resources.files("reports.store")
    style, script = (here.joinpath(f"page.{kind}").read_text("utf-8") for kind in ("css", "js"))
    data = {table.name: _table_data(table) for table in tables}
    return Template(here.joinpath("page.html").read_text("utf-8")).substitute(
        title=escape(title),
        facts="\n".join(
            [f"<p>{escape(text)}</p>" for text in facts]
            + [f'<p class="warning">{escape(text)}</p>' for text in warnings]
        ),
        contents=_contents(
            [(f"section-{section.name}", section.title) for section in sections]
            + [(f"section-{table.name}", table.title) for table in tables]
        ),
        sections="\n".join([*map(_figures_html, sections), *map(_table_html, tables)]),
        # "</script>" inside a string would end the element
        data=json.dumps(data, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c"),
        style=style,
        style_hash=_hash(style),
        script=script,
        script_hash=_hash(script),
    )


def _contents(links: Sequence[tuple[str, str]]) -> str:
    items = [f'<li><a href="#{escape(name)}">{escape(title)}</a></li>' for name, title in links]
    return f"<ul>{''.join(items)}</ul>"


def _figures_html(section: Section) -> str:
    figures = [
        f'<figure><img src="data:image/png;base64,{base64.b64encode(figure.png).decode()}" '
        f'alt="{escape(figure.caption)}"><figcaption>{escape(figure.caption)}</figcaption></figure>'
        for figure in section.figures
    ]
    return _section(section.name, section.title, "\n".join(figures))


def _table_html(table: PageTable) -> str:
    content = f'<p>{escape(table.note)}</p>\n<div id="table-{escape(table.name)}"></div>'
    return _section(table.name, table.title, content)


def _section(name: str, title: str, content: str) -> str:
    return f'<section id="section-{escape(name)}">\n<h2>{escape(title)}</h2>\n{content}\n</section>'


def _table_data(table: PageTable) -> dict[str, Any]:
    columns = [
        {"label": column.label, **_values(table.frame[column.name], column)}
        for column in table.columns
    ]
    return {"title": table.title, "length": len(table.frame), "columns": columns}


def _values(series: pd.Series[Any], column: Column) -> dict[str, Any]:
    """Words as places in a list of distinct ones; numbers rounded, null where there is none."""
    if column.digits is None:
        codes, words = series.astype(object).where(series.notna(), "").astype(str).factorize()
        return {"words": [str(word) for word in words], "at": codes.tolist()}
    numbers = np.round(series.to_numpy(float, na_value=np.nan) / column.scale, _DECIMALS)
    if column.digits == 0 and column.scale == 1 and not np.isnan(numbers).any():
        return {"values": numbers.astype(int).tolist(), "digits": 0}
    values = [None if value != value else value for value in numbers.tolist()]
    return {"values": values, "digits": column.digits}


def _hash(text: str) -> str:
    """What a Content-Security-Policy allows a script or a style by."""
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"
