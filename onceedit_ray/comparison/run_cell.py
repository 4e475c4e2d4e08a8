"""Computes one cell, from its plan to a committed result, in one process and without Ray."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from filelock import FileLock

from onceedit_ray.comparison.baseline_cell import BaselineCell
from onceedit_ray.comparison.cell_store import CellResult, CellStore
from onceedit_ray.comparison.cells import Cell, Plan
from onceedit_ray.comparison.onceedit_cell import score_version, time_edit
from onceedit_ray.comparison.stopwatch import Stopwatch
from onceedit_ray.config import RunConfig
from onceedit_ray.digest import digest
from onceedit_ray.editing.run import edit_plugin
from onceedit_ray.errors import OnceEditError
from onceedit_ray.evaluation.machine import describe_machine
from onceedit_ray.evaluation.records import Record
from onceedit_ray.evaluation.summary import SETTINGS, summarise
from onceedit_ray.knowledge.run_data import selected_edits
from onceedit_ray.knowledge.store import KnowledgeStore
from onceedit_ray.progress import Progress


def version_store(results: Path) -> KnowledgeStore:
    """The store for the plug-in versions that a grid makes; it is separate from that of the served versions."""
    return KnowledgeStore(results / "versions")


def prepare_version(run: RunConfig, results: Path, progress: Progress) -> str:
    """Edit the plug-in for all cells that share the edit, unless that was done before; returns the version's id.

    Other processes that need the same version wait, so it is made only once.
    """
    results.mkdir(parents=True, exist_ok=True)
    with FileLock(results / f".version-{digest([run.knowledge, run.plugin, run.editing])[:16]}.lock"):
        return edit_plugin(run, version_store(results), progress).id


def reason_of(error: BaseException) -> str:
    """Why a cell failed, in one line: the message of an `OnceEditError`, or type and message of any other error."""
    text = " ".join(str(error).split())
    return text if isinstance(error, OnceEditError) else f"{type(error).__name__}: {text[-300:]}"


def compute(cell: Cell, results: Path, version: str | None, progress: Progress) -> CellResult:
    """Compute a cell and commit it; a finished cell is returned as it is.

    Args:
        version: for a cell of OnceEdit, the id of the version that it scores.

    Raises the errors of each step; the work done before the error is kept for the next start.
    """
    store = CellStore(results)
    with store.lock(cell.id):
        done = store.get(cell.id)
        if done is not None:
            return done
        result, records = _computed(cell, store.folder(cell.id), results, version, progress)
        store.commit(result, records)
        return result


def _computed(
    cell: Cell, folder: Path, results: Path, version: str | None, progress: Progress
) -> tuple[CellResult, list[Record]]:
    plan = cell.plan
    records: list[Record] = []
    if plan.run is None:
        work = BaselineCell(plan, folder, progress)
        if plan.measure == "cost":
            work.timed()
        else:
            records = asyncio.run(work.scored()).records()
        return _result(cell, records, work.edits, cell.id, work.watch), records
    watch = Stopwatch()
    edits = len(selected_edits(plan.run.knowledge))
    if plan.measure == "cost":
        time_edit(plan.run, watch, progress)
        return _result(cell, records, edits, cell.id, watch), records
    if version is None:
        raise ValueError(f"cell {cell.name} was given no version to score")
    found = version_store(results).get(version)
    records = asyncio.run(score_version(plan, plan.run, found, folder, watch, progress)).records()
    watch.wall["edit"] = found.manifest.seconds
    return _result(cell, records, edits, version, watch), records


def _result(cell: Cell, records: Sequence[Record], edits: int, edit_id: str, watch: Stopwatch) -> CellResult:
    plan = cell.plan
    strategy = plan.evaluation.strategies[0]
    scores, drift = _figures(plan, strategy, records)
    return CellResult(
        id=cell.id,
        method=plan.method,
        strategy=strategy,
        target=plan.target_name,
        target_model=plan.target.model,
        dataset=cell.dataset,
        protocol=plan.protocol,
        measure=plan.measure,
        settings=_settings(plan),
        edits=edits,
        edit_id=edit_id,
        scores=scores,
        drift=drift,
        seconds={stage: round(seconds, 3) for stage, seconds in watch.wall.items()},
        cpu_seconds={stage: round(seconds, 3) for stage, seconds in watch.cpu.items()},
        machine=describe_machine(),
        finished=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def _settings(plan: Plan) -> dict[str, object]:
    if plan.run is None:
        return dict(plan.settings or {})
    return {**plan.run.editing.model_dump(mode="json"), "plugin": plan.run.plugin.model}


def _figures(
    plan: Plan, strategy: str, records: Sequence[Record]
) -> tuple[dict[str, dict[str, float | None]], float | None]:
    if not records:
        return {}, None
    summary = summarise(records, [], 0.5, "", 0, 0.0)
    row = summary["targets"][plan.target_name][strategy]
    drift = summary["drift"].get(plan.target_name, {}).get(strategy)
    return {setting: row[setting] for setting in SETTINGS}, drift["identical"] if drift else None
