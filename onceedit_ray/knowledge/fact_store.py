"""The live edits and their whole history: one SQLite file with one row for each edit.

The history is a linear sequence of revisions. Revision 0 is empty; each call of `add`, `remove`, `put` or `restore` is
one transaction and makes the next revision. Nothing is overwritten: an edit has one span of revisions for each time it
was live, so the exact live set of any revision can be read or restored. Each revision has the id of a version: that of
the version in a folder whose edits it took over, or `<that id>.r<revision>`.

The file is in WAL mode and every commit is synchronised (`synchronous=FULL`): the result of a call that has returned
survives `kill -9` and a power cut. `NORMAL` would save one fsync per call, but could lose completed calls in a power
cut. Several processes may open the file, one writes at a time and the others wait. It must be on a local disk: WAL
needs shared memory between processes, which network filesystems do not provide.

This module does not know how an edit is found (`fact_index`) or answered.
"""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from onceedit_ray.errors import UnknownIdError
from onceedit_ray.knowledge.edit import Edit
from onceedit_ray.knowledge.fact_history import COLUMNS, SPANS, FactHistory, no_such_edit, prompt_key
from onceedit_ray.knowledge.fact_rows import stored_of
from onceedit_ray.knowledge.revision import Change, StoredEdit
from onceedit_ray.knowledge.selection import OnConflict, question_key, select

_BEGUN = "(SELECT count(*) FROM spans WHERE since = :new)"
_ENDED = "(SELECT count(*) FROM spans WHERE until = :new)"
_LIVE_BEFORE = "(SELECT live FROM revisions WHERE revision = :before)"


class FactStore(FactHistory):
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

    def add(
        self,
        edits: Sequence[Edit],
        note: str = "",
        report: Mapping[str, Any] | None = None,
        on_conflict: OnConflict = "error",
    ) -> Change:
        """Make edits live, all or none, as one revision.

        A live edit of the same prompt (`selection.question_key`) is replaced: it is in `dropped`, and `replaced` names
        the pair. An edit that is equal in every field is left as it is, under its id, and is in `kept`.

        Args:
            note: text for humans, stored with the revision.
            report: JSON, stored with the revision.
            on_conflict: as in `selection.select`, for several answers to one prompt in this call.

        Raises:
            ConflictError: the call gives one prompt two answers, where `on_conflict` is "error".
        """
        chosen = select(edits, on_conflict=on_conflict, same=question_key)
        with self._revision("adding edits", note, report) as (revision, before):
            kept = self._insert(chosen, revision)
            change = self._change(before, revision)
        return replace(change, kept=tuple(kept))

    def put(self, edits: Sequence[Edit], version: str) -> Change:
        """Make exactly these edits live, as one revision that begins a line of its own: that of a version in a folder.

        An edit that is live and equal in every field stays, under its id. If the store has had this version before, its
        edits are restored.

        Args:
            version: the id of the version; also the first part of the ids of the revisions that follow.

        Raises:
            ConflictError: one prompt has two answers.
        """
        chosen = select(edits, same=question_key)
        wanted = {(prompt_key(edit), _content(edit)) for edit in chosen}
        with self._writing("putting edits in place"):
            known = self.find(version)
            if known is not None:
                return self.restore(known.revision)
            with self._revision("putting edits in place", "", None, version=version) as (revision, before):
                live = self._all(f"SELECT prompt, content, edit {SPANS} WHERE until IS NULL", ())
                gone = [(revision, edit) for prompt, content, edit in live if (prompt, content) not in wanted]
                self._connection.executemany("UPDATE spans SET until = ? WHERE edit = ? AND until IS NULL", gone)
                self._insert(chosen, revision)
                return self._change(before, revision)

    def remove(self, ids: Iterable[str], note: str = "", report: Mapping[str, Any] | None = None) -> Change:
        """Make edits no longer live, all or none, as one revision.

        Raises:
            UnknownIdError: there is no such edit, or it is not live.
        """
        with self._revision("removing edits", note, report) as (revision, before):
            for id in dict.fromkeys(ids):
                row = self._one(f"SELECT max(spans.since), spans.until, edits.serial {SPANS} WHERE edits.id = ?", id)
                if row is None or row[2] is None:
                    raise no_such_edit(id)
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
            since = self._change(revision, before)
            self._connection.executemany(
                "UPDATE spans SET until = ? WHERE until IS NULL AND edit = (SELECT serial FROM edits WHERE id = ?)",
                [(new, stored.id) for stored in since.added],
            )
            self._connection.executemany(
                "INSERT INTO spans (edit, prompt, since) SELECT edit, prompt, ? FROM spans "
                "WHERE edit = (SELECT serial FROM edits WHERE id = ?) ORDER BY since DESC LIMIT 1",
                [(new, stored.id) for stored in since.dropped],
            )
            change = self._change(before, new)
        return change

    @contextmanager
    def _revision(
        self,
        doing: str,
        note: str,
        report: Mapping[str, Any] | None,
        restored: int | None = None,
        version: str | None = None,
    ) -> Iterator[tuple[int, int]]:
        """A transaction that makes a revision; yields its number and that of the one before.

        It has the id of the revision that it restores, else `version`, else a new one of the same line as the one
        before.
        """
        with self._writing(doing):
            before = self.revision
            yield before + 1, before
            old = before if restored is None else restored
            named = self._one("SELECT version, root FROM revisions WHERE revision = ?", old) or ("", "")
            if restored is None:
                root = named[1] if version is None else version
                named = (version or f"{root}{'.' * bool(root)}r{before + 1}", root)
            self._connection.execute(
                f"WITH counts AS (SELECT {_BEGUN} AS added, {_ENDED} AS dropped, coalesce({_LIVE_BEFORE}, 0) AS live) "
                "INSERT INTO revisions "
                "(revision, version, root, created, note, added, dropped, live, restored, report) "
                "SELECT :new, :version, :root, :created, :note, added, dropped, live + added - dropped, :restored, "
                ":report FROM counts",
                {
                    "new": before + 1,
                    "version": named[0],
                    "root": named[1],
                    "before": before,
                    "created": datetime.now(UTC).isoformat(),
                    "note": note.encode(errors="replace").decode(),
                    "restored": restored,
                    "report": json.dumps(dict(report or {})),
                },
            )

    def _insert(self, edits: Sequence[Edit], revision: int) -> list[StoredEdit]:
        """Make edits live from `revision` on; returns those that are live already, which stay as they are."""
        kept: list[StoredEdit] = []
        for edit in edits:
            key, content = prompt_key(edit), _content(edit)
            held = self._one(f"SELECT {COLUMNS} WHERE spans.prompt = ? AND spans.until IS NULL", key)
            if held is not None and held[1] == content:
                kept.append(stored_of(held))
                continue
            if held is not None:
                self._connection.execute(
                    "UPDATE spans SET until = ? WHERE prompt = ? AND until IS NULL", (revision, key)
                )
            row = self._connection.execute(
                "INSERT INTO edits (id, content, revision) VALUES (?, ?, ?)", (_new_id(), content, revision)
            )
            self._open_span(row.lastrowid, key, revision)
        return kept

    def _open_span(self, edit: int | None, key: bytes, revision: int) -> None:
        self._connection.execute("INSERT INTO spans (edit, prompt, since) VALUES (?, ?, ?)", (edit, key, revision))


def _content(edit: Edit) -> str:
    # Defaults are left out, so that an edit stored before a field was added equals the same edit given afterwards.
    return json.dumps(edit.model_dump(mode="json", exclude_defaults=True), sort_keys=True, ensure_ascii=False)


def _new_id() -> str:
    """Ids sort by the millisecond in which they were made, and 64 random bits keep them apart."""
    return f"edit_{time.time_ns() // 1_000_000:012x}{secrets.token_hex(8)}"
