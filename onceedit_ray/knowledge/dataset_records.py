"""The records of a file: a JSON list, JSON lines or Parquet.

Keeps the position of each record, so that every error names file, record (line for JSON lines) and field. Does not know
what the fields mean.

Files are opened through pyarrow's filesystems, so that remote and compressed files (`.gz`, `.zst`, …) read like
local ones. JSON is parsed by Python and not by pyarrow, which would turn texts that look like dates into
timestamps, fill missing fields with nulls and report errors without a line.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs

from onceedit_ray.errors import DataError
from onceedit_ray.location import left_behind, locate, without_secrets

Container = Literal["json", "parquet"]

_PARQUET_MAGIC = b"PAR1"
_PANDAS_INDEX = re.compile(r"__index_level_\d+__")


@dataclass(frozen=True)
class DatasetRecord:
    """One record's fields, and where they were found.

    where: file and record, as in "edits.jsonl, line 3".
    """

    fields: dict[str, Any]
    where: str

    @property
    def given(self) -> frozenset[str]:
        """The fields that are not null."""
        return frozenset(name for name, value in self.fields.items() if value is not None)

    def without(self, names: frozenset[str]) -> DatasetRecord:
        """This record without the fields of these names."""
        return DatasetRecord({name: value for name, value in self.fields.items() if name not in names}, self.where)

    def error(self, field: str, problem: str) -> DataError:
        """The error that says `problem` about `field` of this record."""
        return DataError(f"{self.where}, field '{field}': {problem}")


@dataclass(frozen=True)
class RecordFile:
    """All records of one file; never empty. index: fields that pandas kept as its index, which may be data or not."""

    path: str
    container: Container
    records: list[DatasetRecord]
    index: frozenset[str] = frozenset()


def read_records(path: str | Path) -> RecordFile:
    """Every record of a file, in order; JSON list, JSON lines and Parquet are told apart by their content.

    Raises:
        DataError: the file is missing, empty, cut short, or neither JSON nor Parquet; one line.
    """
    name = without_secrets(path)
    container: Container
    index: frozenset[str] = frozenset()
    with _opened(path) as (filesystem, inside):
        if _is_parquet(filesystem, inside):
            container = "parquet"
            records, index = _parquet_records(filesystem, inside, name)
        else:
            container, records = "json", list(_json_records(_content(filesystem, inside), name))
    if not records:
        raise DataError(f"{name}: holds no records; give it at least one")
    return RecordFile(name, container, records, index)


def read_lines(path: str | Path) -> list[str]:
    """The lines of a UTF-8 text file that are not blank, without outer whitespace; `DataError` if there are none."""
    with _opened(path) as (filesystem, inside):
        source = _content(filesystem, inside)
    lines = [line.strip() for line in lines_of(_decoded(source, without_secrets(path)))]
    kept = [line for line in lines if line]
    if not kept:
        raise DataError(f"{without_secrets(path)}: is empty; give it one text a line")
    return kept


def lines_of(text: str) -> list[str]:
    """The lines of a text; only CR, LF and CR LF end one, where `str.splitlines` would cut at U+2028 and form feeds."""
    return text.replace("\r\n", "\n").replace("\r", "\n").split("\n")


def describe(value: object) -> str:
    """The kind of a JSON value, in words for an error message."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true or false"
    if isinstance(value, (int, float)):
        return f"the number {value}" if len(str(value)) <= 20 else "a number"
    if isinstance(value, str):
        return "a text"
    if isinstance(value, list):
        return "a list"
    return "an object" if isinstance(value, dict) else f"a {type(value).__name__}"


class _opened:
    """Turns the filesystem's own errors about a file into one line; a context manager over (filesystem, path)."""

    def __init__(self, path: str | Path) -> None:
        self._path = path
        self._name = without_secrets(path)

    def __enter__(self) -> tuple[fs.FileSystem, str]:
        try:
            filesystem, inside = locate(self._path)
            kind = filesystem.get_file_info(inside).type
        except (OSError, pa.ArrowException) as error:
            raise DataError(f"{self._name}: cannot be reached ({_first_line(error)}); check the path") from error
        if kind == fs.FileType.NotFound:
            raise DataError(f"{self._name}: no such file; check the path{left_behind(self._path)}")
        if kind == fs.FileType.Directory:
            raise DataError(f"{self._name}: is a folder; name a file in it")
        return filesystem, inside

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, (OSError, pa.ArrowException)):
            raise DataError(f"{self._name}: cannot be read ({_first_line(error)}); check the file") from error


def _is_parquet(filesystem: fs.FileSystem, inside: str) -> bool:
    if inside.endswith(".parquet"):
        return True
    with filesystem.open_input_file(inside) as stream:
        return bool(stream.read(len(_PARQUET_MAGIC)) == _PARQUET_MAGIC)


def _content(filesystem: fs.FileSystem, inside: str) -> bytes:
    with filesystem.open_input_stream(inside) as stream:
        return bytes(stream.read())


def _parquet_records(filesystem: fs.FileSystem, inside: str, name: str) -> tuple[list[DatasetRecord], frozenset[str]]:
    """The records, and the columns with a name of their own that pandas kept as its index."""
    try:
        with filesystem.open_input_file(inside) as stream:
            table = pq.ParquetFile(stream).read()
            rows = table.drop_columns(
                [each for each in table.column_names if _PANDAS_INDEX.fullmatch(each)]
            ).to_pylist()
            index = _index_columns(table.schema)
    except (OSError, ValueError, pa.ArrowException) as error:
        reason = _first_line(error)
        raise DataError(f"{name}: not a whole Parquet file ({reason}); copy or write it again") from error
    numbered = enumerate(rows, start=1)
    return [DatasetRecord(_without_nulls(row), f"{name}, record {number}") for number, row in numbered], index


def _without_nulls(value: Any) -> Any:
    """`value` without the null fields of its objects: Arrow gives each object the fields of all others of a column."""
    if isinstance(value, dict):
        return {name: _without_nulls(inner) for name, inner in value.items() if inner is not None}
    return [_without_nulls(item) for item in value] if isinstance(value, list) else value


def _index_columns(schema: pa.Schema) -> frozenset[str]:
    """The columns in which pandas keeps its own index, as the file's pandas metadata says."""
    described = json.loads((schema.metadata or {}).get(b"pandas", b"{}"))
    return frozenset(name for name in described.get("index_columns", ()) if isinstance(name, str))


def _json_records(source: bytes, name: str) -> Iterator[DatasetRecord]:
    text = _decoded(source, name)
    start = text.lstrip()[:1]
    if not start:
        raise DataError(f"{name}: is empty; expected a JSON list of records, JSON lines or Parquet")
    if start == "[":
        try:
            values = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise DataError(f"{name}{_position(error)}: not JSON ({_reason(error)}); correct the file") from error
        for number, value in enumerate(values, start=1):
            yield _record(value, f"{name}, record {number}")
        return
    # Not splitlines(): a JSON text may hold U+2028 and its like unescaped.
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            yield _record(_json_line(line, f"{name}, line {number}"), f"{name}, line {number}")


def _json_line(line: str, where: str) -> object:
    try:
        return json.loads(line)
    except (ValueError, RecursionError) as error:
        advice = "each line must be one whole JSON object, or the file one JSON list"
        raise DataError(f"{where}: not JSON ({_reason(error)}); {advice}") from error


def _record(value: object, where: str) -> DatasetRecord:
    if not isinstance(value, dict):
        raise DataError(f"{where}: expected an object with named fields, found {describe(value)}")
    return DatasetRecord(value, where)


def _decoded(source: bytes, name: str) -> str:
    try:
        return source.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = source.count(b"\n", 0, error.start) + 1
        raise DataError(f"{name}, line {line}: not UTF-8 text; save the file as UTF-8") from error


def _position(error: Exception) -> str:
    return f", line {error.lineno}" if isinstance(error, json.JSONDecodeError) else ""


def _reason(error: Exception) -> str:
    if isinstance(error, json.JSONDecodeError):
        return f"{error.msg} at column {error.colno}"
    return "nested too deeply" if isinstance(error, RecursionError) else _first_line(error)


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0].rstrip(".;")
