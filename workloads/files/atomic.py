"""Files that appear whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path


def write_atomic(path: str | Path, content: str | bytes) -> None:
    """Write beside, then rename: whoever is interrupted leaves the file that was there.

    content: text is written in UTF-8, its line ends as they are

    Raises OSError if the folder is missing or cannot be written.
    """
    data = content.encode("utf-8") if isinstance(content, str) else content
    partial = Path(f"{path}.{os.getpid()}.partial")
    try:
        partial.write_bytes(data)
        os.replace(partial, path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
