"""QAEdit (Yang et al. 2025, https://arxiv.org/abs/2502.11177): questions of three QA benchmarks that models miss.

`target` is the answer to be given, `rephrase` another way to ask, `locality` a list of unrelated questions, each with
`loc` and `loc_ans`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from onceedit_ray.knowledge.edit import Edit
from onceedit_ray.knowledge.readers import READERS, Reader
from onceedit_ray.knowledge.readers.fields import Fields, OptionalText, Text, Texts, probes


class UnrelatedQuestion(Fields):
    """A question that is about something else, and its answer."""

    loc: OptionalText
    loc_ans: OptionalText


class QaeditRecord(Fields):
    """The fields of a record."""

    id: object = None
    source: object = None
    benchmark: object = None
    prompt: Text
    target: Text
    subject: OptionalText = ""
    rephrase: Texts = ()
    locality: tuple[UnrelatedQuestion, ...] | None = None


def _edit(fields: Mapping[str, Any]) -> Edit:
    record = QaeditRecord.model_validate(fields)
    unrelated = record.locality or ()
    return Edit(
        prompt=record.prompt,
        target_new=record.target,
        subject=record.subject,
        rephrasings=record.rephrase,
        locality=probes([each.loc for each in unrelated], [each.loc_ans for each in unrelated]),
    )


READERS.register("qaedit")(Reader(models=(QaeditRecord,), required=(frozenset({"prompt", "target"}),), edit=_edit))
