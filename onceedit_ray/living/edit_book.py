"""Every edit that was ever asked for, and what became of it; kept in one file that is replaced whole.

Knows nothing about how an edit is made, only its states:

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
from onceedit_ray.knowledge.edit import Edit
from onceedit_ray.knowledge.selection import question_key
from onceedit_ray.validation import problems

Status = Literal["queued", "training", "evaluating", "live", "refused", "deleting", "deleted"]
UNDER_WAY: tuple[Status, ...] = ("queued", "training", "evaluating")
"""An edit in one of these is not decided upon yet."""
ANSWERED: tuple[Status, ...] = ("live", "deleting")
"""An edit in one of these is known to the plug-in that answers."""


class EditRecord(BaseModel):
    """One edit. version: the one it went live with, or was refused with. replaces: ids of the live edits whose prompt
    it gives another answer to."""

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
    """Edits that came in one call. alone: it is not trained together with others any more; progress: of its making."""

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
    """The records, in the order in which they came; `save` after what must outlast this process.

    Args:
        path: of the file; made when something is first saved. Raises `StoreError` where it is not such a file.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        found = _read(path)
        self.edits = {record.id: record for record in found.edits}
        self.batches = {record.id: record for record in found.batches}

    def save(self) -> None:
        """Replace the file; a reader sees the old one or the new one. Raises `StoreError` where the disk refuses."""
        content = _File(edits=list(self.edits.values()), batches=list(self.batches.values()))
        with replacing(self._path) as temporary:
            temporary.write_text(content.model_dump_json(indent=1), encoding="utf-8")

    def add(self, edits: Iterable[Edit], status: Status = "queued", created: int | None = None) -> BatchRecord:
        """A new batch; nothing is saved yet."""
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
        """What the plug-in that answers knows, deletions that are not made yet included."""
        return [record for record in self.edits.values() if record.status in ANSWERED]

    def set(self, batch: BatchRecord, status: Status, reason: str | None = None) -> None:
        """Move a batch that is under way, and those of its edits that are not deleted."""
        batch.status, batch.reason = status, reason
        for record in self.of(batch):
            if record.status in UNDER_WAY:
                record.status, record.reason, record.version = status, reason, batch.version

    def settle(self, batch: BatchRecord) -> None:
        """Let the status of a batch that is not under way follow its edits'."""
        states = {record.status for record in self.of(batch)}
        for status in (*UNDER_WAY, *ANSWERED[::-1], "refused", "deleted"):
            if status in states:
                batch.status = status
                return

    def reconcile(self, edits: Sequence[Edit], version: str, created: int, reason: str) -> None:
        """Make the records say that the plug-in that answers knows `edits` and nothing else.

        What it knows and nobody recorded (a version made from a run file, a book that was lost) becomes a batch of its
        own. What was live and is not known any more is deleted: for `reason`, unless that was asked for.
        """
        known: set[str] = set()
        unrecorded = []
        for edit in edits:
            same = [record for record in self.edits.values() if record.edit == edit]
            if not same:
                unrecorded.append(edit)
                continue
            # The same edit may have been asked for again while it was live or on its way.
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
        """Why a record gave way to a live edit of the same prompt; None where there is none."""
        prompt = question_key(record.edit.prompt)
        if not any(question_key(edit.prompt) == prompt for edit in edits):
            return None
        successors = [
            other.id for other in self.edits.values() if record.id in other.replaces and other.status in ANSWERED
        ]
        return f"replaced by {successors[-1]}, which gives its prompt another answer" if successors else None


def _read(path: Path) -> _File:
    try:
        return _File.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return _File()
    except OSError as error:
        raise StoreError(f"{path}: cannot be read ({error.strerror}); check its permissions") from None
    except ValidationError as error:
        raise StoreError(
            f"{path} is not as this release writes it ({problems(error, most=1)}); restore it from a copy, or move it "
            "away: the edits of the active version are then listed anew"
        ) from None
