"""Tables as files, which appear whole or not at all."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from bfpsim.workloads.files.atomic import write_atomic

if TYPE_CHECKING:
    import pandas as pd


def write_csv(frame: pd.DataFrame, path: str | Path) -> None:
    r"""Write a table without its index: '\n' line ends, floats in full precision.

    Equal tables make equal bytes. Raises OSError as `write_atomic`.
    """
    write_atomic(path, frame.to_csv(index=False, lineterminator="\n"))
