"""A sweep's tables as files, written part by part, which appear whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

    from bfpsim.search.sweep.tables import Tables


def write_tables(parts: Iterable[Tables], folder: str | Path) -> list[Path]:
    """Write each table of all parts as CSV, and as Parquet where pyarrow is installed.

    The files take the place of older ones when all are whole. Equal tables make equal bytes.
    Raises OSError if they cannot be written.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    kinds: dict[str, type[_Csv | _Parquet]] = {"csv": _Csv}
    if find_spec("pyarrow") is not None:
        kinds["parquet"] = _Parquet
    files: dict[Path, _Csv | _Parquet] = {}
    try:
        for part in parts:
            for name, frame in part._asdict().items():
                for ending, kind in kinds.items():
                    path = folder / f"{name}.{ending}"
                    if path not in files:
                        files[path] = kind(Path(f"{path}.{os.getpid()}.partial"))
                    files[path].append(frame)
        for file in files.values():
            file.close()
        for path, file in files.items():
            os.replace(file.path, path)
    except BaseException:
        for file in files.values():
            with suppress(OSError):  # the first error is the one to tell
                file.close()
            file.path.unlink(missing_ok=True)
        raise
    return list(files)


class _Csv:
    """'\\n' line ends, floats in full precision."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = path.open("w", encoding="utf-8", newline="")

    def append(self, frame: pd.DataFrame) -> None:
        first = self._file.tell() == 0
        frame.to_csv(self._file, index=False, header=first, lineterminator="\n")

    def close(self) -> None:
        self._file.close()


class _Parquet:
    """A row group per part."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._writer: Any = None

    def append(self, frame: pd.DataFrame) -> None:
        import pyarrow as pa
        from pyarrow.parquet import ParquetWriter

        table = pa.Table.from_pandas(frame, preserve_index=False)
        if self._writer is None:
            self._writer = ParquetWriter(self.path, table.schema)
        self._writer.write_table(table)

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()
