"""The kinds of fields that dataset records are made of, as types for pydantic models.

Outer white space of texts is removed; null counts as absent. Errors are raised with the final text that users see.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, PlainValidator, model_validator
from pydantic_core import PydanticCustomError

from onceedit_ray.knowledge.dataset_records import describe
from onceedit_ray.knowledge.edit import Probe

PROBLEM = "field_problem"
"""The type of the errors that are raised here."""


def problem(line: str) -> PydanticCustomError:
    """The error that says `line` about a field."""
    return PydanticCustomError(PROBLEM, "{line}", {"line": line})


def stripped(value: object) -> str:
    """A text without outer white space, which may be empty."""
    if not isinstance(value, str):
        raise problem(f"expected a text, found {describe(value)}; put it in double quotes")
    if any("\ud800" <= character <= "\udfff" for character in value):
        raise problem("holds half of a surrogate pair; write the character itself")
    return value.strip()


def text(value: object) -> str:
    """A text that must be there, without outer white space."""
    if value is None:
        raise problem("is missing; add it as a text")
    found = stripped(value)
    if not found:
        raise problem("is blank; fill it in or remove the record")
    return found


def texts(value: object) -> tuple[str, ...]:
    """A text or a list of texts, blank ones left out; `()` for null."""
    if value is None:
        return ()
    found = map(stripped, value if isinstance(value, (list, tuple)) else [value])
    return tuple(each for each in found if each)


def texts_in_place(value: object) -> tuple[str, ...]:
    """A text or a list of texts, blank ones and nulls as "", for fields whose places count; `()` for null."""
    if value is None:
        return ()
    found = value if isinstance(value, (list, tuple)) else [value]
    return tuple("" if each is None else stripped(each) for each in found)


def given(line: str) -> Callable[[Any], Any]:
    """Accept an object that has any field; for any other value, raise the error `line`."""

    def check(value: Any) -> Any:
        if value is None or value == {}:
            raise problem(line)
        return value

    return check


def none_if_empty(value: Any) -> Any:
    """An object without fields counts as absent."""
    return None if value == {} else value


def paired(prompts: Sequence[str] | None, answers: tuple[str, ...], field: str) -> tuple[str, ...]:
    """`answers`, which must be as many as the prompts in `field`; `prompts` is None if `field` was invalid."""
    if prompts is not None and len(prompts) != len(answers):
        raise problem(f"has {len(answers)} texts for {len(prompts)} in '{field}'; give one for each")
    return answers


def probes(prompts: Sequence[str], answers: Sequence[str]) -> tuple[Probe, ...]:
    """Probes of two fields that belong together, paired by place; one with a blank prompt is left out."""
    pairs = zip(prompts, answers, strict=True)
    return tuple(Probe(prompt=prompt, answer=answer) for prompt, answer in pairs if prompt)


Text = Annotated[str, PlainValidator(text)]
OptionalText = Annotated[str, PlainValidator(lambda value: "" if value is None else stripped(value))]
Texts = Annotated[tuple[str, ...], PlainValidator(texts), Field(validate_default=True)]
TextsInPlace = Annotated[tuple[str, ...], PlainValidator(texts_in_place), Field(validate_default=True)]


class Fields(BaseModel):
    """A record, or an object in one: unknown fields are errors, unless they are null."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    @model_validator(mode="before")
    @classmethod
    def _without_unknown_nulls(cls, given: Any) -> Any:
        """Tables give each record the fields of all others, filled with null."""
        if not isinstance(given, Mapping):
            return given
        known = {field.alias or name for name, field in cls.model_fields.items()}
        return {name: value for name, value in given.items() if value is not None or name in known}
