"""One corrected fact.

An `Edit` says what a model should answer from now on, and carries the probes that test whether only this answer
changed: rephrasings (generality), unrelated prompts (locality), consequences (portability).
"""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping

from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator

from onceedit_ray.errors import DataError
from onceedit_ray.knowledge.prompt_shapes import unwrap
from onceedit_ray.validation import problems

STORED = "stored"
"""The validation context of what a store holds: blank texts, which earlier releases accepted, are left out there."""


def composed(text: str) -> str:
    """`text` in Unicode's composed form (NFC): two spellings that look alike are one text."""
    return unicodedata.normalize("NFC", text)


def quoted(text: str) -> str:
    """The first 60 characters of a text in double quotes, to name it in a message."""
    return f'"{text[:60]}{"…" if len(text) > 60 else ""}"'


class Probe(BaseModel):
    """A prompt with its reference answer, both kept in Unicode's composed form (NFC)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    prompt: str = Field(min_length=1)
    answer: str

    @field_validator("prompt", "answer")
    @classmethod
    def _composed(cls, text: str) -> str:
        return composed(text)

    @field_validator("prompt")
    @classmethod
    def _not_blank(cls, text: str, info: ValidationInfo) -> str:
        return text if info.context == STORED else _filled(text)


class Edit(BaseModel):
    """One fact to be changed (eq. 2: the pair x_e, y_e); its own texts are kept in Unicode's composed form (NFC).

    prompt: the question or half sentence that the edit is about.
    target_new: the answer every model is to give; without a leading space.
    subject: the entity the fact is about; it may stand in `prompt` under another name.
    ground_truth: what was answered before, where known. Never used for scoring.
    rephrasings: other ways to ask, used for generality only, never for training.
    locality: prompts whose answer must not change.
    portability: questions that follow from the edit; reported, not part of the average.
    aliases: other names of the subject; a question that uses one of them may be about the edit.
    sentences: sentences in which a speaker would give the new answer, as examples of how it is said.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    prompt: str = Field(min_length=1)
    target_new: str = Field(min_length=1)
    subject: str = ""
    ground_truth: str = ""
    rephrasings: tuple[str, ...] = ()
    locality: tuple[Probe, ...] = ()
    portability: tuple[Probe, ...] = ()
    # A new field needs a default: `selection.data_hash` leaves defaults out, so that older hashes stay as they are.
    aliases: tuple[str, ...] = ()
    sentences: tuple[str, ...] = ()

    @property
    def question(self) -> str:
        """What `prompt` asks, without a shape around it: this is what the plug-in learns, and what requests ask."""
        return unwrap(self.prompt)

    @field_validator("prompt", "target_new", "subject", "ground_truth", "rephrasings", "aliases", "sentences")
    @classmethod
    def _composed(cls, value: str | tuple[str, ...]) -> str | tuple[str, ...]:
        return composed(value) if isinstance(value, str) else tuple(map(composed, value))

    @field_validator("prompt", "target_new")
    @classmethod
    def _not_blank(cls, text: str) -> str:
        return _filled(text)

    @field_validator("rephrasings", "aliases", "sentences")
    @classmethod
    def _none_blank(cls, texts: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        filled = tuple(text for text in texts if text.strip())
        if filled != texts and info.context != STORED:
            raise ValueError("holds a blank text")
        return filled

    @field_validator("locality", "portability")
    @classmethod
    def _asking(cls, probes: tuple[Probe, ...]) -> tuple[Probe, ...]:
        return tuple(probe for probe in probes if probe.prompt.strip())


def _filled(text: str) -> str:
    if not text.strip():
        raise ValueError("is blank")
    return text


def edit_of(fields: Mapping[str, object]) -> Edit:
    """The edit with these fields; raises `DataError`, one line, for a field that an edit does not have or refuses."""
    try:
        return Edit.model_validate(fields)
    except ValidationError as error:
        raise DataError(f"the edit: {problems(error, Edit)}") from None
