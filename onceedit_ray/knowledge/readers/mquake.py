"""MQuAKE (Zhong et al. 2023, https://arxiv.org/abs/2305.14795): chains of facts, some of them edited.

A record is a case. `requested_rewrite` lists its edits, each like a rewrite of CounterFact with the question that it
answers; `questions` ask in several ways for the end of the chain, whose answer is `new_answer` once all edits are made.
An edit's rephrasing is its cloze. The chain's questions are portability probes of the case's first edit, so that each
is put once. The unedited chain (`answer`, `single_hops`, `orig`) and aliases are left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Field

from onceedit_ray.knowledge.edit import Edit, Probe
from onceedit_ray.knowledge.readers import READERS, Reader
from onceedit_ray.knowledge.readers.counterfact import Rewrite
from onceedit_ray.knowledge.readers.fields import Fields, OptionalText, Text, Texts


class QuestionedRewrite(Rewrite):
    """An edit of a chain, with the question that it answers."""

    question: OptionalText = ""


class MquakeRecord(Fields):
    """The fields of a case."""

    case_id: object = None
    requested_rewrite: Annotated[tuple[QuestionedRewrite, ...], Field(min_length=1)]
    questions: Texts = ()
    answer: object = None
    answer_alias: object = None
    new_answer: Text
    new_answer_alias: object = None
    single_hops: object = None
    new_single_hops: object = None
    orig: object = None


def _edits(fields: Mapping[str, Any]) -> list[Edit]:
    record = MquakeRecord.model_validate(fields)
    chain = tuple(Probe(prompt=question, answer=record.new_answer) for question in record.questions)
    return [_edit(rewrite, () if number else chain) for number, rewrite in enumerate(record.requested_rewrite)]


def _edit(rewrite: QuestionedRewrite, portability: tuple[Probe, ...]) -> Edit:
    cloze = rewrite.prompt.replace("{}", rewrite.subject)
    return Edit(
        prompt=rewrite.question or cloze,
        target_new=rewrite.target_new.text,
        subject=rewrite.subject,
        ground_truth=rewrite.target_true.text,
        rephrasings=(cloze,) if rewrite.question else (),
        portability=portability,
    )


READERS.register("mquake")(
    Reader(
        models=(MquakeRecord,),
        required=(frozenset({"requested_rewrite", "questions", "new_answer"}),),
        edit=_edits,
    )
)
