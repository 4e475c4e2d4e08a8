"""MQuAKE (Zhong et al. 2023, https://arxiv.org/abs/2305.14795): chains of facts, some of them edited.

A record is a case. `requested_rewrite` lists its edits, each like a rewrite of CounterFact with the question that it
answers; `questions` ask in several ways for the end of the chain, whose answer is `new_answer` once all edits are made.
An edit's rephrasing is its cloze. The chain's questions are portability probes of the case's first edit, so that each
is put once. The unedited chain (`answer`, `single_hops`, `orig`) and aliases are left out.
"""

from __future__ import annotations

from onceedit_ray.knowledge.dataset_records import DatasetRecord, describe
from onceedit_ray.knowledge.edit import Edit, Probe
from onceedit_ray.knowledge.readers import READERS, Reader

_REWRITE_FIELDS = frozenset({"prompt", "relation_id", "target_new", "target_true", "subject", "question"})
_OBJECT_FIELDS = frozenset({"str", "id"})


def _edits(record: DatasetRecord) -> list[Edit]:
    rewrites = record.fields["requested_rewrite"]
    if not isinstance(rewrites, list) or not rewrites:
        raise record.error("requested_rewrite", f"expected a list of edits, found {describe(rewrites)}")
    answer = record.text("new_answer")
    chain = tuple(Probe(prompt=question, answer=answer) for question in record.texts("questions"))
    return [_edit(record, number, rewrite, () if number else chain) for number, rewrite in enumerate(rewrites)]


def _edit(record: DatasetRecord, number: int, given: object, portability: tuple[Probe, ...]) -> Edit:
    place = f"requested_rewrite[{number}]"
    if not isinstance(given, dict):
        raise record.error(place, f"expected an object, found {describe(given)}")
    rewrite = DatasetRecord(given, record.where, f"{place}.")
    rewrite.refuse_unknown(_REWRITE_FIELDS)
    template, subject = rewrite.text("prompt"), rewrite.text("subject")
    if "{}" not in template:
        raise rewrite.error("prompt", "expected {} where the subject goes; put it there")
    cloze, question = template.replace("{}", subject), rewrite.optional_text("question")
    return Edit(
        prompt=question or cloze,
        target_new=_object(rewrite, "target_new"),
        subject=subject,
        ground_truth=_object(rewrite, "target_true"),
        rephrasings=(cloze,) if question else (),
        portability=portability,
    )


def _object(rewrite: DatasetRecord, field: str) -> str:
    target = rewrite.nested(field)
    if target is None:
        raise rewrite.error(field, 'is missing; add it as {"str": the answer}')
    target.refuse_unknown(_OBJECT_FIELDS)
    return target.text("str")


READERS.register("mquake")(
    Reader(
        required=(frozenset({"requested_rewrite", "questions", "new_answer"}),),
        known=frozenset(
            {"case_id", "requested_rewrite", "questions", "answer", "answer_alias", "new_answer", "new_answer_alias"}
            | {"single_hops", "new_single_hops", "orig"}
        ),
        edit=_edits,
    )
)
