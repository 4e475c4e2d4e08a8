"""QAEdit (Yang et al. 2025, https://arxiv.org/abs/2502.11177): questions of three QA benchmarks that models miss.

`target` is the answer to be given, `rephrase` another way to ask, `locality` a list of unrelated questions, each with
`loc` and `loc_ans`.
"""

from __future__ import annotations

from onceedit_ray.knowledge.dataset_records import DatasetRecord, describe
from onceedit_ray.knowledge.edit import Edit, Probe
from onceedit_ray.knowledge.readers import READERS, Reader
from onceedit_ray.knowledge.readers.probes import paired_probes

_PROBE_FIELDS = frozenset({"loc", "loc_ans"})


def _edit(record: DatasetRecord) -> Edit:
    return Edit(
        prompt=record.text("prompt"),
        target_new=record.text("target"),
        subject=record.optional_text("subject"),
        rephrasings=record.texts("rephrase"),
        locality=_locality(record),
    )


def _locality(record: DatasetRecord) -> tuple[Probe, ...]:
    items = record.fields.get("locality") or []
    if not isinstance(items, list):
        raise record.error("locality", f"expected a list of questions, found {describe(items)}")
    found: tuple[Probe, ...] = ()
    for number, item in enumerate(items):
        if not isinstance(item, dict):
            raise record.error(f"locality[{number}]", f"expected an object, found {describe(item)}")
        probe = DatasetRecord(item, record.where, f"locality[{number}].")
        probe.refuse_unknown(_PROBE_FIELDS)
        found += paired_probes(probe, "loc", "loc_ans")
    return found


READERS.register("qaedit")(
    Reader(
        required=(frozenset({"prompt", "target"}),),
        known=frozenset({"id", "source", "benchmark", "prompt", "target", "subject", "rephrase", "locality"}),
        edit=_edit,
    )
)
