"""A revision of the knowledge, the edits it holds, and the difference between two."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from onceedit_ray.knowledge.edit import Edit
from onceedit_ray.knowledge.selection import question_key


@dataclass(frozen=True)
class StoredEdit:
    """A stored edit.

    id: unique, and the same in every revision and after a restore.
    revision: the revision that first added it.
    dropped: the revision that dropped it, as known when it was read; None if it is live.
    """

    id: str
    edit: Edit
    revision: int
    dropped: int | None = None


@dataclass(frozen=True)
class Change:
    """What differs between two revisions.

    since, revision: the two, the older first.
    added: edits that are live in `revision` only, the oldest first.
    dropped: edits that were live in `since` only, the oldest first.
    replaced: for the id of an added edit, the id of the dropped edit of the same prompt.
    kept: edits that were given again and were live already, equal in every field.
    """

    since: int
    revision: int
    added: tuple[StoredEdit, ...] = ()
    dropped: tuple[StoredEdit, ...] = ()
    replaced: Mapping[str, str] = field(default_factory=dict)
    kept: tuple[StoredEdit, ...] = ()

    @classmethod
    def between(cls, since: int, revision: int, added: Iterable[StoredEdit], dropped: Iterable[StoredEdit]) -> Change:
        """A change, with the pairs that replace one another found by their prompts."""
        added, dropped = tuple(added), tuple(dropped)
        old = {question_key(stored.edit.prompt): stored.id for stored in dropped}
        prompts = {stored.id: question_key(stored.edit.prompt) for stored in added}
        replaced = {id: old[prompt] for id, prompt in prompts.items() if prompt in old}
        return cls(since, revision, added, dropped, replaced)


@dataclass(frozen=True)
class Revision:
    """One step of the history.

    version: the id by which its edits are known; a revision that restored an old one has that one's.
    root: the id of the version in a folder from which this line of revisions began; it names the reader.
    created: when it was committed, UTC.
    added, dropped, live: numbers of edits.
    restored: the revision whose edits it restored; None for other steps.
    report: its measurements; empty if nothing was measured.
    """

    revision: int
    version: str
    root: str
    created: datetime
    note: str
    added: int
    dropped: int
    live: int
    restored: int | None
    report: dict[str, Any]


@dataclass(frozen=True)
class EditHistory:
    """An edit and what became of it.

    created: when it was first added, UTC. version: the one that first knew it. replaces: ids of the edits whose place
    it took. replaced_by: the edit that took its place; None if there is none. dropped_by: the version that no longer
    knows it; None if it is live. undone: whether it was dropped because other edits were activated as a whole.
    """

    stored: StoredEdit
    created: datetime
    version: str
    replaces: tuple[str, ...] = ()
    replaced_by: str | None = None
    dropped_by: str | None = None
    undone: bool = False
