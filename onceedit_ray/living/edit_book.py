"""Records every edit that was ever submitted, and its state, in one file that is always replaced as a whole.

It does not make edits; it only knows their states:

    queued → training → evaluating → live → deleting → deleted
                                   ↘ refused
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from onceedit_ray.errors import StoreError
from onceedit_ray.files import replacing
from onceedit_ray.knowledge.edit import STORED, Edit
from onceedit_ray.knowledge.selection import question_key
from onceedit_ray.validation import problems

Status = Literal["queued", "training", "evaluating", "live", "refused", "deleting", "deleted"]
UNDER_WAY: tuple[Status, ...] = ("queued", "training", "evaluating")
"""The states of an edit that is in progress."""
ANSWERED: tuple[Status, ...] = ("live", "deleting")
"""The states of an edit that the active version knows."""


class EditRecord(BaseModel):
    """One edit. version: the version with which it went live or was refused. replaces: ids of the live edits that have
    the same prompt and another answer."""

    model_config = ConfigDict(extra="forbid")

    id: str
    batch: str
    created: int
    edit: Edit
    status: Status = "queued"
    reason: str | None = None
    version: str | None = None
    replaces: list[str] = []


class BatchRecord(BaseModel):
    """The edits of one call. alone: whether it must be trained without other batches; progress: of its version."""

    model_config = ConfigDict(extra="forbid")

    id: str
    created: int
    edits: list[str]
    status: Status = "queued"
    reason: str | None = None
    version: str | None = None
    report: dict[str, Any] | None = None
    alone: bool = False
    progress: float = 0.0


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid")

    edits: list[EditRecord] = []
    batches: list[BatchRecord] = []


class EditBook:
    """The records, in the order of their submission. Call `save` after a change that must survive this process.

    Args:
        path: of the file, which the first `save` creates. Raises `StoreError` if the file is not an edit book.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        found = _read(path)
        self.edits = {record.id: record for record in found.edits}
        self.batches = {record.id: record for record in found.batches}

    def save(self) -> None:
        """Replace the file; a reader sees the old one or the new one. Raises `StoreError` if it cannot be written."""
        content = _File(edits=list(self.edits.values()), batches=list(self.batches.values()))
        with replacing(self._path) as temporary:
            temporary.write_text(content.model_dump_json(indent=1), encoding="utf-8")

    def add(self, edits: Iterable[Edit], status: Status = "queued", created: int | None = None) -> BatchRecord:
        """Add a new batch; it is not saved yet."""
        created = int(time.time()) if created is None else created
        batch = BatchRecord(id=f"batch_{secrets.token_hex(8)}", created=created, edits=[], status=status)
        for edit in edits:
            record = EditRecord(
                id=f"edit_{secrets.token_hex(8)}", batch=batch.id, created=created, edit=edit, status=status
            )
            self.edits[record.id] = record
            batch.edits.append(record.id)
        self.batches[batch.id] = batch
        return batch

    def of(self, batch: BatchRecord) -> list[EditRecord]:
        """The edits of a batch."""
        return [self.edits[id] for id in batch.edits]

    def live(self) -> list[EditRecord]:
        """The edits that the active version knows, including those whose deletion is still in progress."""
        return [record for record in self.edits.values() if record.status in ANSWERED]

    def set(self, batch: BatchRecord, status: Status, reason: str | None = None) -> None:
        """Set the state of a batch in progress, and of those of its edits that are not deleted."""
        batch.status, batch.reason = status, reason
        for record in self.of(batch):
            if record.status in UNDER_WAY:
                record.status, record.reason, record.version = status, reason, batch.version

    def settle(self, batch: BatchRecord) -> None:
        """Set the state of a batch that is not in progress from the states of its edits."""
        states = {record.status for record in self.of(batch)}
        for status in (*UNDER_WAY, *ANSWERED[::-1], "refused", "deleted"):
            if status in states:
                batch.status = status
                return

    def reconcile(self, edits: Sequence[Edit], version: str, created: int, reason: str) -> None:
        """Update the records: the active version knows exactly `edits`.

        Known edits without a record (of a version made from a run file, or after the book was lost) become a new batch.
        Live edits that are not known any more become deleted: with `reason`, unless a user had asked to delete them.
        """
        known: set[str] = set()
        unrecorded = []
        for edit in edits:
            same = [record for record in self.edits.values() if record.edit == edit]
            if not same:
                unrecorded.append(edit)
                continue
            # The same edit may have been submitted again while it was live or in progress.
            meant = [record for record in same if record.status in (*UNDER_WAY, *ANSWERED)] or same[-1:]
            for record in meant:
                known.add(record.id)
                if record.status != "deleting":
                    record.status, record.reason, record.version = "live", None, record.version or version
        for record in self.edits.values():
            if record.status in ANSWERED and record.id not in known:
                record.reason = None if record.status == "deleting" else self._successor(record, edits) or reason
                record.status = "deleted"
        if unrecorded:
            batch = self.add(unrecorded, "live", created)
            batch.version, batch.progress = version, 1.0
            for record in self.of(batch):
                record.version = version
        for batch in self.batches.values():
            if not any(record.status in UNDER_WAY for record in self.of(batch)):
                self.settle(batch)

    def _successor(self, record: EditRecord, edits: Sequence[Edit]) -> str | None:
        """The reason if another live edit with the same prompt has replaced a record; None if there is none."""
        prompt = question_key(record.edit.prompt)
        if not any(question_key(edit.prompt) == prompt for edit in edits):
            return None
        successors = [
            other.id for other in self.edits.values() if record.id in other.replaces and other.status in ANSWERED
        ]
        return f"replaced by {successors[-1]}, which gives its prompt another answer" if successors else None


def _read(path: Path) -> _File:
    try:
        return _File.model_validate_json(path.read_bytes(), context=STORED)
    except FileNotFoundError:
        return _File()
    except OSError as error:
        raise StoreError(f"{path}: cannot be read ({error.strerror}); check its permissions") from None
    except ValidationError as error:
        raise StoreError(
            f"{path} is not as this release writes it ({problems(error, most=1)}); restore it from a copy, or move it "
            "away: the edits of the active version are then listed anew"
        ) from None
