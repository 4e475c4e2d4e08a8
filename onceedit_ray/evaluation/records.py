"""The rows that an evaluation writes: one for each record, target, strategy, setting and prompt, and one for each gate
reading.

Rows are kept as Parquet (zstd, explicit schemas). A file is written completely or not at all. This file does not depend
on how a row is computed or used.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, get_args

import pyarrow as pa
import pyarrow.parquet as pq

from onceedit_ray.config import Setting, Shape
from onceedit_ray.errors import DataError
from onceedit_ray.files import replacing

Property = Literal["reliability", "generality", "locality", "portability", "general"]
GateKind = Literal["edit", "rephrasing", "locality", "general"]

_ROWS_PER_BATCH = 4096


@dataclass(frozen=True)
class Record:
    """One prompt, asked of one target with one strategy, and the scores of its answer.

    run: name of the run.
    record: index of the edit among the run's edits; for `general`, index of the prompt among the general prompts.
    target: name of the target model.
    strategy: a fusion strategy, or `UNEDITED` for the target's own answers before the edit.
    setting: `teacher_forced`, or `generation` (greedy).
    property: which property the prompt probes; `general` prompts give the drift.
    prompt: the prompt as the target saw it; shape: the shape it was written in.
    expected: the expected text: the new answer; for `locality` and `general`, the unedited target's own output.
    output: the decoded answer (teacher-forced: the argmax tokens as text).
    unedited_output: the unedited target's own answer to the same prompt.
    score: token accuracy in [0, 1]; for `general`, 1.0 if the token ids are the unedited target's own, else 0.0.
    text_match: 0.0 or 1.0, generation only.
    gate_weight: w of eq. 8; None if the gate was not computed.
    alone: whether the target answered alone because w was below the threshold.
    target_passes, plugin_passes, new_tokens: forward passes of each model, and tokens written.
    seconds: wall time of the answer, measured while other requests run.
    restricted: how a literal strategy was restricted to candidates; "" if it was not.
    """

    run: str
    record: int
    target: str
    strategy: str
    setting: Setting
    property: Property
    prompt: str
    shape: str
    expected: str
    output: str
    unedited_output: str
    score: float
    text_match: float | None = None
    gate_weight: float | None = None
    alone: bool = False
    target_passes: int = 0
    plugin_passes: int = 0
    new_tokens: int = 0
    seconds: float = 0.0
    restricted: str = ""

    def __post_init__(self) -> None:
        _check_choice("setting", self.setting, get_args(Setting))
        _check_choice("property", self.property, get_args(Property))
        _check_share("score", self.score)
        if self.text_match is not None:
            _check_share("text_match", self.text_match)
            if self.setting != "generation":
                raise ValueError("text_match is given for a teacher-forced record; it belongs to generation only")
        if self.gate_weight is not None:
            _check_share("gate_weight", self.gate_weight)
        if not (math.isfinite(self.seconds) and self.seconds >= 0):
            raise ValueError(f"seconds is {self.seconds}; expected a finite number, 0 or more")


@dataclass(frozen=True)
class GateRecord:
    """One reading of the gate: its weight w in [0, 1] for one prompt in one shape."""

    kind: GateKind
    shape: Shape
    prompt: str
    weight: float

    def __post_init__(self) -> None:
        _check_choice("kind", self.kind, get_args(GateKind))
        _check_choice("shape", self.shape, get_args(Shape))
        _check_share("weight", self.weight)


def _check_choice(field: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise ValueError(f"{field} is '{value}'; expected one of {', '.join(known)}")


def _check_share(field: str, value: float) -> None:
    if not 0.0 <= value <= 1.0:
        raise ValueError(f"{field} is {value}; expected a number from 0 to 1")


def _required(name: str, kind: pa.DataType) -> pa.Field:
    return pa.field(name, kind, nullable=False)


RECORD_SCHEMA = pa.schema(
    [
        _required("run", pa.string()),
        _required("record", pa.int32()),
        _required("target", pa.string()),
        _required("strategy", pa.string()),
        _required("setting", pa.string()),
        _required("property", pa.string()),
        _required("prompt", pa.string()),
        _required("shape", pa.string()),
        _required("expected", pa.string()),
        _required("output", pa.string()),
        _required("unedited_output", pa.string()),
        _required("score", pa.float64()),
        pa.field("text_match", pa.float64()),
        pa.field("gate_weight", pa.float64()),
        _required("alone", pa.bool_()),
        _required("target_passes", pa.int32()),
        _required("plugin_passes", pa.int32()),
        _required("new_tokens", pa.int32()),
        _required("seconds", pa.float64()),
        _required("restricted", pa.string()),
    ]
)

GATE_SCHEMA = pa.schema(
    [
        _required("kind", pa.string()),
        _required("shape", pa.string()),
        _required("prompt", pa.string()),
        _required("weight", pa.float64()),
    ]
)


def write_records(path: str | Path, records: Iterable[Record]) -> None:
    """Write `records` to `path` as one Parquet file; raises `StoreError` where it cannot be written."""
    _write(Path(path), records, RECORD_SCHEMA)


def read_records(path: str | Path) -> pa.Table:
    """The table that `write_records` wrote; raises `DataError` where the file is missing or is not such a table."""
    return _read(Path(path), RECORD_SCHEMA)


def records_from(table: pa.Table) -> list[Record]:
    """The rows of a `read_records` table, in order."""
    return [Record(**row) for row in table.to_pylist()]


def write_gate_records(path: str | Path, records: Iterable[GateRecord]) -> None:
    """Write gate readings to `path` (`gate.parquet`); raises `StoreError` where it cannot be written."""
    _write(Path(path), records, GATE_SCHEMA)


def read_gate_records(path: str | Path) -> pa.Table:
    """The table that `write_gate_records` wrote; raises `DataError` as `read_records` does."""
    return _read(Path(path), GATE_SCHEMA)


def gate_records_from(table: pa.Table) -> list[GateRecord]:
    """The rows of a `read_gate_records` table, in order."""
    return [GateRecord(**row) for row in table.to_pylist()]


def _write(path: Path, rows: Iterable[Record | GateRecord], schema: pa.Schema) -> None:
    remaining = iter(rows)
    with replacing(path) as temporary, pq.ParquetWriter(temporary, schema, compression="zstd") as writer:
        while batch := [asdict(row) for row in itertools.islice(remaining, _ROWS_PER_BATCH)]:
            writer.write_batch(pa.RecordBatch.from_pylist(batch, schema=schema))


def _read(path: Path, schema: pa.Schema) -> pa.Table:
    try:
        table = pq.read_table(path)
    except FileNotFoundError:
        raise DataError(f"{path} does not exist; run an evaluation that writes it first") from None
    except (pa.ArrowInvalid, OSError) as error:
        first_line = str(error).splitlines()[0]
        raise DataError(f"{path} cannot be read as Parquet ({first_line}); run the evaluation again") from None
    if not table.schema.equals(schema):
        names = ", ".join(f"{field.name}: {field.type}" for field in schema)
        raise DataError(f"{path} does not hold the expected columns ({names}); run the evaluation again")
    return table
