"""CounterFact (Meng et al. 2022), in EasyEdit's flat fields and in the original nested ones.

In the original, `{}` in the prompt stands for the subject. The true answer of every neighbourhood prompt is the old
answer, because it asks the same relation of another subject with the same object. Attribute and generation prompts are
left out: their answers are those of the new object, and no metric uses them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, ValidationInfo, field_validator

from onceedit_ray.knowledge.edit import Edit, Probe
from onceedit_ray.knowledge.readers import READERS, Reader
from onceedit_ray.knowledge.readers.fields import (
    Fields,
    OptionalText,
    Text,
    Texts,
    TextsInPlace,
    given,
    paired,
    probes,
    problem,
)
from onceedit_ray.knowledge.readers.probes import Portability, portability_probes


class FlatRecord(Fields):
    """EasyEdit's fields."""

    case_id: object = None
    prompt: Text
    target_new: Text
    subject: OptionalText = ""
    ground_truth: OptionalText = ""
    rephrase_prompt: Texts = ()
    locality_prompt: TextsInPlace = ()
    locality_ground_truth: TextsInPlace = ()
    portability: Portability = None
    portability_prompt: TextsInPlace = ()
    portability_ground_truth: TextsInPlace = ()

    @field_validator("locality_ground_truth", "portability_ground_truth")
    @classmethod
    def _one_each(cls, answers: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        prompts = str(info.field_name).replace("ground_truth", "prompt")
        return paired(info.data.get(prompts), answers, prompts)


class Object(Fields):
    """An answer."""

    text: Text = Field(alias="str")
    id: object = None


Answer = Annotated[Object, BeforeValidator(given('is missing; add it as {"str": the answer}'))]


class Rewrite(Fields):
    """What is edited."""

    prompt: Text
    relation_id: object = None
    target_new: Answer
    target_true: Answer
    subject: Text

    @field_validator("prompt")
    @classmethod
    def _with_a_place(cls, prompt: str) -> str:
        if "{}" not in prompt:
            raise problem("expected {} where the subject goes; put it there")
        return prompt


class OriginalRecord(Fields):
    """The original's nested fields."""

    case_id: object = None
    pararel_idx: object = None
    requested_rewrite: Annotated[Rewrite, BeforeValidator(given("is empty; it holds the prompt and the new answer"))]
    portability: Portability = None
    paraphrase_prompts: Texts = ()
    neighborhood_prompts: Texts = ()
    attribute_prompts: object = None
    generation_prompts: object = None


def _edit(fields: Mapping[str, Any]) -> Edit:
    if "requested_rewrite" in fields and (fields["requested_rewrite"] is not None or fields.get("prompt") is None):
        return _original_edit(OriginalRecord.model_validate(fields))
    record = FlatRecord.model_validate(fields)
    return Edit(
        prompt=record.prompt,
        target_new=record.target_new,
        subject=record.subject,
        ground_truth=record.ground_truth,
        rephrasings=record.rephrase_prompt,
        locality=probes(record.locality_prompt, record.locality_ground_truth),
        portability=portability_probes(record.portability)
        + probes(record.portability_prompt, record.portability_ground_truth),
    )


def _original_edit(record: OriginalRecord) -> Edit:
    rewrite = record.requested_rewrite
    old_answer = rewrite.target_true.text
    return Edit(
        prompt=rewrite.prompt.replace("{}", rewrite.subject),
        target_new=rewrite.target_new.text,
        subject=rewrite.subject,
        ground_truth=old_answer,
        rephrasings=record.paraphrase_prompts,
        locality=tuple(Probe(prompt=prompt, answer=old_answer) for prompt in record.neighborhood_prompts),
        portability=portability_probes(record.portability),
    )


READERS.register("counterfact")(
    Reader(
        models=(FlatRecord, OriginalRecord),
        required=(frozenset({"prompt", "target_new"}), frozenset({"requested_rewrite"})),
        edit=_edit,
    )
)
