"""Edits of the fact store as the API returns them. A batch is a revision: the edits that it was the first to add."""

from __future__ import annotations

from collections.abc import Sequence

from onceedit_ray.knowledge.revision import EditHistory, Revision
from onceedit_ray.living.edit_views import BatchView, EditView

_BATCH = "batch_"


def batch_number(id: str) -> int | None:
    """The revision that a batch's id names; None if it is no batch's id."""
    number = id.removeprefix(_BATCH)
    return int(number) if number != id and number.isascii() and number.isdecimal() and len(number) < 16 else None


def edit_of(history: EditHistory) -> EditView:
    """An edit as the API returns it."""
    stored = history.stored
    return EditView(
        **stored.edit.model_dump(),
        id=stored.id,
        batch=f"{_BATCH}{stored.revision}",
        created=int(history.created.timestamp()),
        status="live" if stored.dropped is None else "deleted",
        progress=1.0,
        reason=_reason(history),
        version=history.version,
        replaces=history.replaces,
    )


def batch_of(revision: Revision, histories: Sequence[EditHistory]) -> BatchView:
    """A revision as the API returns a batch; `histories` are its edits."""
    return BatchView(
        id=f"{_BATCH}{revision.revision}",
        created=int(revision.created.timestamp()),
        status="live" if any(each.stored.dropped is None for each in histories) else "deleted",
        progress=1.0,
        reason=None,
        version=revision.version,
        report=revision.report or None,
        data=[edit_of(each) for each in histories],
    )


def _reason(history: EditHistory) -> str | None:
    if history.replaced_by is not None and not history.undone:
        return f"replaced by {history.replaced_by}, which gives its prompt another answer"
    return f"not known to version {history.dropped_by}, which was activated" if history.undone else None
