"""Files of edits: one module per dataset format, found by registry.

A format says which fields it has and turns one record into its edits, mostly one. How records are wrapped (JSON list,
JSON lines, Parquet) is the business of `knowledge.dataset_records`: ZsRE in Parquet reads like ZsRE in JSON. To add a
format, add a module that registers a `Reader`.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from onceedit_ray.errors import DataError
from onceedit_ray.knowledge.dataset_records import Container, DatasetRecord, RecordFile, describe, read_records
from onceedit_ray.knowledge.edit import Edit
from onceedit_ray.knowledge.readers.fields import PROBLEM
from onceedit_ray.registry import Registry
from onceedit_ray.validation import place, reason


@dataclass(frozen=True)
class Reader:
    """One dataset format.

    models: the kinds of record that it has. required: sets of fields, any one of which marks a record of this format.
    edit: turns a record's fields into an edit or several; lets pydantic's `ValidationError` through.
    containers: the wrappings in which the format occurs.
    shaped: whether a record's values have this format's shape, where other formats have fields of the same names; one
        record of a file is enough.
    """

    models: tuple[type[BaseModel], ...]
    required: tuple[frozenset[str], ...]
    edit: Callable[[Mapping[str, Any]], Edit | Sequence[Edit]]
    containers: frozenset[Container] = frozenset({"json", "parquet"})
    shaped: Callable[[Mapping[str, Any]], bool] | None = None

    @property
    def known(self) -> frozenset[str]:
        """Every field that a record may have."""
        return frozenset().union(*map(field_names, self.models))

    def fits(self, file: RecordFile, nulls: bool = False) -> bool:
        """Whether the file's first record has the fields that mark this format, and some record its shape.

        nulls: whether a field counts that is null there.
        """
        fields = {name for name, value in file.records[0].fields.items() if nulls or value is not None}
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
    fields = file.records[0].given
    readers = [READERS.get(name) for name in READERS.names()]
    fitting = [reader for reader in readers if reader.fits(file)] or [
        reader
        for reader in readers
        if reader.fits(file, nulls=True)  # it says which field must not be null
    ]
    if fitting:
        return max(fitting, key=lambda reader: (len(fields & reader.known), bool(reader.shaped), -len(reader.known)))
    found = ", ".join(map(repr, file.records[0].fields)) or "(none)"
    needed = sorted({" and ".join(sorted(fields)) for name in READERS.names() for fields in READERS.get(name).required})
    raise DataError(
        f"{file.records[0].where}: fields {found} fit no dataset format; "
        f"a record of edits has {', or '.join(needed)}; rename the fields"
    )


def edits_of(file: RecordFile, reader: Reader) -> list[Edit]:
    """The edits of records that are already loaded."""
    unknown = file.index - reader.known
    return [edit for record in file.records for edit in _edits(reader, record.without(unknown))]


def field_names(model: type[BaseModel]) -> frozenset[str]:
    """The fields of a model, as a record spells them."""
    return frozenset(field.alias or name for name, field in model.model_fields.items())


def _edits(reader: Reader, record: DatasetRecord) -> Sequence[Edit]:
    try:
        found = reader.edit(record.fields)
        return [found] if isinstance(found, Edit) else found
    except ValidationError as error:
        details = error.errors()
        # Report a wrong name before the missing field that it may stand for.
        first = next((each for each in details if each["type"] == "extra_forbidden"), details[0])
        if first["type"] == "extra_forbidden" and len(first["loc"]) == 1:
            problem = _unknown(str(first["loc"][0]), reader, record)
        else:
            problem = _problem(first["type"], first["msg"], first["input"])
        raise record.error(place(first["loc"]), problem) from error


def _unknown(field: str, reader: Reader, record: DatasetRecord) -> str:
    names = max(map(field_names, reader.models), key=lambda names: len(names & record.fields.keys()))
    near = difflib.get_close_matches(field, names, n=1)
    hint = f"did you mean '{near[0]}'?" if near else "remove it;"
    return f"unknown field, {hint} known are {', '.join(sorted(names))}"


def _problem(kind: str, message: str, found: object) -> str:
    """Pydantic's error in this package's words."""
    if kind == PROBLEM:
        return message
    expected = {"string_type": "a text in double quotes", "tuple_type": "a list", "model_type": "an object"}
    if kind in expected:
        return f"expected {expected[kind]}, found {describe(found)}"
    if kind == "missing":
        return "is missing; add it as a text"
    if kind in ("string_too_short", "value_error"):
        return "is blank; fill it in or remove the record"
    if kind == "extra_forbidden":
        return "unknown field; remove it or correct its name"
    return f"{reason(message)}; correct it"
