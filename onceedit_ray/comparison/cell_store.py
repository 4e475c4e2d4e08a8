"""The store of cells: one folder for each cell, which is finished when `cell.json` is there.

    <results>/cells/<id>/records.parquet    every prompt and answer
                         cell.json          scores, times, machine; written last, by a rename
                         records.jsonl, edit/    of a cell that is not finished

Grids that write into the same results folder share cells. This file does not compute cells.
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
FINISHED = (f"cells/*/{_RECORDS}", f"cells/*/{_RESULT}")
"""The files of finished cells under a results folder, in the order in which they are written."""
_LOCK_SECONDS = 20.0  # Ray needs up to this long to end the workers of a run that was killed


@dataclass(frozen=True)
class CellResult:
    """A finished cell.

    method, target, dataset, protocol, measure: what was compared. target_model: the target's reference.
    settings: of the baseline, or of OnceEdit's edit. edits: their number. edit_id: the id of the edit that was scored;
    cells with the same edit have the same id.
    scores: by setting, reliability, generality, locality and average; empty for a cost cell. drift: share of general
    prompts answered as before, None if none was asked.
    seconds, cpu_seconds: of preparing (statistics, a hyper-network), editing and scoring, in wall and processor time;
    the time before a cell was killed and resumed is not included.
    machine: the machine it was computed on. finished: the time, ISO 8601.
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
        """The folder of a cell, finished or not; its unfinished work is kept there too."""
        return self.root / cell

    def get(self, cell: str) -> CellResult | None:
        """A finished cell, or None; raises `StoreError` if the file is damaged."""
        path = self.folder(cell) / _RESULT
        try:
            return CellResult(**json.loads(path.read_text(encoding="utf-8")))
        except FileNotFoundError:
            return None
        except (OSError, ValueError, TypeError) as error:
            reason = " ".join(str(error).split())
            raise StoreError(f"{path} is damaged ({reason}); remove {path.parent} to compute the cell again") from None

    def records(self, cell: str) -> list[Record]:
        """The records of a finished cell; none if it measured a cost. Raises `DataError` if they are damaged."""
        path = self.folder(cell) / _RECORDS
        return records_from(read_records(path)) if path.exists() else []

    def lock(self, cell: str) -> FileLock:
        """The lock of the process that computes a cell; raises `StoreError` if another run holds it."""
        self.folder(cell).mkdir(parents=True, exist_ok=True)
        lock = FileLock(self.root / f".{cell}.lock", timeout=_LOCK_SECONDS)
        try:
            lock.acquire()
        except Timeout:
            raise StoreError(f"cell {cell} is being computed by another run; wait for it and start again") from None
        return lock

    def commit(self, result: CellResult, records: Sequence[Record]) -> None:
        """Finish a cell: write the records first and `cell.json` last, then remove its unfinished work."""
        folder = self.folder(result.id)
        if records:
            write_records(folder / _RECORDS, records)
        with replacing(folder / _RESULT) as temporary:
            temporary.write_text(json.dumps(asdict(result), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        (folder / "records.jsonl").unlink(missing_ok=True)
        shutil.rmtree(folder / "edit", ignore_errors=True)
