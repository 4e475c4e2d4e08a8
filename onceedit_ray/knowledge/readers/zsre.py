"""ZsRE (Levy et al. 2017) in the MEND/WISE form that EasyEdit publishes.

`alt` is the new answer, `answers` hold the true ones, `pred` what some model said before. In the training part `alt` is
the TRUE answer: that file is for unrelated prompts (`knowledge.prompt_files`), not for edits, and its fields do not
show the difference.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationInfo, field_validator

from onceedit_ray.knowledge.edit import Edit, Probe
from onceedit_ray.knowledge.readers import READERS, Reader
from onceedit_ray.knowledge.readers.fields import Fields, OptionalText, Text, Texts, TextsInPlace, paired, probes
from onceedit_ray.knowledge.readers.probes import Portability, portability_probes

# A mark of the data set that the locality questions come from, no part of the question.
_QUESTION_MARK = "nq question: "


class ZsreRecord(Fields):
    """The fields of a record."""

    case_id: object = None
    src: Text
    alt: Text
    subject: OptionalText = ""
    pred: object = None
    answers: Texts = ()
    cond: object = None
    rephrase: Texts = ()
    loc: TextsInPlace = ()
    loc_ans: TextsInPlace = ()
    portability: Portability = None

    @field_validator("loc_ans")
    @classmethod
    def _one_each(cls, answers: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        return paired(info.data.get("loc"), answers, "loc")


def _edit(fields: Mapping[str, Any]) -> Edit:
    record = ZsreRecord.model_validate(fields)
    return Edit(
        prompt=record.src,
        target_new=record.alt,
        subject=record.subject,
        ground_truth=next(iter(record.answers), ""),
        rephrasings=record.rephrase,
        locality=tuple(map(_without_mark, probes(record.loc, record.loc_ans))),
        portability=portability_probes(record.portability),
    )


def _without_mark(probe: Probe) -> Probe:
    return Probe(prompt=probe.prompt.removeprefix(_QUESTION_MARK), answer=probe.answer)


READERS.register("zsre")(Reader(models=(ZsreRecord,), required=(frozenset({"src", "alt"}),), edit=_edit))
