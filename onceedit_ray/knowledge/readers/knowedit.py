"""KnowEdit (Zhang et al. 2024, https://arxiv.org/abs/2401.01286) as EasyEdit publishes it.

Its parts (ZsRE, WikiData recent and counterfact, WikiBio) share one layout: `locality` and `portability` hold lists of
probes by kind, and an answer is a text, a list of aliases, or a list of such lists; the first text is taken. WikiBio
calls prompt, new answer and subject `text`, `labels` and `concept`. Nothing in a record is left out but the aliases.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from onceedit_ray.knowledge.dataset_records import DatasetRecord, describe
from onceedit_ray.knowledge.edit import Edit, Probe
from onceedit_ray.knowledge.readers import READERS, Reader

_LOCALITY = frozenset({"Relation_Specificity", "Forgetfulness"})
_PORTABILITY = frozenset({"Logical_Generalization", "Reasoning", "Subject_Aliasing"})
_PROBE_FIELDS = frozenset({"prompt", "ground_truth"})
_USUAL = ("prompt", "target_new", "subject")


def _edit(record: DatasetRecord) -> Edit:
    prompt, answer, subject = ("text", "labels", "concept") if "labels" in record.fields else _USUAL
    return Edit(
        prompt=record.text(prompt),
        target_new=_first_text(record, answer) or record.text(answer),
        subject=record.optional_text(subject),
        ground_truth=_first_text(record, "ground_truth"),
        rephrasings=record.texts("rephrase_prompt") + record.texts("rephrase"),
        locality=_probes(record, "locality", _LOCALITY),
        portability=_probes(record, "portability", _PORTABILITY),
    )


def _probes(record: DatasetRecord, field: str, kinds: frozenset[str]) -> tuple[Probe, ...]:
    """Every probe of every kind; those without a prompt are left out."""
    held = record.nested(field)
    if held is None:
        return ()
    held.refuse_unknown(kinds)
    found = []
    for kind, items in held.fields.items():
        for number, item in enumerate(items or ()):
            if not isinstance(item, dict):
                raise held.error(f"{kind}[{number}]", f"expected an object, found {describe(item)}")
            probe = DatasetRecord(item, record.where, f"{held.inside}{kind}[{number}].")
            probe.refuse_unknown(_PROBE_FIELDS)
            prompt = _first_text(probe, "prompt")
            if prompt:
                found.append(Probe(prompt=prompt, answer=_first_text(probe, "ground_truth")))
    return tuple(found)


def _first_text(record: DatasetRecord, field: str) -> str:
    """A text, or the first one of nested lists of aliases; "" where there is none."""
    value = record.fields.get(field)
    while isinstance(value, list):
        value = next((item for item in value if item not in (None, "", [])), None)
    return DatasetRecord({field: value}, record.where, record.inside).optional_text(field)


def _shaped(fields: Mapping[str, Any]) -> bool:
    probes = [fields.get("locality"), fields.get("portability")]
    by_kind = any(isinstance(held, dict) and held.keys() & (_LOCALITY | _PORTABILITY) for held in probes)
    return by_kind or isinstance(fields.get("ground_truth"), list) or "labels" in fields


READERS.register("knowedit")(
    Reader(
        required=(frozenset({"prompt", "target_new"}), frozenset({"text", "labels"})),
        known=frozenset(
            {"case_id", "id", "prompt", "target_new", "subject", "ground_truth", "rephrase_prompt", "rephrase"}
            | {"text", "labels", "concept", "locality", "portability"}
        ),
        edit=_edit,
        shaped=_shaped,
    )
)
