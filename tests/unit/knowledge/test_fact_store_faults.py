"""A fact store under SIGKILL, with two writers, and with faulty disks and files."""

from __future__ import annotations

import os
import random
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import pytest

from onceedit_ray.errors import StoreError
from onceedit_ray.knowledge.edit import Edit
from onceedit_ray.knowledge.fact_file import SCHEMA
from onceedit_ray.knowledge.fact_store import FactStore
from tests.paths import ROOT

BATCH = 3
WRITER = f"""
import sys
from onceedit_ray.knowledge.edit import Edit
from onceedit_ray.knowledge.fact_store import FactStore
store = FactStore(sys.argv[1])
for number in range(int(sys.argv[3])):
    batch = [Edit(prompt=f"{{sys.argv[2]}}-{{number}}-{{part}}", target_new="x" * 500) for part in range({BATCH})]
    store.add(batch, note=f"{{sys.argv[2]}}-{{number}}")
    print(f"{{sys.argv[2]}}-{{number}}", flush=True)
"""


def writer(path: Path, name: str, calls: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", WRITER, str(path), name, str(calls)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)


def batches(store: FactStore) -> dict[str, int]:
    """The live edits of each call, by its name."""
    found: dict[str, int] = {}
    for stored in store.live():
        call = stored.edit.prompt.rpartition("-")[0]
        found[call] = found.get(call, 0) + 1
    return found


def test_killed_writers_lose_nothing_and_leave_nothing_half(tmp_path: Path) -> None:
    path, draw = tmp_path / "facts.db", random.Random(1)
    answered: list[str] = []
    for round in range(10):
        process = writer(path, f"round{round}", 100_000)
        assert process.stdout is not None
        answered.append(process.stdout.readline().strip())
        time.sleep(draw.uniform(0.0, 0.15))
        process.send_signal(signal.SIGKILL)
        answered += process.stdout.read().split()
        assert process.wait() == -signal.SIGKILL
        found = batches(FactStore(path))
        assert set(answered) <= found.keys()
        assert set(found.values()) == {BATCH}
        # At most the one call that was under way when the writer died was committed and not answered.
        assert len(found) <= len(answered) + round + 1
    store = FactStore(path)
    assert sorted(revision.note for revision in store.revisions(10**6)) == sorted(batches(store))
    assert sqlite3.connect(path).execute("PRAGMA integrity_check").fetchone() == ("ok",)


def test_two_writers_at_once_both_write_everything(tmp_path: Path) -> None:
    path = tmp_path / "facts.db"
    processes = [writer(path, name, 40) for name in ("one", "two")]
    for process in processes:
        process.communicate(timeout=120)
        assert process.returncode == 0
    store = FactStore(path)
    assert store.revision == 80
    assert batches(store) == {f"{name}-{number}": BATCH for name in ("one", "two") for number in range(40)}


def test_threads_share_one_object(tmp_path: Path) -> None:
    store = FactStore(tmp_path / "facts.db")

    def write(name: str) -> None:
        for number in range(20):
            store.add([Edit(prompt=f"{name} {number}", target_new="x")])

    threads = [threading.Thread(target=write, args=(name,)) for name in "abc"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (store.revision, len(store)) == (60, 60)


def test_another_process_is_waited_for_and_then_named(tmp_path: Path) -> None:
    store = FactStore(tmp_path / "facts.db", timeout=0.2)
    other = sqlite3.connect(store.path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    assert len(store) == 0  # readers do not wait
    with pytest.raises(StoreError, match=r"facts.db: adding edits failed: another process .* locked for 0.2 s"):
        store.add([Edit(prompt="Q", target_new="x")])
    other.execute("ROLLBACK")
    assert store.add([Edit(prompt="Q", target_new="x")]).revision == 1


def test_a_full_disk_changes_nothing(tmp_path: Path) -> None:
    store = FactStore(tmp_path / "facts.db")
    store.add([Edit(prompt="kept", target_new="x")])
    # SQLite's own limit of pages fails as a full disk does, with SQLITE_FULL in the middle of the transaction.
    pages = store._connection.execute("PRAGMA page_count").fetchone()[0]
    store._connection.execute(f"PRAGMA max_page_count = {pages + 2}")
    with pytest.raises(StoreError, match="adding edits failed: the disk is full; free some space") as caught:
        store.add([Edit(prompt=f"{number}", target_new="x" * 2000) for number in range(50)])
    assert "\n" not in str(caught.value)
    store._connection.execute("PRAGMA max_page_count = 100000")
    assert [stored.edit.prompt for stored in store.live()] == ["kept"]
    assert store.add([Edit(prompt="next", target_new="x")]).revision == 2


def test_a_store_that_may_only_be_read_says_so() -> None:
    child = """
import os, sys
from onceedit_ray.errors import StoreError
from onceedit_ray.knowledge.edit import Edit
from onceedit_ray.knowledge.fact_store import FactStore
if os.geteuid() == 0:
    os.setuid(65534)
try:
    FactStore(sys.argv[1]).add([Edit(prompt="Q", target_new="x")])
except StoreError as error:
    print(error)
"""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "facts.db"
        FactStore(path).close()
        os.chmod(path, 0o444)
        os.chmod(folder, 0o555)
        try:
            command = [sys.executable, "-c", child, str(path)]
            result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
        finally:
            os.chmod(folder, 0o755)
    assert result.stderr == ""
    assert result.stdout.startswith(f"{path}: opening failed: it ")
    assert "may only be read" in result.stdout or "cannot be opened" in result.stdout


def test_reading_only(tmp_path: Path) -> None:
    path = tmp_path / "fa?cts#1.db"
    with pytest.raises(StoreError, match="there is no such file to read"):
        FactStore(path, read_only=True)
    writing = FactStore(path)
    reading = FactStore(path, read_only=True)
    writing.add([Edit(prompt="Q", target_new="x")])
    assert (reading.revision, len(reading.changes_since(0).added)) == (1, 1)
    with pytest.raises(StoreError, match="it may only be read"):
        reading.add([Edit(prompt="R", target_new="x")])


def test_files_that_are_no_fact_store(tmp_path: Path) -> None:
    (tmp_path / "text.db").write_text("these are no edits, and long enough to be looked at\n" * 20)
    with pytest.raises(StoreError, match=r"text\.db: opening failed: it is no database; name another file"):
        FactStore(tmp_path / "text.db")
    sqlite3.connect(tmp_path / "other.db").execute("CREATE TABLE t (x)")
    with pytest.raises(StoreError, match=r"other\.db: is an SQLite database of another program"):
        FactStore(tmp_path / "other.db")
    with pytest.raises(StoreError, match="cannot be opened"):
        FactStore(tmp_path)
    with pytest.raises(StoreError, match=r"text.db.*: cannot be made"):
        FactStore(tmp_path / "text.db" / "facts.db")
    (tmp_path / "empty.db").touch()  # what a process leaves that was killed between making and filling the file
    assert len(FactStore(tmp_path / "empty.db")) == 0


def test_a_newer_schema_is_refused_and_left_alone(tmp_path: Path) -> None:
    FactStore(tmp_path / "facts.db").close()
    connection = sqlite3.connect(tmp_path / "facts.db")
    connection.execute(f"PRAGMA user_version = {SCHEMA + 1}")
    connection.close()
    with pytest.raises(StoreError, match=f"newer OnceEdit .* version {SCHEMA + 1}, .* up to {SCHEMA}"):
        FactStore(tmp_path / "facts.db")


def test_a_damaged_file_is_told(tmp_path: Path) -> None:
    store = FactStore(tmp_path / "facts.db")
    store.add([Edit(prompt=f"{number}", target_new="x" * 3000) for number in range(50)])
    store.close()
    content = bytearray((tmp_path / "facts.db").read_bytes())
    content[8192:-4096] = b"\xff" * (len(content) - 8192 - 4096)
    (tmp_path / "facts.db").write_bytes(content)
    with pytest.raises(StoreError, match=r"facts.db: .* failed: the file is damaged"):
        FactStore(tmp_path / "facts.db").live()


def test_a_closed_store_says_so(tmp_path: Path) -> None:
    with FactStore(tmp_path / "facts.db") as store:
        store.add([Edit(prompt="Q", target_new="x")])
    with pytest.raises(StoreError, match="open the store again"):
        store.live()
