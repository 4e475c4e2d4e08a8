"""The rows of a fact store as Python values, and the queries that several of its methods share."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any

from onceedit_ray.errors import StoreError
from onceedit_ray.knowledge.edit import STORED, Edit
from onceedit_ray.knowledge.revision import EditHistory, Revision, StoredEdit

REVISIONS = "SELECT revision, version, root, created, note, added, dropped, live, restored, report FROM revisions"
"""The query whose rows `revision_of` reads."""

_LATEST_SPAN = "FROM spans WHERE spans.edit = edits.serial ORDER BY since DESC LIMIT 1"
LATEST = f"(SELECT until {_LATEST_SPAN})"
"""The revision that dropped an edit, NULL if it is live."""
_PROMPT = f"(SELECT prompt {_LATEST_SPAN})"
_REPLACES = (
    "(SELECT group_concat(old.id) FROM spans JOIN edits AS old ON old.serial = spans.edit "
    f"WHERE spans.until = edits.revision AND spans.prompt = {_PROMPT} AND spans.edit != edits.serial)"
)
_REPLACED_BY = (
    "(SELECT new.id FROM spans JOIN edits AS new ON new.serial = spans.edit "
    f"WHERE spans.since = {LATEST} AND spans.prompt = {_PROMPT} AND spans.edit != edits.serial)"
)
_UNDONE = (
    "(SELECT gone.restored IS NOT NULL OR gone.version = gone.root FROM revisions AS gone "
    f"WHERE gone.revision = {LATEST})"
)
HISTORY = (
    f"SELECT edits.id, edits.content, edits.revision, {LATEST}, begun.created, begun.version, {_REPLACES}, "
    f"{_REPLACED_BY}, (SELECT version FROM revisions WHERE revision = {LATEST}), {_UNDONE} "
    "FROM edits JOIN revisions AS begun ON begun.revision = edits.revision"
)
"""The query whose rows `history_of` reads."""


def stored_of(row: tuple[Any, ...]) -> StoredEdit:
    """An edit from (id, content, revision that added it, revision that dropped it)."""
    try:
        return StoredEdit(row[0], Edit.model_validate_json(row[1], context=STORED), row[2], row[3])
    except ValueError as error:
        first = str(error).splitlines()[-1].strip()
        raise StoreError(f"edit '{row[0]}' cannot be read ({first}); upgrade OnceEdit, or remove the edit") from error


def revision_of(row: tuple[Any, ...]) -> Revision:
    """A revision from a row of `REVISIONS`."""
    number, version, root, created, note, added, dropped, live, restored, report = row
    made = datetime.fromisoformat(created)
    return Revision(number, version, root, made, note, added, dropped, live, restored, json.loads(report))


def history_of(row: tuple[Any, ...]) -> EditHistory:
    """An edit and what became of it, from a row of `HISTORY`."""
    created, version, replaces, replaced_by, dropped_by, undone = row[4:]
    return EditHistory(
        stored_of(row[:4]),
        datetime.fromisoformat(created),
        version,
        tuple(replaces.split(",")) if replaces else (),
        replaced_by,
        dropped_by,
        bool(undone),
    )
