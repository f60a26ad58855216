"""Words that messages of all floors share: the name that was meant, and why a file is not read."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable
from difflib import get_close_matches

_IS_A_FOLDER = os.strerror(errno.EISDIR)


def same(word: str, allowed: Iterable[str]) -> str | None:
    """The one of the names that differs from a word in nothing but case; None if none does."""
    alike = [name for name in allowed if name.casefold() == word.casefold()]
    return alike[0] if len(alike) == 1 else None


def nearest(word: str, allowed: Iterable[str]) -> str | None:
    """The name that a word is most like, whatever its case; None if none is like it."""
    names = {name.casefold(): name for name in allowed}
    alike = get_close_matches(word.casefold(), names, n=1)
    return names[alike[0]] if alike else None


def hint(word: object, allowed: Iterable[str]) -> str:
    """What follows a name that is not known: " (did you mean 'resnet18'?)"; empty for none."""
    name = nearest(str(word), allowed)
    return "" if name is None else f" (did you mean {name!r}?)"


def reason(error: Exception) -> str:
    """Why a file cannot be read, in words: of a folder, that it is one."""
    words = error.strerror if isinstance(error, OSError) else None
    return "it is a folder" if words == _IS_A_FOLDER else words or str(error)
