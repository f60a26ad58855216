"""How results look as the last line of a notebook's cell."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd


def as_html(title: str, facts: str, frame: pd.DataFrame) -> str:
    """A line and a table, with no more rows than pandas shows of its own.

    Whole numbers are grouped in thousands, others have one decimal.
    """
    import pandas as pd

    whole = frame.select_dtypes("integer").columns
    table = frame.to_html(
        index=False,
        border=0,
        justify="right",
        max_rows=pd.get_option("display.max_rows"),
        formatters=dict.fromkeys(whole, "{:,}".format),
        float_format="{:,.1f}".format,
    )
    return f"<div><p><b>{escape(title)}</b>: {escape(facts)}</p>{table}</div>"
