import os
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bfpsim.search.store import Entry, Stages, Store, StoreError, StoreReader, _stage_key

RESULTS = {f"key{n}": f"[{n * 1001}]" for n in range(40)}


@pytest.fixture
def filled(tmp_path) -> Path:
    path = tmp_path / "results.sqlite"
    with Store(path) as store:
        for key, record in RESULTS.items():
            store.put("point", key, record)
        store.put_error("point", "bad", "conv1: no mapping fits")
    return path


def contents(path: Path) -> dict[str, str | None]:
    with Store(path) as store:
        entries = {key: store.get("point", key) for key in store.keys("point")}
    return {key: entry.record for key, entry in entries.items() if entry is not None}


def test_what_was_kept_is_there_again(filled):
    with Store(filled) as store:
        assert store.keys("point") == dict.fromkeys(RESULTS, True) | {"bad": False}
        assert store.get("point", "key7") == Entry("[7007]", None)
        assert store.get("point", "bad") == Entry(None, "conv1: no mapping fits")
        assert store.get("point", "other") is None
        assert store.get("stage", "key7") is None
        assert store.keys("stage") == {}


def test_a_result_takes_the_place_of_an_error_and_then_stays(tmp_path):
    with Store(tmp_path / "store") as store:
        store.put_error("point", "a", "killed")
        store.put_error("point", "a", "killed again")
        assert store.get("point", "a") == Entry(None, "killed again")
        store.put("point", "a", "1")
        store.put("point", "a", "2")
        store.put_error("point", "a", "too late")
        assert store.get("point", "a") == Entry("1", None)


def test_two_stores_on_one_file_see_each_other(tmp_path):
    path = tmp_path / "new folder" / "store"
    with Store(path) as one, Store(path) as two:
        one.put("point", "a", "1")
        assert two.get("point", "a") == Entry("1", None)
        two.put("point", "b", "2")
        assert one.keys("point") == {"a": True, "b": True}


def test_a_store_is_read_without_permission_to_write(filled, monkeypatch):
    monkeypatch.setattr("os.access", lambda *_: False)  # root may write anywhere
    filled.chmod(0o444)
    filled.parent.chmod(0o555)
    try:
        with StoreReader(filled) as store:
            assert store.keys("point") == dict.fromkeys(RESULTS, True) | {"bad": False}
            assert store.get("point", "key7") == Entry("[7007]", None)
            with pytest.raises(sqlite3.OperationalError, match="readonly"):
                store._db.execute("DELETE FROM results")
            assert list(filled.parent.iterdir()) == [filled]
    finally:
        filled.parent.chmod(0o755)


def test_a_reader_without_permission_sees_what_a_writer_keeps_meanwhile(filled, monkeypatch):
    with Store(filled) as writer:
        writer.put("point", "late", "1")
        monkeypatch.setattr("os.access", lambda *_: False)
        with StoreReader(filled) as reader:
            assert reader.get("point", "late") == Entry("1", None)


def test_a_reader_makes_nothing_of_an_empty_file(tmp_path):
    path = tmp_path / "empty.sqlite"
    path.touch()
    with pytest.raises(StoreError, match="is empty; allowed: a file that bfpsim wrote"):
        StoreReader(path)
    assert path.stat().st_size == 0


def test_a_process_killed_amid_writes_leaves_whole_rows(tmp_path):
    path = tmp_path / "store"
    code = (
        "import sys; from search.store import Store\n"
        "store = Store(sys.argv[1])\n"
        "for n in range(10**6):\n"
        "    store.put('point', str(n), str(n) * 500)\n"
        "    print(n, flush=True)\n"
    )
    writer = subprocess.Popen(
        [sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE, text=True
    )
    last = next(line for line in writer.stdout if line == "300\n")
    writer.kill()
    seen = int((last + writer.communicate()[0]).split()[-1])

    kept = contents(path)
    assert set(range(seen + 1)) <= {int(key) for key in kept} <= set(range(seen + 2))
    assert all(record == key * 500 for key, record in kept.items())


def test_a_file_of_another_kind_is_left_as_it_is(tmp_path):
    text, foreign = tmp_path / "notes.txt", tmp_path / "browser.sqlite"
    text.write_text("important " * 1000)
    with sqlite3.connect(foreign) as db:
        db.execute("CREATE TABLE history (url TEXT)")
    db.close()
    for path, message in (
        (text, "is no store; allowed: a file that bfpsim wrote, or a new one"),
        (foreign, "is a database of another program; allowed: a store, or a new file"),
    ):
        before = path.read_bytes()
        with pytest.raises(StoreError, match=f"^{path}: {message}"):
            Store(path)
        assert path.read_bytes() == before


def test_a_store_of_another_version_stays_readable_to_its_own(filled):
    def version(number: int) -> None:
        db = sqlite3.connect(filled)
        db.execute(f"PRAGMA user_version = {number}")
        db.close()

    version(2)
    with pytest.raises(
        StoreError, match=r"is a store of version 2, and this bfpsim knows vers.* 1"
    ):
        Store(filled)
    version(1)
    assert {key: contents(filled)[key] for key in RESULTS} == RESULTS


@pytest.mark.parametrize("place", ["/proc/store", "/dev/null/store", "{}"])
def test_a_folder_that_cannot_be_written(place, tmp_path):
    path = place.format(tmp_path)  # the last is itself a folder
    with pytest.raises(StoreError, match=rf"^{path}: .*allowed: a file .*in a folder that can be"):
        Store(path)


@pytest.fixture
def mounted(tmp_path):
    """A folder of 256 KiB; mounted read-only on request."""
    folder = tmp_path / "small"
    folder.mkdir()

    def mount(*options: str) -> Path:
        command = ["mount", "-t", "tmpfs", "-o", ",".join(options), "tmpfs", str(folder)]
        if shutil.which("mount") is None or subprocess.run(command, capture_output=True).returncode:
            pytest.skip("mounting is not allowed here")
        return folder

    yield mount
    subprocess.run(["umount", str(folder)], capture_output=True)


def fill(store: Store, written: list[int]) -> None:
    for n in range(100):
        store.put("point", str(n), str(n) * 5000)
        written.append(n)


def test_a_full_disk_is_said_and_loses_nothing(mounted):
    path = mounted("size=256k") / "store"
    written = []
    with Store(path) as store, pytest.raises(StoreError, match="disk is full; what was fin"):
        fill(store, written)
    assert written
    with Store(path) as store:
        assert sorted(map(int, store.keys("point"))) == written
        assert all(store.get("point", str(n)).record == str(n) * 5000 for n in written)


def test_a_file_at_its_largest_allowed_size(tmp_path):
    # Where nothing can be mounted, a limit on file sizes fails writes alike.
    code = (
        "import resource, signal, sys; from search.store import Store, StoreError\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "store = Store(sys.argv[1])\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))\n"
        "try:\n"
        "    for n in range(1000): store.put('point', str(n), str(n) * 1000)\n"
        "except StoreError as error: print(n, error)\n"
    )
    path = tmp_path / "store"
    done = subprocess.run(
        [sys.executable, "-c", code, path], capture_output=True, text=True, check=True
    )
    count, _, message = done.stdout.partition(" ")
    assert int(count) > 10
    assert "store: cannot be read or written (disk I/O error); check the disk" in message
    assert contents(path) == {str(n): str(n) * 1000 for n in range(int(count))}


def test_a_read_only_folder(filled, mounted):
    folder = mounted("size=1m")
    path = folder / filled.name
    shutil.copy(filled, path)
    subprocess.run(["mount", "-o", "remount,ro", folder], check=True)
    before = path.read_bytes()
    with pytest.raises(
        StoreError, match=r"cannot be (opened|written); allowed: a file .*in a fold"
    ):
        Store(path)
    with pytest.raises(StoreError, match=r"cannot be opened; allowed: a file in a folder that can"):
        Store(folder / "new")
    assert path.read_bytes() == before


def test_a_digit_that_changed_on_disk_is_not_believed(filled):
    data = filled.read_bytes()
    assert data.count(b"[7007]") == 1
    filled.write_bytes(data.replace(b"[7007]", b"[7107]"))
    with Store(filled) as store:
        assert store.get("point", "key8") == Entry("[8008]", None)
        with pytest.raises(StoreError, match=r"is corrupt \(a row is not what was written\)"):
            store.get("point", "key7")


_FLIPS = st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 7)), min_size=1, max_size=4)


@given(flips=_FLIPS)
@settings(max_examples=80, deadline=None)
def test_flipped_bits_are_found_or_harmless(flips, tmp_path_factory):
    path = tmp_path_factory.mktemp("flipped") / "store"
    with Store(path) as store:
        for key, record in RESULTS.items():
            store.put("point", key, record)
    data = bytearray(path.read_bytes())
    for place, bit in flips:
        data[place % len(data)] ^= 1 << bit
    path.write_bytes(data)

    found, complaint = RESULTS, f"{path}: one line"
    try:
        found = contents(path)
    except StoreError as error:
        complaint = str(error)
    assert found.items() <= RESULTS.items()
    assert complaint.startswith(f"{path}: ")
    assert "\n" not in complaint


def test_a_store_cut_short_names_itself_and_a_remedy(filled):
    os.truncate(filled, filled.stat().st_size // 2)
    with pytest.raises(StoreError, match=r"is corrupt .*\.recover` may save its rows"):
        contents(filled)


@pytest.mark.parametrize(
    "change",
    [
        "CREATE TRIGGER t AFTER INSERT ON results BEGIN DELETE FROM results; END",
        "DROP TABLE results; CREATE VIEW results AS WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL "
        "SELECT x + 1 FROM n) SELECT 'point' kind, x key, x record, NULL error, 0 checksum FROM n",
        "CREATE TABLE more (a)",
    ],
)
def test_a_schema_of_anothers_making_is_refused(filled, change):
    with sqlite3.connect(filled) as db:
        db.executescript(change)
    db.close()
    for kind in (Store, StoreReader):
        with pytest.raises(StoreError, match="its table is not the one that bfpsim makes"):
            kind(filled)


def test_a_stage_that_is_no_json_is_refused(tmp_path):
    with Store(tmp_path / "store") as store:
        store.put("nat", _stage_key("x"), "[" * 100_000)
        with pytest.raises(StoreError, match="stage nat: is no result"):
            Stages(store).get("nat", "x")
