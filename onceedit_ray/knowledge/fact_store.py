"""The live edits and their whole history: one SQLite file with one row for each edit.

The history is a linear sequence of revisions. Revision 0 is empty; each call of `add`, `remove` or `restore` is one
transaction and makes the next revision. Nothing is overwritten: an edit has one span of revisions for each time it was
live, so the exact live set of any revision can be read or restored.

The file is in WAL mode and every commit is synchronised (`synchronous=FULL`): the result of a call that has returned
survives `kill -9` and a power cut. `NORMAL` would save one fsync per call, but could lose completed calls in a power
cut. Several processes may open the file, one writes at a time and the others wait. It must be on a local disk: WAL
needs shared memory between processes, which network filesystems do not provide.

This module does not know how an edit is found (`fact_index`) or answered.
"""

from __future__ import annotations

import hashlib
import json
import secrets
import sqlite3
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from onceedit_ray.errors import ConfigError, StoreError, UnknownIdError
from onceedit_ray.knowledge.edit import Edit
from onceedit_ray.knowledge.fact_file import connect, explained, prepare
from onceedit_ray.knowledge.revision import Change, Revision, StoredEdit
from onceedit_ray.knowledge.selection import OnConflict, normalised, select

_SPANS = "FROM spans JOIN edits ON edits.serial = spans.edit"
_COLUMNS = f"edits.id, edits.content, edits.revision, spans.until {_SPANS}"
_BEGUN = "(SELECT count(*) FROM spans WHERE since = :new)"
_ENDED = "(SELECT count(*) FROM spans WHERE until = :new)"
_LIVE_BEFORE = "(SELECT live FROM revisions WHERE revision = :before)"
_LIVE_AT = "spans.since <= :at AND (spans.until IS NULL OR spans.until > :at)"


class FactStore:
    """The edits of one file, which is created if it is missing.

    One object may be used by all threads of a process. A forked child opens its own.

    Args:
        path: a local file; its folder is made too. SQLite keeps `<path>-wal` and `<path>-shm` beside it.
        timeout: seconds to wait while another process writes.
        read_only: never write, and never create a file.

    Raises:
        StoreError: one line; the file is no fact store, was written by a newer version, is damaged, cannot be read or
            written, was locked for longer than `timeout`, or the disk is full. All methods raise it too. A call that
            fails changes nothing.
    """

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

    def add(
        self,
        edits: Sequence[Edit],
        note: str = "",
        report: Mapping[str, Any] | None = None,
        on_conflict: OnConflict = "error",
    ) -> Change:
        """Make edits live, all or none, as one revision.

        A live edit of the same prompt (`selection.normalised`) is replaced: it is in `dropped`, and `replaced` names
        the pair. One that is equal in every field is left as it is, under its id, and is in `kept`.

        Args:
            note: text for humans, stored with the revision.
            report: JSON, stored with the revision.
            on_conflict: as in `selection.select`, for several answers to one prompt in this call.

        Raises:
            ConflictError: the call gives one prompt two answers, where `on_conflict` is "error".
        """
        chosen = select(edits, on_conflict=on_conflict)
        with self._revision("adding edits", note, report) as (revision, before):
            kept: list[StoredEdit] = []
            for edit in chosen:
                key, content = _prompt_key(edit), _content(edit)
                held = self._one(f"SELECT {_COLUMNS} WHERE spans.prompt = ? AND spans.until IS NULL", key)
                if held is not None and held[1] == content:
                    kept.append(_stored(held))
                    continue
                if held is not None:
                    self._connection.execute(
                        "UPDATE spans SET until = ? WHERE prompt = ? AND until IS NULL", (revision, key)
                    )
                row = self._connection.execute(
                    "INSERT INTO edits (id, content, revision) VALUES (?, ?, ?)", (_new_id(), content, revision)
                )
                self._open_span(row.lastrowid, key, revision)
            change = self._change(before, revision)
        return Change(change.since, change.revision, change.added, change.dropped, change.replaced, tuple(kept))

    def remove(self, ids: Iterable[str], note: str = "", report: Mapping[str, Any] | None = None) -> Change:
        """Make edits no longer live, all or none, as one revision.

        Raises:
            UnknownIdError: there is no such edit, or it is not live.
        """
        with self._revision("removing edits", note, report) as (revision, before):
            for id in dict.fromkeys(ids):
                row = self._one(f"SELECT max(spans.since), spans.until, edits.serial {_SPANS} WHERE edits.id = ?", id)
                if row is None or row[2] is None:
                    raise _no_such_edit(id)
                if row[1] is not None:
                    raise UnknownIdError(
                        f"edit '{id}' is not live: revision {row[1]} dropped it; add it again, or restore an earlier "
                        "revision"
                    )
                self._connection.execute(
                    "UPDATE spans SET until = ? WHERE until IS NULL AND edit = ?", (revision, row[2])
                )
            change = self._change(before, revision)
        return change

    def restore(self, revision: int, note: str = "", report: Mapping[str, Any] | None = None) -> Change:
        """Make a new revision whose live edits are exactly those of an old one, under their ids.

        Raises:
            UnknownIdError: there is no such revision.
        """
        with self._revision("restoring", note, report, restored=revision) as (new, before):
            self._refuse_unknown(revision, before)
            then = f"SELECT edit FROM spans WHERE {_LIVE_AT}"
            self._connection.execute(
                f"UPDATE spans SET until = :new WHERE until IS NULL AND edit NOT IN ({then})",
                {"new": new, "at": revision},
            )
            self._connection.execute(
                "INSERT INTO spans (edit, prompt, since) SELECT edit, prompt, :new FROM spans "
                f"WHERE {_LIVE_AT} AND edit NOT IN (SELECT edit FROM spans WHERE until IS NULL)",
                {"new": new, "at": revision},
            )
            change = self._change(before, new)
        return change

    def live(self, revision: int | None = None) -> list[StoredEdit]:
        """The edits that are live, or were at `revision`, the oldest first.

        Raises:
            UnknownIdError: there is no such revision.
        """
        with self._reading("reading its edits"):
            newest = self.revision
            at = newest if revision is None else revision
            self._refuse_unknown(at, newest)
            rows = self._all(f"SELECT {_COLUMNS} WHERE {_LIVE_AT} ORDER BY edits.serial", {"at": at})
        return [_stored(row) for row in rows]

    def page(self, after: str | None = None, limit: int = 20) -> list[StoredEdit]:
        """At most `limit` live edits, the newest first, starting after the edit `after`, which need not be live.

        Raises:
            UnknownIdError: there never was an edit `after`.
        """
        _refuse_below_one(limit)
        with self._reading("reading a page of its edits"):
            start = None if after is None else self._serial(after)
            rows = self._all(
                f"SELECT {_COLUMNS} WHERE spans.until IS NULL AND (:start IS NULL OR edits.serial < :start) "
                "ORDER BY edits.serial DESC LIMIT :limit",
                {"start": start, "limit": limit},
            )
        return [_stored(row) for row in rows]

    def get(self, id: str) -> StoredEdit:
        """The edit `id`, live or not; `UnknownIdError` if there never was one."""
        with self._reading("reading an edit"):
            row = self._one(f"SELECT {_COLUMNS} WHERE edits.id = ? ORDER BY spans.since DESC LIMIT 1", id)
        if row is None:
            raise _no_such_edit(id)
        return _stored(row)

    def revisions(self, limit: int = 20) -> list[Revision]:
        """The last `limit` revisions, the newest first, without the empty revision 0."""
        _refuse_below_one(limit)
        with self._reading("reading its revisions"):
            rows = self._all(
                "SELECT revision, created, note, added, dropped, live, restored, report FROM revisions "
                "ORDER BY revision DESC LIMIT ?",
                (limit,),
            )
        return [_revision(row) for row in rows]

    def set_report(self, revision: int, report: Mapping[str, Any]) -> None:
        """Store a JSON report with a revision, replacing the old one; `UnknownIdError` if there is no such revision."""
        with self._writing("keeping a report"):
            done = self._connection.execute(
                "UPDATE revisions SET report = ? WHERE revision = ?", (json.dumps(dict(report)), revision)
            )
            if not done.rowcount:
                raise UnknownIdError(f"{self.path}: no revision {revision} to keep a report with")

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

    def __enter__(self) -> FactStore:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _change(self, since: int, revision: int) -> Change:
        """The difference between two revisions, of which `revision` is the newest."""
        # Only spans that began or ended in between are read; the unary plus keeps SQLite on the index of beginnings.
        added = self._all(
            f"SELECT {_COLUMNS} WHERE spans.since > :at AND +spans.until IS NULL AND NOT EXISTS (SELECT 1 FROM spans "
            "AS old WHERE old.edit = spans.edit AND old.since <= :at AND old.until > :at) ORDER BY edits.serial",
            {"at": since},
        )
        dropped = self._all(
            f"SELECT {_COLUMNS} WHERE spans.until > :at AND spans.since <= :at AND NOT EXISTS (SELECT 1 FROM spans "
            "AS now WHERE now.edit = spans.edit AND now.until IS NULL) ORDER BY edits.serial",
            {"at": since},
        )
        return Change.between(since, revision, map(_stored, added), map(_stored, dropped))

    @contextmanager
    def _revision(
        self, doing: str, note: str, report: Mapping[str, Any] | None, restored: int | None = None
    ) -> Iterator[tuple[int, int]]:
        """A transaction that makes a revision; yields its number and that of the one before."""
        with self._writing(doing):
            before = self.revision
            yield before + 1, before
            self._connection.execute(
                f"WITH counts AS (SELECT {_BEGUN} AS added, {_ENDED} AS dropped, coalesce({_LIVE_BEFORE}, 0) AS live) "
                "INSERT INTO revisions (revision, created, note, added, dropped, live, restored, report) "
                "SELECT :new, :created, :note, added, dropped, live + added - dropped, :restored, :report FROM counts",
                {
                    "new": before + 1,
                    "before": before,
                    "created": datetime.now(UTC).isoformat(),
                    "note": note.encode(errors="replace").decode(),
                    "restored": restored,
                    "report": json.dumps(dict(report or {})),
                },
            )

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

    def _open_span(self, edit: int | None, key: bytes, revision: int) -> None:
        self._connection.execute("INSERT INTO spans (edit, prompt, since) VALUES (?, ?, ?)", (edit, key, revision))

    def _serial(self, id: str) -> int:
        row = self._one("SELECT serial FROM edits WHERE id = ?", id)
        if row is None:
            raise _no_such_edit(id)
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


def _stored(row: tuple[Any, ...]) -> StoredEdit:
    try:
        return StoredEdit(row[0], Edit.model_validate_json(row[1]), row[2], row[3])
    except ValueError as error:
        first = str(error).splitlines()[-1].strip()
        raise StoreError(f"edit '{row[0]}' cannot be read ({first}); upgrade OnceEdit, or remove the edit") from error


def _revision(row: tuple[Any, ...]) -> Revision:
    number, created, note, added, dropped, live, restored, report = row
    return Revision(number, datetime.fromisoformat(created), note, added, dropped, live, restored, json.loads(report))


def _content(edit: Edit) -> str:
    # Defaults are left out, so that an edit stored before a field was added equals the same edit given afterwards.
    return json.dumps(edit.model_dump(mode="json", exclude_defaults=True), sort_keys=True, ensure_ascii=False)


def _prompt_key(edit: Edit) -> bytes:
    """SHA-256 of the prompt by which edits are compared: a prompt may be as long as a paragraph."""
    return hashlib.sha256(normalised(edit.prompt).encode()).digest()


def _new_id() -> str:
    """Ids sort by the millisecond in which they were made, and 64 random bits keep them apart."""
    return f"edit_{time.time_ns() // 1_000_000:012x}{secrets.token_hex(8)}"


def _no_such_edit(id: str) -> UnknownIdError:
    return UnknownIdError(f"no edit '{id}'; list the edits to see those that there are")


def _refuse_below_one(limit: int) -> None:
    if limit < 1:
        raise ConfigError(f"limit is {limit}; it must be at least 1")
