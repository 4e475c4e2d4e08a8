"""CounterFact (Meng et al. 2022), in EasyEdit's flat fields and in the original nested ones.

In the original, `{}` in the prompt stands for the subject, and every neighbourhood prompt has the old answer for
its true answer: it asks the same relation of another subject with the same object. Attribute and generation
prompts are left out: their answers are the new object's, which no property of the evaluation uses.
"""

from __future__ import annotations

from onceedit_ray.knowledge.dataset_records import DatasetRecord
from onceedit_ray.knowledge.edit import Edit, Probe
from onceedit_ray.knowledge.readers import READERS, Reader
from onceedit_ray.knowledge.readers.probes import paired_probes, portability_probes

_FLAT_FIELDS = frozenset(
    {"case_id", "prompt", "target_new", "subject", "ground_truth", "rephrase_prompt"}
    | {"locality_prompt", "locality_ground_truth"}
    | {"portability", "portability_prompt", "portability_ground_truth"}
)
_ORIGINAL_FIELDS = frozenset(
    {"case_id", "pararel_idx", "requested_rewrite", "portability"}
    | {"paraphrase_prompts", "neighborhood_prompts", "attribute_prompts", "generation_prompts"}
)
_REWRITE_FIELDS = frozenset({"prompt", "relation_id", "target_new", "target_true", "subject"})
_OBJECT_FIELDS = frozenset({"str", "id"})


def _edit(record: DatasetRecord) -> Edit:
    if "requested_rewrite" in record.fields:
        return _original_edit(record)
    record.refuse_unknown(_FLAT_FIELDS)
    return Edit(
        prompt=record.text("prompt"),
        target_new=record.text("target_new"),
        subject=record.optional_text("subject"),
        ground_truth=record.optional_text("ground_truth"),
        rephrasings=record.texts("rephrase_prompt"),
        locality=paired_probes(record, "locality_prompt", "locality_ground_truth"),
        portability=portability_probes(record)
        + paired_probes(record, "portability_prompt", "portability_ground_truth"),
    )


def _original_edit(record: DatasetRecord) -> Edit:
    record.refuse_unknown(_ORIGINAL_FIELDS)
    rewrite = record.nested("requested_rewrite")
    if rewrite is None:
        raise record.error("requested_rewrite", "is empty; it holds the prompt and the new answer")
    rewrite.refuse_unknown(_REWRITE_FIELDS)
    template, subject = rewrite.text("prompt"), rewrite.text("subject")
    if "{}" not in template:
        raise rewrite.error("prompt", "expected {} where the subject goes; put it there")
    old_answer = _object(rewrite, "target_true")
    neighbours = record.texts("neighborhood_prompts")
    return Edit(
        prompt=template.replace("{}", subject),
        target_new=_object(rewrite, "target_new"),
        subject=subject,
        ground_truth=old_answer,
        rephrasings=record.texts("paraphrase_prompts"),
        locality=tuple(Probe(prompt=prompt, answer=old_answer) for prompt in neighbours),
        portability=portability_probes(record),
    )


def _object(rewrite: DatasetRecord, field: str) -> str:
    target = rewrite.nested(field)
    if target is None:
        raise rewrite.error(field, 'is missing; add it as {"str": the answer}')
    target.refuse_unknown(_OBJECT_FIELDS)
    return target.text("str")


READERS.register("counterfact")(
    Reader(
        required=(frozenset({"prompt", "target_new"}), frozenset({"requested_rewrite"})),
        known=_FLAT_FIELDS | _ORIGINAL_FIELDS,
        edit=_edit,
    )
)
