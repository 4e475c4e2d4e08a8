"""The finished cells of one grid, with their records, as a single Parquet file that is kept beside a published report.

A report can be made from such a file alone, without models and data. The file can also be unpacked into a results
folder, where a comparison continues from it. This file does not compute cells.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from onceedit_ray.comparison.cell_store import CellResult, CellStore
from onceedit_ray.comparison.cells import Cell, bare_plan, places
from onceedit_ray.comparison.grid_config import ONCEEDIT, GridConfig
from onceedit_ray.errors import DataError
from onceedit_ray.evaluation.records import RECORD_SCHEMA, Record
from onceedit_ray.files import replacing

ARCHIVE = "cells.parquet"

_JSON = ("settings", "scores", "seconds", "cpu_seconds")
"""Fields of a result that differ from method to method: kept as JSON texts."""
_PLACE = ("row", "placed_target", "placed_dataset")
_KINDS = {"edits": pa.int64(), "drift": pa.float64()}

ARCHIVE_SCHEMA = pa.schema(
    [pa.field(name, pa.string()) for name in _PLACE]
    + [pa.field(each.name, _KINDS.get(each.name, pa.string())) for each in fields(CellResult)]
    + [pa.field("records", pa.list_(pa.struct(list(RECORD_SCHEMA))))]
)


@dataclass(frozen=True)
class ArchivedCell:
    """A finished cell with its records, and its row, target and data set in the grid."""

    row: str
    target: str
    dataset: str
    result: CellResult
    records: tuple[Record, ...]


def write_archive(path: Path, cells: Sequence[Cell], results: Mapping[str, CellResult], store: CellStore) -> None:
    """Write the finished ones of `cells` to `path`, if there are any; raises `StoreError` if that fails."""
    rows = []
    for cell in cells:
        result = results.get(cell.id)
        if result is None:
            continue
        row = {**asdict(result), "row": cell.row, "placed_target": cell.target, "placed_dataset": cell.dataset}
        row |= {name: json.dumps(row[name], ensure_ascii=False) for name in _JSON}
        rows.append({**row, "records": [asdict(record) for record in store.records(cell.id)]})
    if not rows:
        return
    with replacing(path) as temporary:
        table = pa.Table.from_pylist(rows, schema=ARCHIVE_SCHEMA)
        pq.write_table(table, temporary, compression="zstd", compression_level=19)


def read_archive(path: Path) -> list[ArchivedCell]:
    """The cells of an archive; raises `DataError` where the file is missing or is no archive."""
    try:
        rows = pq.read_table(path, schema=ARCHIVE_SCHEMA).to_pylist()
        return [_archived(row) for row in rows]
    except FileNotFoundError:
        raise DataError(f"{path}: no such file; name a {ARCHIVE} that a comparison has written") from None
    except (OSError, ValueError, TypeError, pa.ArrowException) as error:
        reason = (str(error).splitlines() or [""])[0]
        raise DataError(f"{path}: not the cells of a comparison ({reason}); name a {ARCHIVE}") from error


def placed_cells(config: GridConfig, archived: Sequence[ArchivedCell]) -> tuple[list[Cell], dict[str, CellResult]]:
    """The cells of a grid with the results that an archive has for them, as `write_comparison` takes both.

    No model is read, so a cell that the archive lacks has no id; it is named after its row, target and data set.
    """
    held = {(each.row, each.dataset, each.target): each.result for each in archived}
    cells, results = [], {}
    for row, dataset, name, target in places(config):
        plan = bare_plan(config, row, dataset, name, target)
        result = held.get((row.label, dataset, name))
        if result is None:
            cells.append(Cell(f"{row.label}/{dataset}/{name}", row.label, name, dataset, plan))
            continue
        if row.method != ONCEEDIT:
            plan = replace(plan, settings=result.settings)
        cells.append(Cell(result.id, row.label, name, dataset, plan))
        results[result.id] = result
    return cells, results


def unpack(archived: Sequence[ArchivedCell], store: CellStore) -> None:
    """Commit those cells to `store` that it does not have; raises `StoreError` if it cannot be written."""
    for each in archived:
        if store.get(each.result.id) is None:
            store.commit(each.result, each.records)


def take_archive(archive: Path, results: Path) -> None:
    """Unpack an archive's cells into a results folder, so that they are not computed again; raises `DataError`."""
    unpack(read_archive(archive), CellStore(results))


def _archived(row: dict[str, object]) -> ArchivedCell:
    row_name, target, dataset = (str(row.pop(name)) for name in _PLACE)
    records = row.pop("records") or []
    values: dict[str, Any] = {name: json.loads(str(value)) if name in _JSON else value for name, value in row.items()}
    assert isinstance(records, list)
    kept = tuple(Record(**record) for record in records)
    return ArchivedCell(row_name, target, dataset, CellResult(**values), kept)
