"""What of a search is finished, in a store, so that a killed search goes on where it was."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from typing import Any

from bfpsim.search.code import code_digest
from bfpsim.search.store import Store

_DECIDING = ("arch", "mapping", "quant", "sim", "workloads", "search")
"""Packages whose code decides what a stage leads to."""


class Stages:
    """Finished stages by what decides them; without a store, for as long as this lives."""

    def __init__(self, store: Store | None = None) -> None:
        self._store = store
        self._own: dict[tuple[str, str], str] = {}

    def has(self, stage: str, deciding: object) -> bool:
        """Whether a stage is finished."""
        return self.get(stage, deciding) is not None

    def get(self, stage: str, deciding: object) -> Any:
        """What a stage led to, as `put` took it; None if it is not finished."""
        key = stage, _key(deciding)
        if self._store is None:
            record = self._own.get(key)
        else:
            entry = self._store.get(*key)
            record = None if entry is None else entry.record
        return None if record is None else json.loads(record)

    def put(self, stage: str, deciding: object, result: object) -> None:
        """Keep what a stage led to: anything that JSON can say."""
        key, record = (stage, _key(deciding)), json.dumps(result)
        if self._store is None:
            self._own[key] = record
        else:
            self._store.put(*key, record)

    def kept(self, stage: str, deciding: object, make: Callable[[], object]) -> Any:
        """What a stage led to; made and kept if it is not finished."""
        if not self.has(stage, deciding):
            self.put(stage, deciding, make())
        return self.get(stage, deciding)


def _key(deciding: object) -> str:
    """SHA-256 of everything that decides a stage, the program's code included."""
    return hashlib.sha256(f"{code_digest(_DECIDING)}\n{deciding!r}".encode()).hexdigest()
