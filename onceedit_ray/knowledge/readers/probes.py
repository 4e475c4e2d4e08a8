"""The portability question in the spelling that EasyEdit's ZsRE and CounterFact files share."""

from __future__ import annotations

from typing import Annotated

from pydantic import BeforeValidator, Field, ValidationInfo, field_validator

from onceedit_ray.knowledge.edit import Probe
from onceedit_ray.knowledge.readers.fields import Fields, TextsInPlace, none_if_empty, paired, probes


class PortabilityFields(Fields):
    """The question that follows from an edit, and its answer."""

    question: TextsInPlace = Field((), alias="New Question")
    answer: TextsInPlace = Field((), alias="New Answer")
    relation: object = Field(None, alias="Recalled Relation")

    @field_validator("answer")
    @classmethod
    def _one_each(cls, answers: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        return paired(info.data.get("question"), answers, "New Question")


Portability = Annotated[PortabilityFields | None, BeforeValidator(none_if_empty)]
"""Absent where it is null or has no fields."""


def portability_probes(found: PortabilityFields | None) -> tuple[Probe, ...]:
    """The probes of a field `portability`."""
    return () if found is None else probes(found.question, found.answer)
