"""Prompts that no edit is about: unrelated instances for the gate's training, general text for drift. Answers are not
read. The caller checks whether a prompt asks for an edited fact.
"""

from __future__ import annotations

from collections.abc import Iterable
from importlib import resources
from pathlib import Path

from pydantic_core import PydanticCustomError

from onceedit_ray.errors import DataError
from onceedit_ray.knowledge.dataset_records import DatasetRecord, RecordFile, lines_of, read_lines, read_records
from onceedit_ray.knowledge.readers import READERS, edits_of, recognise
from onceedit_ray.knowledge.readers.fields import text

# Columns of plain prompts, in order of preference; `Text` is how the ME-PPL corpus spells it.
_COLUMNS = ("prompt", "text", "Text")


def read_prompts(path: str | Path) -> list[str]:
    """The distinct prompts of a file, in order, without outer whitespace.

    Takes plain text (`.txt`, one prompt a line); JSON, JSON lines or Parquet with a field `prompt`, `text` or
    `Text`; and every dataset format in `READERS`, of which it takes the prompts and the locality prompts.
    Rephrasings are left out: in CounterFact they begin with unrelated sentences that hide what is asked.

    Raises:
        DataError: one line that names the file, the record (line for text and JSON lines) and the field.
    """
    if str(path).removesuffix(".gz").endswith(".txt"):
        return _distinct(read_lines(path))
    file = read_records(path)
    fields = file.records[0].fields
    # A dataset record may have a field `prompt` too; only the readers know its other prompts.
    if any(READERS.get(name).fits(file) for name in READERS.names()):
        return _distinct(_edit_prompts(file))
    column = next((name for name in _COLUMNS if name in fields), None)
    if column is None:
        raise DataError(
            f"{file.records[0].where}: fields {', '.join(map(repr, fields)) or '(none)'} hold no prompts; expected "
            f"one of {', '.join(_COLUMNS)}, or a dataset format ({', '.join(READERS.names())}); rename the field"
        )
    return _distinct(_text(record, column) for record in file.records)


def shipped_prompts() -> list[str]:
    """The general prompts that come with the package: questions, half sentences, instructions, small talk, code."""
    shipped = resources.files("onceedit_ray.knowledge").joinpath("data", "general_prompts.txt").read_text("utf-8")
    return _distinct(line.strip() for line in lines_of(shipped) if line.strip())


def _edit_prompts(file: RecordFile) -> Iterable[str]:
    for edit in edits_of(file, recognise(file)):
        yield edit.prompt
        yield from (probe.prompt for probe in edit.locality)


def _text(record: DatasetRecord, column: str) -> str:
    try:
        return text(record.fields.get(column))
    except PydanticCustomError as error:
        raise record.error(column, error.message()) from None


def _distinct(prompts: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(prompts))
