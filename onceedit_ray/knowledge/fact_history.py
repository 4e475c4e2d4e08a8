"""Reads a fact store: the live edits, the history of each, and the differences between revisions."""

from __future__ import annotations

import hashlib
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Self

from onceedit_ray.errors import ConfigError, UnknownIdError
from onceedit_ray.knowledge.edit import Edit
from onceedit_ray.knowledge.fact_file import connect, explained, prepare
from onceedit_ray.knowledge.fact_rows import HISTORY, LATEST, REVISIONS, history_of, revision_of, stored_of
from onceedit_ray.knowledge.revision import Change, EditHistory, Revision, StoredEdit
from onceedit_ray.knowledge.selection import question_key

SPANS = "FROM spans JOIN edits ON edits.serial = spans.edit"
COLUMNS = f"edits.id, edits.content, edits.revision, spans.until {SPANS}"
"""The columns that `stored_of` reads."""
LIVE_AT = "spans.since <= :at AND (spans.until IS NULL OR spans.until > :at)"


class FactHistory:
    """The reading half of `fact_store.FactStore`, whose arguments and errors it has."""

    def __init__(self, path: str | Path, timeout: float = 30.0, read_only: bool = False) -> None:
        self.path = Path(path)
        self._timeout = timeout
        self._lock = threading.RLock()
        self._connection = connect(self.path, timeout, read_only)
        try:
            with self._explained("opening"):
                prepare(self._connection, self.path, timeout, read_only)
        except BaseException:
            self._connection.close()
            raise

    def live(self, revision: int | None = None) -> list[StoredEdit]:
        """The edits that are live, or were at `revision`, the oldest first.

        Raises:
            UnknownIdError: there is no such revision.
        """
        with self._reading("reading its edits"):
            newest = self.revision
            at = newest if revision is None else revision
            self._refuse_unknown(at, newest)
            rows = self._all(f"SELECT {COLUMNS} WHERE {LIVE_AT} ORDER BY edits.serial", {"at": at})
        return [stored_of(row) for row in rows]

    def page(self, after: str | None = None, limit: int = 20, live: bool | None = True) -> list[EditHistory]:
        """At most `limit` edits, the newest first, starting after the edit `after`.

        Args:
            live: whether the edits are live; None lists all that there ever were.

        Raises:
            UnknownIdError: there never was an edit `after`.
        """
        _refuse_below_one(limit)
        state = {None: "", True: f"AND {LATEST} IS NULL", False: f"AND {LATEST} IS NOT NULL"}[live]
        with self._reading("reading a page of its edits"):
            start = None if after is None else self._serial(after)
            rows = self._all(
                f"{HISTORY} WHERE (:start IS NULL OR edits.serial < :start) {state} "
                "ORDER BY edits.serial DESC LIMIT :limit",
                {"start": start, "limit": limit},
            )
        return [history_of(row) for row in rows]

    def get(self, id: str) -> EditHistory:
        """The edit `id`, live or not; `UnknownIdError` if there never was one."""
        with self._reading("reading an edit"):
            row = self._one(f"{HISTORY} WHERE edits.id = ?", id)
        if row is None:
            raise no_such_edit(id)
        return history_of(row)

    def held(self, edits: Sequence[Edit]) -> list[StoredEdit | None]:
        """For each edit the live edit of the same prompt, None if there is none."""
        query = f"SELECT {COLUMNS} WHERE spans.prompt = ? AND spans.until IS NULL"
        with self._reading("looking for edits"):
            rows = [self._one(query, prompt_key(edit)) for edit in edits]
        return [None if row is None else stored_of(row) for row in rows]

    def first_added(self, revision: int) -> list[EditHistory]:
        """The edits that a revision was the first to add, in their order."""
        with self._reading("reading a revision's edits"):
            rows = self._all(f"{HISTORY} WHERE edits.revision = ? ORDER BY edits.serial", (revision,))
        return [history_of(row) for row in rows]

    def revisions(self, limit: int = 20, before: int | None = None, restored: bool = True) -> list[Revision]:
        """The last `limit` revisions, the newest first, without the empty revision 0.

        Args:
            before: only those older than this one. restored: whether those that restored an old one are listed.
        """
        _refuse_below_one(limit)
        with self._reading("reading its revisions"):
            rows = self._all(
                f"{REVISIONS} WHERE (:before IS NULL OR revision < :before) AND (:restored OR restored IS NULL) "
                "ORDER BY revision DESC LIMIT :limit",
                {"before": before, "restored": restored, "limit": limit},
            )
        return [revision_of(row) for row in rows]

    def find(self, version: str) -> Revision | None:
        """The revision that first had this id of a version, None if there is none."""
        with self._reading("looking for a version"):
            row = self._one(f"{REVISIONS} WHERE version = ? ORDER BY revision LIMIT 1", version)
        return None if row is None else revision_of(row)

    def newest(self, root: str) -> Revision | None:
        """The newest revision of the line that began from the version `root`, None if there is none."""
        with self._reading("looking for the newest revision"):
            row = self._one(f"{REVISIONS} WHERE root = ? ORDER BY revision DESC LIMIT 1", root)
        return None if row is None else revision_of(row)

    def changes_since(self, revision: int) -> Change:
        """What an index that holds the live edits of `revision` must drop and add to hold today's.

        Raises:
            UnknownIdError: there is no such revision.
        """
        with self._reading("reading its changes"):
            newest = self.revision
            self._refuse_unknown(revision, newest)
            return self._change(revision, newest)

    @property
    def revision(self) -> int:
        """The newest revision, 0 before the first; one small read, suitable for polling."""
        with self._reading("reading its revision"):
            row = self._one("SELECT coalesce(max(revision), 0) FROM revisions")
        return int(row[0]) if row else 0

    def __len__(self) -> int:
        with self._reading("counting its edits"):
            row = self._one("SELECT count(*) FROM spans WHERE until IS NULL")
        return int(row[0]) if row else 0

    def close(self) -> None:
        """Close the file; further calls fail."""
        with self._lock:
            self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _change(self, since: int, revision: int) -> Change:
        """The difference between two revisions, of which `revision` is the newest."""
        # Only spans that began or ended in between are read; the unary plus keeps SQLite on the index of beginnings.
        added = self._all(
            f"SELECT {COLUMNS} WHERE spans.since > :at AND +spans.until IS NULL AND NOT EXISTS (SELECT 1 FROM spans "
            "AS old WHERE old.edit = spans.edit AND old.since <= :at AND old.until > :at) ORDER BY edits.serial",
            {"at": since},
        )
        dropped = self._all(
            f"SELECT {COLUMNS} WHERE spans.until > :at AND spans.since <= :at AND NOT EXISTS (SELECT 1 FROM spans "
            "AS now WHERE now.edit = spans.edit AND now.until IS NULL) ORDER BY edits.serial",
            {"at": since},
        )
        return Change.between(since, revision, map(stored_of, added), map(stored_of, dropped))

    def _writing(self, doing: str) -> Any:
        return self._transaction("BEGIN IMMEDIATE", doing)

    def _reading(self, doing: str) -> Any:
        return self._transaction("BEGIN", doing)

    @contextmanager
    def _transaction(self, begin: str, doing: str) -> Iterator[None]:
        """All or nothing; a transaction inside another is part of it."""
        with self._lock, self._explained(doing):
            if self._connection.in_transaction:
                yield
                return
            self._connection.execute(begin)
            try:
                yield
                self._connection.execute("COMMIT")
            except BaseException:
                # SQLite has rolled back by itself after some errors, a full disk among them.
                with suppress(sqlite3.Error):
                    self._connection.execute("ROLLBACK")
                raise

    def _explained(self, doing: str) -> Any:
        return explained(self.path, doing, self._timeout)

    def _serial(self, id: str) -> int:
        row = self._one("SELECT serial FROM edits WHERE id = ?", id)
        if row is None:
            raise no_such_edit(id)
        return int(row[0])

    def _refuse_unknown(self, revision: int, newest: int) -> None:
        if not 0 <= revision <= newest:
            raise UnknownIdError(f"{self.path}: no revision {revision}; the newest is {newest}, the first is 0")

    def _one(self, query: str, value: object = None) -> tuple[Any, ...] | None:
        values = value if isinstance(value, dict) else (() if value is None else (value,))
        row: tuple[Any, ...] | None = self._connection.execute(query, values).fetchone()
        return row

    def _all(self, query: str, values: Any) -> list[tuple[Any, ...]]:
        return self._connection.execute(query, values).fetchall()


def prompt_key(edit: Edit) -> bytes:
    """SHA-256 of the prompt by which edits are compared: a prompt may be as long as a paragraph."""
    return hashlib.sha256(question_key(edit.prompt).encode()).digest()


def no_such_edit(id: str) -> UnknownIdError:
    return UnknownIdError(f"no edit '{id}'; list the edits to see those that there are")


def _refuse_below_one(limit: int) -> None:
    if limit < 1:
        raise ConfigError(f"limit is {limit}; it must be at least 1")
