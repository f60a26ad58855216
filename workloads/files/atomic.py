"""Files that appear whole or not at all, one or several."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO


@contextmanager
def replacing(path: str | Path) -> Iterator[BinaryIO]:
    """A file to write to beside `path`, renamed to it at the block's end, gone if that fails.

    Raises OSError if the folder is missing or cannot be written.
    """
    partial = Path(f"{path}.{os.getpid()}.partial")
    try:
        with open(partial, "wb") as file:
            yield file
        os.replace(partial, path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def write_atomic(path: str | Path, content: str | bytes) -> None:
    """Write beside, then rename: whoever is interrupted leaves the file that was there.

    content: text is written in UTF-8, its line ends as they are

    Raises OSError if the folder is missing or cannot be written.
    """
    data = content.encode("utf-8") if isinstance(content, str) else content
    with replacing(path) as file:
        file.write(data)


@contextmanager
def all_or_none(folder: str | Path) -> Iterator[Path]:
    """A folder to write files into that move to `folder` at the block's end, or none if it fails.

    `folder` is made if it does not exist; files of the same names are replaced.

    Raises OSError if the folder cannot be made or written.
    """
    out = Path(folder)
    new = not out.exists()
    out.mkdir(parents=True, exist_ok=True)
    try:
        partial = Path(tempfile.mkdtemp(prefix=".partial-", dir=out))
        try:
            yield partial
            for file in sorted(partial.iterdir()):
                os.replace(file, out / file.name)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    except BaseException:
        if new and not any(out.iterdir()):
            out.rmdir()
        raise
