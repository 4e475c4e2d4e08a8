"""KnowEdit (Zhang et al. 2024, https://arxiv.org/abs/2401.01286) as EasyEdit publishes it.

Its parts (ZsRE, WikiData recent and counterfact, WikiBio) share one layout: `locality` and `portability` hold lists of
probes by kind, and an answer is a text, a list of aliases, or a list of such lists; the first text is taken. WikiBio
calls prompt, new answer and subject `text`, `labels` and `concept`. Nothing in a record is left out but the aliases.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BeforeValidator, PlainValidator

from onceedit_ray.knowledge.edit import Edit, Probe
from onceedit_ray.knowledge.readers import READERS, Reader
from onceedit_ray.knowledge.readers.fields import (
    Fields,
    OptionalText,
    Text,
    Texts,
    none_if_empty,
    probes,
    stripped,
    text,
)


def _first(value: object) -> object:
    """A text, or the first one of nested lists of aliases; None where there is none."""
    while isinstance(value, list):
        value = next((item for item in value if item not in (None, "", [])), None)
    return value


FirstText = Annotated[str, PlainValidator(lambda value: text(_first(value)))]
OptionalFirstText = Annotated[str, PlainValidator(lambda value: stripped(_first(value) or ""))]


class KnoweditProbe(Fields):
    """A probe."""

    prompt: OptionalFirstText
    ground_truth: OptionalFirstText = ""


class Locality(Fields):
    """What must not change, by kind."""

    Relation_Specificity: tuple[KnoweditProbe, ...] | None = None
    Forgetfulness: tuple[KnoweditProbe, ...] | None = None


class Portability(Fields):
    """What follows from the edit, by kind."""

    Logical_Generalization: tuple[KnoweditProbe, ...] | None = None
    Reasoning: tuple[KnoweditProbe, ...] | None = None
    Subject_Aliasing: tuple[KnoweditProbe, ...] | None = None


class _Probed(Fields):
    case_id: object = None
    id: object = None
    ground_truth: OptionalFirstText = ""
    rephrase_prompt: Texts = ()
    rephrase: Texts = ()
    locality: Annotated[Locality | None, BeforeValidator(none_if_empty)] = None
    portability: Annotated[Portability | None, BeforeValidator(none_if_empty)] = None


class KnowEditRecord(_Probed):
    """The fields of most parts."""

    prompt: Text
    target_new: FirstText
    subject: OptionalText = ""


class WikiBioRecord(_Probed):
    """The fields of WikiBio."""

    text: Text
    labels: FirstText
    concept: OptionalText = ""


def _edit(fields: Mapping[str, Any]) -> Edit:
    record: KnowEditRecord | WikiBioRecord
    if fields.get("labels") is not None:
        record = WikiBioRecord.model_validate(fields)
        prompt, answer, subject = record.text, record.labels, record.concept
    else:
        record = KnowEditRecord.model_validate(fields)
        prompt, answer, subject = record.prompt, record.target_new, record.subject
    return Edit(
        prompt=prompt,
        target_new=answer,
        subject=subject,
        ground_truth=record.ground_truth,
        rephrasings=record.rephrase_prompt + record.rephrase,
        locality=_all_probes(record.locality),
        portability=_all_probes(record.portability),
    )


def _all_probes(by_kind: Locality | Portability | None) -> tuple[Probe, ...]:
    """The probes of every kind, in the order of the kinds."""
    if by_kind is None:
        return ()
    questions = [each for name in type(by_kind).model_fields for each in getattr(by_kind, name) or ()]
    return probes([each.prompt for each in questions], [each.ground_truth for each in questions])


def _shaped(fields: Mapping[str, Any]) -> bool:
    kinds = Locality.model_fields.keys() | Portability.model_fields.keys()
    probed = [fields.get("locality"), fields.get("portability")]
    by_kind = any(isinstance(held, dict) and held.keys() & kinds for held in probed)
    return by_kind or isinstance(fields.get("ground_truth"), list) or fields.get("labels") is not None


READERS.register("knowedit")(
    Reader(
        models=(KnowEditRecord, WikiBioRecord),
        required=(frozenset({"prompt", "target_new"}), frozenset({"text", "labels"})),
        edit=_edit,
        shaped=_shaped,
    )
)
