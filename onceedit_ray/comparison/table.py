"""Makes a table of cells: the columns of the paper's table, and every score of every cell as Parquet.

Score: the mean of the targets' averages. Freq.: the number of edit runs needed to serve all targets: one for each
target with a baseline, one for all of them with OnceEdit. A missing cell is None and is never filled in.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from onceedit_ray.comparison.cell_store import CellResult
from onceedit_ray.comparison.cells import Cell
from onceedit_ray.comparison.grid_config import ONCEEDIT, GridConfig, TableConfig
from onceedit_ray.evaluation.summary import PROPERTIES, SETTINGS
from onceedit_ray.files import replacing

Value = float | None
COLUMNS = (*PROPERTIES, "average")
CLOCKS = {"wall": "Wall-clock time", "cpu": "Processor time"}
"""The clocks of a cost table; other work on the machine does not change processor time."""


@dataclass(frozen=True)
class Panel:
    """Grouped bars: a group for each label, and in it a bar for each of `series`; None is shown as a dash."""

    title: str
    series: tuple[str, ...]
    groups: Mapping[str, Sequence[float | None]]


@dataclass(frozen=True)
class Block:
    """One table over one data set.

    title: what was measured, for example "Teacher-forced". columns: their heads. rows: by label. groups: the heads
    above the columns, with the number of columns that each spans; may be empty. missing: cells without a result, by
    label.
    """

    dataset: str
    title: str
    columns: tuple[str, ...]
    rows: Mapping[str, tuple[Value, ...]]
    groups: tuple[tuple[str, int], ...] = ()


def blocks(config: GridConfig, cells: Sequence[Cell], results: Mapping[str, CellResult]) -> list[Block]:
    """The tables of a grid: one for each data set and scoring (or clock)."""
    found = [_Placed(cell.row, cell.dataset, cell.target, results[cell.id]) for cell in cells if cell.id in results]
    kinds = list(CLOCKS) if config.table.layout == "cost" else list(config.table.settings)
    make = {"scores": _scores, "averages": _averages, "targets": _targets, "cost": _cost}[config.table.layout]
    return [make(config, dataset, kind, found) for dataset in config.datasets for kind in kinds]


@dataclass(frozen=True)
class _Placed:
    row: str
    dataset: str
    target: str
    result: CellResult


def _at(found: Sequence[_Placed], dataset: str, row: str) -> dict[str, CellResult]:
    return {each.target: each.result for each in found if each.dataset == dataset and each.row == row}


def _scores(config: GridConfig, dataset: str, setting: str, found: Sequence[_Placed]) -> Block:
    columns = tuple(name for _ in config.targets for name in ("Rel.", "Gen.", "Loc.", "Avg."))
    groups = tuple((target, 4) for target in config.targets)
    rows: dict[str, tuple[Value, ...]] = {}
    for row in config.rows:
        at = _at(found, dataset, row.label)
        values = [_score(at.get(target), setting, column) for target in config.targets for column in COLUMNS]
        rows[row.label] = (*values, *_summary(config, at, setting))
    extra = _summary_heads(config.table)
    return Block(dataset, setting, (*columns, *extra), rows, (*groups, *(("", 1) for _ in extra)))


def _averages(config: GridConfig, dataset: str, setting: str, found: Sequence[_Placed]) -> Block:
    rows: dict[str, tuple[Value, ...]] = {}
    for row in config.rows:
        at = _at(found, dataset, row.label)
        values = [_score(at.get(target), setting, "average") for target in config.targets]
        rows[row.label] = (*values, *_summary(config, at, setting))
    return Block(dataset, setting, (*config.targets, *_summary_heads(config.table)), rows)


def _targets(config: GridConfig, dataset: str, setting: str, found: Sequence[_Placed]) -> Block:
    at = _at(found, dataset, config.rows[0].label)
    rows = {target: tuple(_score(at.get(target), setting, column) for column in COLUMNS) for target in config.targets}
    return Block(dataset, setting, ("Rel.", "Gen.", "Loc.", "Avg."), rows)


def _cost(config: GridConfig, dataset: str, clock: str, found: Sequence[_Placed]) -> Block:
    """Times over that of OnceEdit's one edit: for each target, for the first targets together, and with preparation."""
    targets = list(config.targets)
    once = next(row.label for row in config.rows if row.method == ONCEEDIT)
    (unit,) = [_seconds(result, clock, ("edit",)) for result in _at(found, dataset, once).values()] or [None]
    rows: dict[str, tuple[Value, ...]] = {}
    for row in config.rows:
        if row.label == once:
            rows[row.label] = tuple(1.0 if unit else None for _ in range(2 * len(targets) + 1))
            continue
        at = _at(found, dataset, row.label)
        each = [_ratio(_seconds(at.get(target), clock, ("edit",)), unit) for target in targets]
        whole = [_ratio(_seconds(at.get(target), clock, ("prepare", "edit")), unit) for target in targets]
        rows[row.label] = (*each, *(_sum(each[:count]) for count in range(1, len(targets) + 1)), _sum(whole))
    together = tuple(f"{count} target{'' if count == 1 else 's'}" for count in range(1, len(targets) + 1))
    return Block(dataset, clock, (*targets, *together, "with preparation"), rows)


def _score(result: CellResult | None, setting: str, column: str) -> Value:
    return None if result is None or setting not in result.scores else result.scores[setting][column]


def _summary_heads(table: TableConfig) -> tuple[str, ...]:
    return tuple(head for head, shown in (("Score", table.score), ("Freq.", table.frequency)) if shown)


def _summary(config: GridConfig, at: Mapping[str, CellResult], setting: str) -> list[Value]:
    averages = [_score(at.get(target), setting, "average") for target in config.targets]
    score = _sum(averages)
    complete = len(at) == len(config.targets)
    return [
        *([None if score is None else score / len(averages)] if config.table.score else []),
        *(
            [float(len({result.edit_id for result in at.values()})) if complete else None]
            if config.table.frequency
            else []
        ),
    ]


def _seconds(result: CellResult | None, clock: str, stages: Sequence[str]) -> Value:
    if result is None:
        return None
    times = result.seconds if clock == "wall" else result.cpu_seconds
    return math.fsum(times.get(stage, 0.0) for stage in stages)


def _ratio(seconds: Value, unit: Value) -> Value:
    return seconds / unit if seconds is not None and unit else None


def _sum(values: Sequence[Value]) -> Value:
    """The sum, or None if a value is missing: a sum over fewer targets would look too good."""
    present = [value for value in values if value is not None]
    return math.fsum(present) if present and len(present) == len(values) else None


_TEXT = ("dataset", "row", "method", "strategy", "target", "target_model", "setting", "state", "cell", "finished")
_NUMBERS = (*COLUMNS, "drift", "prepare_seconds", "edit_seconds", "score_seconds", "edit_cpu_seconds")
TABLE_SCHEMA = pa.schema(
    [*(pa.field(name, pa.string()) for name in _TEXT), pa.field("edits", pa.int32())]
    + [pa.field(name, pa.float64()) for name in _NUMBERS]
)


def write_table(
    path: Path, cells: Sequence[Cell], results: Mapping[str, CellResult], failures: Mapping[str, str]
) -> None:
    """Write every cell and setting as a row of Parquet; `state` is "done", "waiting", or the reason of a failure."""
    rows = []
    for cell in cells:
        result = results.get(cell.id)
        state = "done" if result else failures.get(cell.id, "waiting")
        for setting in SETTINGS if result and result.scores else ("",):
            rows.append(_row(cell, result, setting, state))
    with replacing(path) as temporary:
        pq.write_table(pa.Table.from_pylist(rows, schema=TABLE_SCHEMA), temporary, compression="zstd")


def _row(cell: Cell, result: CellResult | None, setting: str, state: str) -> dict[str, object]:
    plan = cell.plan
    row: dict[str, object] = {
        "dataset": cell.dataset,
        "row": cell.row,
        "method": plan.method,
        "strategy": plan.evaluation.strategies[0],
        "target": cell.target,
        "target_model": plan.target.model,
        "setting": setting,
        "state": state,
        "cell": cell.id,
    }
    if result is None:
        return row
    return row | {
        "finished": result.finished,
        "edits": result.edits,
        **result.scores.get(setting, {}),
        "drift": result.drift,
        "prepare_seconds": result.seconds.get("prepare"),
        "edit_seconds": result.seconds.get("edit"),
        "score_seconds": result.seconds.get("score"),
        "edit_cpu_seconds": result.cpu_seconds.get("edit"),
    }
