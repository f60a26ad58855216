"""Files that appear whole or not at all, one or several."""

from __future__ import annotations

import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO


@contextmanager
def replacing(path: str | Path) -> Iterator[BinaryIO]:
    """A new file beside `path`, of a name that nobody can foresee, renamed to it at the end.

    It is on the disk by then, so that after a crash there is the old file or all of the new one. If
    anything fails it is gone. Raises OSError, naming `path`, if the folder is missing or cannot be
    written, or the disk is full.
    """
    partial = Path(f"{path}.{secrets.token_hex(8)}.partial")
    with _naming(partial, Path(path)):
        try:
            with open(partial, "xb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            os.replace(partial, path)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise


@contextmanager
def _naming(partial: Path, path: Path) -> Iterator[None]:
    """A block in whose OSErrors `path` stands for a partial file or folder, or for no name at all.

    Writing to a full disk raises an error that names no file.
    """
    try:
        yield
    except OSError as error:
        own = error.filename
        named = Path(os.fsdecode(own)) if isinstance(own, str | bytes | os.PathLike) else path
        inside = named.relative_to(partial) if named.is_relative_to(partial) else None
        error.filename = str(named if inside is None else path / inside)
        error.filename2 = None
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

    Raises OSError, naming the file, if the folder cannot be made or written, or the disk is full.
    """
    out = Path(folder)
    new = not out.exists()
    out.mkdir(parents=True, exist_ok=True)
    try:
        partial = Path(tempfile.mkdtemp(prefix=".partial-", dir=out))
        try:
            with _naming(partial, out):
                yield partial
                files = sorted(partial.iterdir())
                for file in files:
                    with open(file, "rb") as written:
                        os.fsync(written.fileno())
                for file in files:
                    os.replace(file, out / file.name)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    except BaseException:
        if new and not any(out.iterdir()):
            out.rmdir()
        raise
