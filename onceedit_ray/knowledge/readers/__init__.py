"""Files of edits: one module per dataset format, found by registry.

A format says which fields it has and turns one record into its edits, mostly one. How records are wrapped (JSON list,
JSON lines, Parquet) is the business of `knowledge.dataset_records`: ZsRE in Parquet reads like ZsRE in JSON. To add a
format, add a module that registers a `Reader`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from onceedit_ray.errors import DataError
from onceedit_ray.knowledge.dataset_records import Container, DatasetRecord, RecordFile, describe, read_records
from onceedit_ray.knowledge.edit import Edit
from onceedit_ray.registry import Registry


@dataclass(frozen=True)
class Reader:
    """One dataset format.

    required: sets of fields, any one of which marks a record of this format.
    known: every field that a record may have; others are refused.
    edit: turns a record into an edit or several; raises `DataError`, or lets pydantic's `ValidationError` through.
    containers: the wrappings in which the format occurs.
    shaped: whether a record's values have this format's shape, where other formats have fields of the same names; one
        record of a file is enough.
    """

    required: tuple[frozenset[str], ...]
    known: frozenset[str]
    edit: Callable[[DatasetRecord], Edit | Sequence[Edit]]
    containers: frozenset[Container] = frozenset({"json", "parquet"})
    shaped: Callable[[Mapping[str, Any]], bool] | None = None

    def fits(self, file: RecordFile) -> bool:
        """Whether the file's first record has the fields that mark this format, and some record its shape."""
        fields = file.records[0].fields.keys()
        if file.container not in self.containers or not any(fields >= needed for needed in self.required):
            return False
        return self.shaped is None or any(self.shaped(record.fields) for record in file.records)


READERS: Registry[Reader] = Registry("dataset format", __name__)


def read_edits(path: str | Path, format: str = "auto") -> list[Edit]:
    """Every edit of a file, in order, nothing dropped or merged (see `knowledge.selection` for that).

    Args:
        path: a local path or a URI that pyarrow can open.
        format: a name in `READERS`, or "auto": decided by the kind of file and the first record's fields.

    Raises:
        ConfigError: no format has that name.
        DataError: one line that names the file, the record (line for JSON lines) and the field.
    """
    reader = None if format == "auto" else READERS.get(format)
    file = read_records(path)
    if reader is None:
        reader = recognise(file)
    elif file.container not in reader.containers:
        raise DataError(f"{path}: is {file.container}, which format '{format}' does not read; use format 'auto'")
    return edits_of(file, reader)


def recognise(file: RecordFile) -> Reader:
    """The format that knows most of the first record's fields.

    Among equals, the one whose shape the records have, then the one with fewest fields of its own.
    """
    fields = file.records[0].fields.keys()
    fitting = [reader for reader in map(READERS.get, READERS.names()) if reader.fits(file)]
    if fitting:
        return max(fitting, key=lambda reader: (len(fields & reader.known), bool(reader.shaped), -len(reader.known)))
    needed = sorted({" and ".join(sorted(fields)) for name in READERS.names() for fields in READERS.get(name).required})
    raise DataError(
        f"{file.records[0].where}: fields {', '.join(map(repr, fields)) or '(none)'} fit no dataset format; "
        f"a record of edits has {', or '.join(needed)}; rename the fields"
    )


def edits_of(file: RecordFile, reader: Reader) -> list[Edit]:
    """The edits of records that are already loaded."""
    return [edit for record in file.records for edit in _edits(reader, record)]


def _edits(reader: Reader, record: DatasetRecord) -> Sequence[Edit]:
    record.refuse_unknown(reader.known)
    try:
        found = reader.edit(record)
        return [found] if isinstance(found, Edit) else found
    except ValidationError as error:
        first = error.errors()[0]
        field = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in first["loc"]).lstrip(".")
        raise record.error(field, _problem(first["type"], first["msg"], first["input"])) from error


def _problem(kind: str, message: str, found: object) -> str:
    """Pydantic's complaint in this package's words."""
    expected = {"string_type": "a text in double quotes", "tuple_type": "a list", "model_type": "an object"}
    if kind in expected:
        return f"expected {expected[kind]}, found {describe(found)}"
    if kind == "missing":
        return "is missing; add it as a text"
    if kind in ("string_too_short", "value_error"):
        return "is blank; fill it in or remove the record"
    if kind == "extra_forbidden":
        return "unknown field; remove it or correct its name"
    return f"{message[:1].lower()}{message[1:]}; correct it"
