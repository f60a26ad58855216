"""Text files: read whole, written whole or not at all, and quoted in one line."""

from __future__ import annotations

from pathlib import Path

from bfpsim.wording import reason
from bfpsim.workloads.files.atomic import write_atomic
from bfpsim.workloads.layer import WorkloadError, is_control

_LONGEST = 120  # characters of a quoted value


def read_text(path: str | Path) -> str:
    """Return a file's text, its line ends as they are; a byte order mark is skipped.

    Raises `WorkloadError` if the file cannot be read, is not UTF-8, or holds nothing.
    """
    try:
        data = Path(path).read_bytes()
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        raise WorkloadError(f"{path}: cannot be read: {reason(error)}") from None
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        wrong = f"byte {data[error.start]:#04x} at offset {error.start}"
        raise WorkloadError(f"{path}: {wrong} is not UTF-8; allowed: UTF-8 text") from None
    if not text.strip():
        raise WorkloadError(f"{path}: is empty; allowed: a network")
    return text


def write_text(path: str | Path, text: str) -> None:
    """Write UTF-8 text, whole or not at all.

    Raises `WorkloadError` if the file cannot be written.
    """
    try:
        write_atomic(path, text)
    except (OSError, UnicodeEncodeError) as error:
        raise WorkloadError(f"{path}: cannot be written: {reason(error)}") from None


def quote(value: object) -> str:
    """Return a value as an error shows it: in quotes, on one line, its middle left out if long."""
    text = repr(value)
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST // 2]}...{text[-_LONGEST // 4 :]}"


def visible(text: str) -> str:
    """Return text with its control characters as escapes such as ``\\x1b``, lines as they are."""
    if text.isprintable():
        return text
    return "".join(repr(one)[1:-1] if is_control(one) and one != "\n" else one for one in text)
