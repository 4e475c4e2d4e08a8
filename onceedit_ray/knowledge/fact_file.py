"""The SQLite file of a fact store: how it is opened, its tables, and its errors as one line each."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

from onceedit_ray.errors import StoreError

APPLICATION_ID = 0x0EFAC75
"""SQLite's `application_id`, which marks the file as a fact store."""
SCHEMA = 1
"""The version of the tables, in SQLite's `user_version`."""

_TABLES = (
    """CREATE TABLE revisions (
        revision INTEGER PRIMARY KEY, version TEXT NOT NULL, root TEXT NOT NULL, created TEXT NOT NULL,
        note TEXT NOT NULL, added INTEGER NOT NULL, dropped INTEGER NOT NULL, live INTEGER NOT NULL, restored INTEGER,
        report TEXT NOT NULL
    ) STRICT""",
    """CREATE TABLE edits (
        serial INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, content TEXT NOT NULL,
        revision INTEGER NOT NULL
    ) STRICT""",
    # An edit is live from revision `since` on, and no longer from `until` on.
    """CREATE TABLE spans (
        edit INTEGER NOT NULL REFERENCES edits, prompt BLOB NOT NULL, since INTEGER NOT NULL, until INTEGER,
        PRIMARY KEY (edit, since)
    ) STRICT, WITHOUT ROWID""",
    "CREATE UNIQUE INDEX one_live_edit_a_prompt ON spans (prompt) WHERE until IS NULL",
    "CREATE INDEX begun ON spans (since, prompt)",
    "CREATE INDEX ended ON spans (until, prompt) WHERE until IS NOT NULL",
    "CREATE INDEX of_revision ON edits (revision)",
    "CREATE INDEX named ON revisions (version)",
    f"PRAGMA application_id = {APPLICATION_ID}",
    f"PRAGMA user_version = {SCHEMA}",
)


def connect(path: Path, timeout: float, read_only: bool) -> sqlite3.Connection:
    """A connection without automatic transactions; waits up to `timeout` seconds for a lock."""
    with explained(path, "opening", timeout):
        if read_only and not path.is_file():
            raise StoreError(f"{path}: there is no such file to read; check the path")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StoreError(f"{path.parent}: cannot be made ({error.strerror}); name another folder") from error
        address = f"file:{quote(str(path.absolute()))}?mode={'ro' if read_only else 'rwc'}"
        return sqlite3.connect(address, uri=True, timeout=timeout, isolation_level=None, check_same_thread=False)


def prepare(connection: sqlite3.Connection, path: Path, timeout: float, read_only: bool) -> None:
    """Make the tables if the file is new; refuse a file that is not a fact store.

    Raises:
        StoreError: the file belongs to another program, or to a newer version of this one.
    """
    _refuse_foreign(connection, path)
    if read_only:
        return
    _use_wal(connection, timeout)
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("PRAGMA foreign_keys = ON")
    connection.execute("BEGIN IMMEDIATE")
    try:
        # Another process may have made the tables while this one waited.
        if _pragma(connection, "application_id") != APPLICATION_ID:
            for statement in _TABLES:
                connection.execute(statement)
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


@contextmanager
def explained(path: Path, doing: str, timeout: float) -> Iterator[None]:
    """Turn SQLite errors, and no others, into a `StoreError` of one line."""
    try:
        yield
    except sqlite3.Error as error:
        name = getattr(error, "sqlite_errorname", None) or type(error).__name__
        raise StoreError(f"{path}: {doing} failed: {_reason(name, str(error), timeout)}") from error


def _reason(name: str, message: str, timeout: float) -> str:
    reasons = {
        "SQLITE_BUSY": f"another process has kept it locked for {timeout:g} s; try again, or end that process",
        "SQLITE_LOCKED": f"another process has kept it locked for {timeout:g} s; try again, or end that process",
        "SQLITE_FULL": "the disk is full; free some space and try again",
        "SQLITE_READONLY": "it may only be read; check the rights of the file and its folder",
        "SQLITE_NOTADB": "it is no database; name another file",
        "SQLITE_CORRUPT": f"the file is damaged ({message}); put a copy in its place",
        "SQLITE_CANTOPEN": "it cannot be opened; check that its folder is there and may be written",
        "SQLITE_IOERR": f"the disk reports an error ({message}); check the disk, its quota and the file size limit",
        "ProgrammingError": f"{message.rstrip('.').lower()}; open the store again",
    }
    kind = next((kind for kind in reasons if name == kind or name.startswith(f"{kind}_")), None)
    return reasons[kind] if kind else f"{message} ({name}); check the file with `sqlite3 FILE 'PRAGMA integrity_check'`"


def _refuse_foreign(connection: sqlite3.Connection, path: Path) -> None:
    owner, schema = _pragma(connection, "application_id"), _pragma(connection, "user_version")
    if owner != APPLICATION_ID:
        if connection.execute("SELECT 1 FROM sqlite_master LIMIT 1").fetchone():
            raise StoreError(f"{path}: is an SQLite database of another program; name another file")
    elif schema > SCHEMA:
        raise StoreError(
            f"{path}: is of a newer OnceEdit (its tables are version {schema}, known are those up to {SCHEMA}); upgrade"
        )


def _use_wal(connection: sqlite3.Connection, timeout: float) -> None:
    """Set WAL mode. Retries, since SQLite does not wait by itself if two processes open a new file at the same time."""
    end = time.monotonic() + timeout
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError as error:
            busy = str(getattr(error, "sqlite_errorname", "")).startswith("SQLITE_BUSY")
            if not busy or time.monotonic() > end:
                raise
            time.sleep(0.01)


def _pragma(connection: sqlite3.Connection, name: str) -> int:
    return int(connection.execute(f"PRAGMA {name}").fetchone()[0])
