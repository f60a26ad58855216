"""Files that are whole or not there, whatever happens while they are written."""

import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from bfpsim.workloads.files.atomic import all_or_none, replacing, write_atomic

OLD = b"old"


@contextmanager
def a_disk_with_room_for(size: int) -> Iterator[None]:
    """Files cannot grow beyond so many bytes: a write fails as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_names_the_file_and_leaves_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    path.write_bytes(OLD)
    with a_disk_with_room_for(1000), pytest.raises(OSError, match="too large") as caught:
        write_atomic(path, b"x" * 100_000)
    assert caught.value.filename == str(path)
    assert os.listdir(tmp_path) == ["table.csv"]
    assert path.read_bytes() == OLD


def test_a_full_disk_leaves_all_files_of_a_folder_as_they_were(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(OLD)

    def write() -> None:
        with all_or_none(tmp_path) as out:
            write_atomic(out / "a", b"new")
            write_atomic(out / "b", b"x" * 100_000)

    with a_disk_with_room_for(1000), pytest.raises(OSError, match="too large") as caught:
        write()
    assert caught.value.filename == str(tmp_path / "b")
    assert os.listdir(tmp_path) == ["a"]
    assert (tmp_path / "a").read_bytes() == OLD


def test_what_cannot_be_reached_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as caught:
        write_atomic(tmp_path / "gone" / "a", "x")
    assert caught.value.filename == str(tmp_path / "gone" / "a")
    with pytest.raises(FileNotFoundError) as caught, replacing(tmp_path / "a"):
        (tmp_path / "other").read_bytes()  # of another file its own name stays
    assert caught.value.filename == str(tmp_path / "other")
    assert os.listdir(tmp_path) == []


def test_partial_files_are_new_and_cannot_be_foreseen(tmp_path: Path, monkeypatch) -> None:
    names = set()
    for _ in range(20):
        with replacing(tmp_path / "a") as file:
            names.add(Path(file.name).name)
            file.write(b"x")
    assert len(names) == 20
    assert not any(str(os.getpid()) == part for name in names for part in name.split("."))
    # A link that lies in wait under the name is not followed.
    monkeypatch.setattr("secrets.token_hex", lambda count: "guessed")
    target = tmp_path / "target"
    target.write_bytes(OLD)
    (tmp_path / "a.guessed.partial").symlink_to(target)
    with pytest.raises(FileExistsError):
        write_atomic(tmp_path / "a", b"new")
    assert target.read_bytes() == OLD


def test_content_is_on_the_disk_before_it_takes_its_place(tmp_path: Path, monkeypatch) -> None:
    done = []
    fsync, move = os.fsync, os.replace
    monkeypatch.setattr("os.fsync", lambda number: (done.append("sync"), fsync(number)))
    monkeypatch.setattr("os.replace", lambda a, b: (done.append("move"), move(a, b)))
    write_atomic(tmp_path / "a", "x")
    assert done == ["sync", "move"]
    done.clear()
    with all_or_none(tmp_path) as out:
        for name in "bc":
            (out / name).write_text("x")
    assert done == ["sync", "sync", "move", "move"]


def test_files_get_the_usual_rights(tmp_path: Path) -> None:
    plain = tmp_path / "plain"
    plain.write_bytes(OLD)
    write_atomic(tmp_path / "a", "x")
    assert (tmp_path / "a").stat().st_mode == plain.stat().st_mode
