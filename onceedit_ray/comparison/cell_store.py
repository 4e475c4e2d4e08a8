"""Where cells are kept: one folder each, finished once its `cell.json` is there.

    <results>/cells/<id>/records.parquet    every prompt and answer
                         cell.json          figures, times, machine; put in place last, by a rename
                         records.jsonl, edit/    of a cell that is being worked on

Cells are shared by all grids that write into one results folder. Knows nothing about how a cell is computed.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from onceedit_ray.errors import StoreError
from onceedit_ray.evaluation.records import Record, read_records, records_from, write_records
from onceedit_ray.files import replacing

_RESULT = "cell.json"
_RECORDS = "records.parquet"
_LOCK_SECONDS = 20.0  # as long as Ray may take to end the workers of a run that was killed


@dataclass(frozen=True)
class CellResult:
    """A finished cell.

    method, target, dataset, protocol, measure: what was compared. target_model: the target's reference.
    settings: a baseline's, or those of OnceEdit's edit. edits: how many. edit_id: what names the edit that was
    scored: cells of one edit have the same.
    scores: by setting, reliability, generality, locality and average; empty for a cost cell. drift: share of general
    prompts answered as before, None where none was asked.
    seconds, cpu_seconds: of preparing (statistics, a hyper-network), editing and scoring, in wall and processor time;
    what a resumed cell did before it was killed is not in them.
    machine: where. finished: when, ISO 8601.
    """

    id: str
    method: str
    strategy: str
    target: str
    target_model: str
    dataset: str
    protocol: str
    measure: str
    settings: dict[str, Any]
    edits: int
    edit_id: str
    scores: dict[str, dict[str, float | None]]
    drift: float | None
    seconds: dict[str, float]
    cpu_seconds: dict[str, float]
    machine: str
    finished: str


class CellStore:
    """The cells under a results folder."""

    def __init__(self, results: Path) -> None:
        self.root = results / "cells"

    def folder(self, cell: str) -> Path:
        """Where a cell is, or will be; its work in progress is kept there too."""
        return self.root / cell

    def get(self, cell: str) -> CellResult | None:
        """A finished cell, or None; raises `StoreError` where the file is damaged."""
        path = self.folder(cell) / _RESULT
        try:
            return CellResult(**json.loads(path.read_text(encoding="utf-8")))
        except FileNotFoundError:
            return None
        except (OSError, ValueError, TypeError) as error:
            reason = " ".join(str(error).split())
            raise StoreError(f"{path} is damaged ({reason}); remove {path.parent} to compute the cell again") from None

    def records(self, cell: str) -> list[Record]:
        """The records of a finished cell; none where it measured a cost. Raises `DataError` where they are damaged."""
        path = self.folder(cell) / _RECORDS
        return records_from(read_records(path)) if path.exists() else []

    def lock(self, cell: str) -> FileLock:
        """Held by whoever works on a cell; raises `StoreError` where another run holds it."""
        self.folder(cell).mkdir(parents=True, exist_ok=True)
        lock = FileLock(self.root / f".{cell}.lock", timeout=_LOCK_SECONDS)
        try:
            lock.acquire()
        except Timeout:
            raise StoreError(f"cell {cell} is being computed by another run; wait for it and start again") from None
        return lock

    def commit(self, result: CellResult, records: Sequence[Record]) -> None:
        """Finish a cell: records first, `cell.json` last; then its work in progress is removed."""
        folder = self.folder(result.id)
        if records:
            write_records(folder / _RECORDS, records)
        with replacing(folder / _RESULT) as temporary:
            temporary.write_text(json.dumps(asdict(result), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        (folder / "records.jsonl").unlink(missing_ok=True)
        shutil.rmtree(folder / "edit", ignore_errors=True)
