"""ZsRE (Levy et al. 2017) in the MEND/WISE form that EasyEdit publishes.

`alt` is the new answer, `answers` hold the true ones, `pred` what some model said before. In the training part
`alt` is the TRUE answer: that file is for unrelated prompts (`knowledge.prompts`), not for edits, and nothing in
its fields tells.
"""

from __future__ import annotations

from onceedit_ray.knowledge.dataset_records import DatasetRecord
from onceedit_ray.knowledge.edit import Edit, Probe
from onceedit_ray.knowledge.readers import READERS, Reader
from onceedit_ray.knowledge.readers.probes import paired_probes, portability_probes

# A mark of the data set that the locality questions come from, no part of the question.
_QUESTION_MARK = "nq question: "


def _edit(record: DatasetRecord) -> Edit:
    return Edit(
        prompt=record.text("src"),
        target_new=record.text("alt"),
        subject=record.optional_text("subject"),
        ground_truth=next(iter(record.texts("answers")), ""),
        rephrasings=record.texts("rephrase"),
        locality=tuple(map(_without_mark, paired_probes(record, "loc", "loc_ans"))),
        portability=portability_probes(record),
    )


def _without_mark(probe: Probe) -> Probe:
    return Probe(prompt=probe.prompt.removeprefix(_QUESTION_MARK), answer=probe.answer)


READERS.register("zsre")(
    Reader(
        required=(frozenset({"src", "alt"}),),
        known=frozenset(
            {"case_id", "src", "alt", "subject", "pred", "answers", "cond"}
            | {"rephrase", "loc", "loc_ans", "portability"}
        ),
        edit=_edit,
    )
)
