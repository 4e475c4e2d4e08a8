"""Rows of an evaluation: what is refused, and that files appear whole or not at all."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from onceedit_ray.errors import DataError, StoreError
from onceedit_ray.evaluation.records import (
    GATE_SCHEMA,
    RECORD_SCHEMA,
    GateRecord,
    Record,
    gate_records_from,
    read_gate_records,
    read_records,
    records_from,
    write_gate_records,
    write_records,
)

RECORD = Record(
    run="demo",
    record=3,
    target="gemma",
    strategy="draft",
    setting="generation",
    property="reliability",
    prompt="Who wrote\n“It”|?",
    shape="raw",
    expected="東京",
    output="",
    unedited_output=" King",
    score=0.5,
    text_match=1.0,
    gate_weight=0.25,
    alone=True,
    target_passes=2,
    plugin_passes=5,
    new_tokens=7,
    seconds=1.5,
    restricted="512 candidates",
)
BARE = replace(RECORD, setting="teacher_forced", text_match=None, gate_weight=None, alone=False)


def test_records_come_back_as_they_were_written(tmp_path: Path) -> None:
    path = tmp_path / "results" / "records.parquet"
    write_records(path, iter([RECORD, BARE]))
    table = read_records(path)
    assert table.schema.equals(RECORD_SCHEMA)
    assert records_from(table) == [RECORD, BARE]
    assert table.column("text_match").to_pylist() == [1.0, None]
    assert pq.ParquetFile(path).metadata.row_group(0).column(0).compression == "ZSTD"


def test_gate_records_come_back_as_they_were_written(tmp_path: Path) -> None:
    rows = [GateRecord("edit", "raw", "a", 1.0), GateRecord("general", "chat", "b", 0.0)]
    write_gate_records(tmp_path / "gate.parquet", rows)
    assert gate_records_from(read_gate_records(tmp_path / "gate.parquet")) == rows


def test_no_records_still_make_a_readable_table(tmp_path: Path) -> None:
    write_records(tmp_path / "records.parquet", [])
    assert read_records(tmp_path / "records.parquet").num_rows == 0


def test_more_rows_than_a_batch_keep_their_order(tmp_path: Path) -> None:
    path = tmp_path / "gate.parquet"
    write_gate_records(path, (GateRecord("edit", "raw", str(i), 0.5) for i in range(9000)))
    assert read_gate_records(path).column("prompt").to_pylist() == [str(i) for i in range(9000)]


def test_schemas_name_the_fields_of_the_rows() -> None:
    assert RECORD_SCHEMA.names == [field.name for field in fields(Record)]
    assert GATE_SCHEMA.names == [field.name for field in fields(GateRecord)]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"score": float("nan")}, "score is nan"),
        ({"score": 1.5}, "score is 1.5"),
        ({"gate_weight": -0.1}, "gate_weight is -0.1"),
        ({"text_match": 2.0}, "text_match is 2.0"),
        ({"setting": "teacher_forced"}, "generation only"),
        ({"setting": "sampling"}, "expected one of teacher_forced, generation"),
        ({"property": "speed"}, "property is 'speed'"),
        ({"seconds": float("inf")}, "seconds is inf"),
    ],
)
def test_a_record_that_cannot_be_is_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(RECORD, **change)  # type: ignore[arg-type]


def test_a_gate_reading_that_cannot_be_is_refused() -> None:
    with pytest.raises(ValueError, match="weight is nan"):
        GateRecord("edit", "raw", "a", float("nan"))
    with pytest.raises(ValueError, match="shape is 'xml'"):
        GateRecord("edit", "xml", "a", 0.5)  # type: ignore[arg-type]


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "records.parquet"
    write_records(path, [RECORD])

    def broken() -> Iterator[Record]:
        yield BARE
        raise RuntimeError("the model died")

    with pytest.raises(RuntimeError, match="the model died"):
        write_records(path, broken())
    assert records_from(read_records(path)) == [RECORD]
    assert [entry.name for entry in tmp_path.iterdir()] == ["records.parquet"]


def test_a_reader_of_the_old_file_keeps_it(tmp_path: Path) -> None:
    path = tmp_path / "records.parquet"
    write_records(path, [RECORD])
    with path.open("rb") as reader:
        write_records(path, [BARE])
        assert records_from(pq.read_table(reader)) == [RECORD]
    assert records_from(read_records(path)) == [BARE]


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match=r"cannot write .*records\.parquet"):
        write_records(tmp_path / "file" / "records.parquet", [RECORD])


def test_files_that_are_not_such_a_table_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not exist"):
        read_records(tmp_path / "none.parquet")
    (tmp_path / "text.parquet").write_text("not parquet")
    with pytest.raises(DataError, match="cannot be read as Parquet"):
        read_records(tmp_path / "text.parquet")
    pq.write_table(pa.table({"run": ["demo"]}), tmp_path / "other.parquet")
    with pytest.raises(DataError, match="does not hold the expected columns"):
        read_records(tmp_path / "other.parquet")
