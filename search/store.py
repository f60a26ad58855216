"""The result store: one SQLite file, a row per result, there wholly or not at all.

Results are known by what decides them, the program's code included: other code, other keys.
"""

from __future__ import annotations

import hashlib
import json
import os
import sqlite3
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple, Self

_APPLICATION = 0x62667073  # "bfps", in the file's header: whose file it is
_VERSION = 1  # of the table below
_LONGEST = 1 << 26  # bytes of a result
_PATIENCE = 60.0  # seconds to wait for another process's write

# A row holds a result or the error of a failed attempt, never both and never neither.
_TABLE = """
CREATE TABLE results (
    kind TEXT NOT NULL,
    key TEXT NOT NULL,
    record TEXT,
    error TEXT,
    checksum INTEGER NOT NULL,
    PRIMARY KEY (kind, key),
    CHECK ((record IS NULL) <> (error IS NULL))
) STRICT
"""

_DECIDING = ("arch", "mapping", "quant", "sim", "workloads", "search")
"""Packages whose code decides what a stage leads to."""


class StoreError(ValueError):
    """A store that cannot be opened, read or written; its message is one line."""


class Entry(NamedTuple):
    """The content of a row: the record (JSON), or why there is none."""

    record: str | None
    error: str | None


class StoreReader:
    """The results of a store, to look up; the file needs no write permission.

    path: a file that a `Store` wrote

    Errors are StoreError, one line each.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        with self._errors():
            self._db = self._connect()
        try:
            with self._errors():
                self._db.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, _LONGEST)
                self._db.execute("PRAGMA trusted_schema = OFF")
                self._open()
        except StoreError:
            self._db.close()
            raise

    def get(self, kind: str, key: str) -> Entry | None:
        """The entry under a key; None if there is none.

        Raises StoreError if the file changed since it was written.
        """
        with self._errors():
            row = self._db.execute(
                "SELECT record, error, checksum FROM results WHERE kind = ? AND key = ?",
                (kind, key),
            ).fetchone()
        if row is None:
            return None
        record, error, checksum = row
        entry = Entry(record, error)
        if checksum != _checksum(kind, key, entry):
            raise self._corrupt("a row is not what was written")
        return entry

    def keys(self, kind: str) -> dict[str, bool]:
        """Key -> whether there is a result; False where there is an error."""
        with self._errors():
            rows = self._db.execute(
                "SELECT key, record IS NOT NULL FROM results WHERE kind = ?", (kind,)
            ).fetchall()
        return {key: bool(succeeded) for key, succeeded in rows}

    def close(self) -> None:
        """Close the file; the last process to do so folds the WAL into it."""
        with self._errors():
            self._db.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _connect(self) -> sqlite3.Connection:
        if os.access(self.path, os.W_OK) and os.access(self.path.parent, os.W_OK):
            return sqlite3.connect(self.path, timeout=_PATIENCE)
        # Beside a file in WAL mode SQLite makes another, unless nobody writes: then there is none.
        writing = self.path.with_name(f"{self.path.name}-wal").exists()
        how = "mode=ro" if writing else "immutable=1"
        uri = f"{self.path.absolute().as_uri()}?{how}"
        return sqlite3.connect(uri, timeout=_PATIENCE, uri=True)

    def _open(self) -> None:
        """Refuse what is not a store of this version."""
        if self._is_new():
            raise StoreError(f"{self.path}: is empty; allowed: a file that bfpsim wrote")
        self._check_owner()

    def _is_new(self) -> bool:
        (tables,) = self._db.execute("SELECT count(*) FROM sqlite_master").fetchone()
        return tables == 0 and self._pragma("application_id") == 0

    def _check_owner(self) -> None:
        if self._pragma("application_id") != _APPLICATION:
            raise StoreError(
                f"{self.path}: is a database of another program; allowed: a store, or a new file"
            )
        version = self._pragma("user_version")
        if version != _VERSION:
            raise StoreError(
                f"{self.path}: is a store of version {version}, and this bfpsim knows version "
                f"{_VERSION}; allowed: the bfpsim that wrote it, or a new file"
            )
        # A view in the table's place, or a trigger, could do anything when it is read or written.
        schema = self._db.execute("SELECT sql FROM sqlite_master WHERE sql NOT NULL").fetchall()
        if [sql.strip() for (sql,) in schema] != [_TABLE.strip()]:
            raise self._corrupt("its table is not the one that bfpsim makes")

    def _pragma(self, name: str) -> int:
        (value,) = self._db.execute(f"PRAGMA {name}").fetchone()
        return int(value)

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """SQLite's errors as one line each that says what can be done."""
        try:
            yield
        except UnicodeDecodeError:  # sqlite3 reads what it takes for text
            raise self._corrupt("text is not UTF-8") from None
        except sqlite3.Error as error:
            code = getattr(error, "sqlite_errorcode", 0) & 0xFF  # the primary code
            match code:
                case sqlite3.SQLITE_FULL:
                    wrong = "the disk is full; what was finished is kept, go on when there is room"
                case sqlite3.SQLITE_READONLY:
                    wrong = "cannot be written; allowed: a file and folder with write permission"
                case sqlite3.SQLITE_CANTOPEN:
                    wrong = "cannot be opened; allowed: a file in a folder that can be written"
                case sqlite3.SQLITE_NOTADB:
                    wrong = "is no store; allowed: a file that bfpsim wrote, or a new one"
                case sqlite3.SQLITE_BUSY:
                    wrong = f"another process kept it locked for {_PATIENCE:.0f} s; try again"
                case sqlite3.SQLITE_IOERR:
                    wrong = f"cannot be read or written ({error}); check the disk"
                case _:
                    raise self._corrupt(" ".join(str(error).split())) from None
            raise StoreError(f"{self.path}: {wrong}") from None

    def _corrupt(self, why: str) -> StoreError:
        return StoreError(
            f"{self.path}: is corrupt ({why}); `sqlite3 {self.path} .recover` may save its rows, "
            "a new file starts afresh"
        )


class Store(StoreReader):
    """Results of several kinds by key, on disk, shared by any number of processes.

    path: the file; it is made, and its folder too, if it does not exist

    Every write is a transaction of its own: a killed process leaves all of it or nothing. (The
    file is in WAL mode, synchronous=NORMAL: what a power cut can lose are the last writes.)
    Errors are StoreError, one line each.
    """

    def put(self, kind: str, key: str, record: str) -> None:
        """Keep a result, in place of an error if there is one; the first result stays."""
        self._write(kind, key, Entry(record, None))

    def put_error(self, kind: str, key: str, error: str) -> None:
        """Keep the reason of a failure; a result that is there stays."""
        self._write(kind, key, Entry(None, error))

    def _connect(self) -> sqlite3.Connection:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StoreError(
                f"{self.path}: its folder cannot be made: {error.strerror}; "
                "allowed: a file in a folder that can be written"
            ) from None
        return sqlite3.connect(self.path, timeout=_PATIENCE, isolation_level=None)

    def _open(self) -> None:
        """Make the table in a new file; refuse one that is not a store of this version."""
        if not self._is_new():
            self._check_owner()
        # Only now: it writes to the file's header.
        self._db.execute("PRAGMA journal_mode = WAL").fetchone()
        self._db.execute("PRAGMA synchronous = NORMAL")
        self._db.execute("BEGIN IMMEDIATE")
        with self._db:
            if self._is_new():  # nobody else made it meanwhile
                self._db.execute(f"PRAGMA application_id = {_APPLICATION}")
                self._db.execute(f"PRAGMA user_version = {_VERSION}")
                self._db.execute(_TABLE)
        self._check_owner()

    def _write(self, kind: str, key: str, entry: Entry) -> None:
        with self._errors():
            self._db.execute(
                "INSERT INTO results VALUES (?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET "
                "record = excluded.record, error = excluded.error, checksum = excluded.checksum "
                "WHERE results.record IS NULL",
                (kind, key, *entry, _checksum(kind, key, entry)),
            )


def _checksum(kind: str, key: str, entry: Entry) -> int:
    """SQLite has none of its own: a flipped bit in a number would go unseen."""
    return zlib.crc32(repr((kind, key, *entry)).encode())


class Stages:
    """Finished stages of long work by what decides them, so that it goes on after a stop.

    store: where they are kept; without one, for as long as this lives
    """

    def __init__(self, store: Store | None = None) -> None:
        self._store = store
        self._own: dict[tuple[str, str], str] = {}

    def has(self, stage: str, deciding: object) -> bool:
        """Whether a stage is finished."""
        return self.get(stage, deciding) is not None

    def get(self, stage: str, deciding: object) -> Any:
        """The result of a stage, as `put` took it; None if it is not finished."""
        key = stage, _stage_key(deciding)
        if self._store is None:
            record = self._own.get(key)
        else:
            entry = self._store.get(*key)
            record = None if entry is None else entry.record
        try:
            return None if record is None else json.loads(record)
        except (ValueError, RecursionError) as error:
            raise StoreError(
                f"stage {stage}: is no result ({error}); allowed: a new file"
            ) from None

    def put(self, stage: str, deciding: object, result: object) -> None:
        """Keep what a stage led to: anything that JSON can say."""
        key, record = (stage, _stage_key(deciding)), json.dumps(result)
        if self._store is None:
            self._own[key] = record
        else:
            self._store.put(*key, record)

    def once(self, stage: str, deciding: object, make: Callable[[], object]) -> Any:
        """The result of a stage; one that is not finished is made, and kept."""
        if not self.has(stage, deciding):
            self.put(stage, deciding, make())
        return self.get(stage, deciding)


def _stage_key(deciding: object) -> str:
    """SHA-256 of everything that decides a stage, the program's code included."""
    return hashlib.sha256(f"{code_digest(_DECIDING)}\n{deciding!r}".encode()).hexdigest()


@contextmanager
def open_stages(path: str | Path | None) -> Iterator[Stages]:
    """Stages in a store, which is made if it does not exist; None: for as long as this is open.

    Raises StoreError.
    """
    if path is None:
        yield Stages()
        return
    with Store(path) as store:
        yield Stages(store)


@cache
def code_digest(packages: tuple[str, ...]) -> str:
    """SHA-256 of the code and tables of some packages, given as paths from the root."""
    digest = hashlib.sha256()
    root = Path(__file__).parents[1]
    for package in packages:
        for file in sorted((root / package).rglob("*")):
            if file.suffix in (".py", ".csv"):
                digest.update(f"{file.relative_to(root).as_posix()}\n".encode())
                digest.update(file.read_bytes())
    return digest.hexdigest()
