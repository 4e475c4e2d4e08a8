"""A revision of the knowledge, the edits it holds, and the difference between two."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from onceedit_ray.knowledge.edit import Edit
from onceedit_ray.knowledge.selection import normalised


@dataclass(frozen=True)
class StoredEdit:
    """An edit with its name.

    id: unique, and the same in every revision and after a restore.
    revision: the one that brought it first.
    dropped: the one that ended its life, as known when it was read; None where it is live.
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
    replaced: the id of an added edit, to that of the dropped edit of the same prompt.
    kept: edits that were given once more and were live already, equal in every field.
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
        old = {normalised(stored.edit.prompt): stored.id for stored in dropped}
        prompts = {stored.id: normalised(stored.edit.prompt) for stored in added}
        replaced = {id: old[prompt] for id, prompt in prompts.items() if prompt in old}
        return cls(since, revision, added, dropped, replaced)


@dataclass(frozen=True)
class Revision:
    """One step of the history.

    created: when it was committed, UTC.
    added, dropped, live: numbers of edits.
    restored: the revision whose edits it brought back; None for other steps.
    report: what was measured of it; empty where nothing was.
    """

    revision: int
    created: datetime
    note: str
    added: int
    dropped: int
    live: int
    restored: int | None
    report: dict[str, Any]
