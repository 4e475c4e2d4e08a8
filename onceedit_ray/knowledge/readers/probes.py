"""Locality and portability probes in the spelling that EasyEdit's ZsRE and CounterFact files share.

Knows nothing about the edit that the probes belong to.
"""

from __future__ import annotations

from onceedit_ray.knowledge.dataset_records import DatasetRecord
from onceedit_ray.knowledge.edit import Probe

_PORTABILITY_FIELDS = frozenset({"New Question", "New Answer", "Recalled Relation"})


def paired_probes(record: DatasetRecord, prompt: str, answer: str) -> tuple[Probe, ...]:
    """Probes from a field of prompts and a field of answers; `()` if both are absent or empty."""
    return tuple(Probe(prompt=text, answer=reply) for text, reply in record.pairs(prompt, answer))


def portability_probes(record: DatasetRecord) -> tuple[Probe, ...]:
    """The question that follows from the edit, from the object `portability`; `()` if it is absent or empty."""
    portability = record.nested("portability")
    if portability is None:
        return ()
    portability.refuse_unknown(_PORTABILITY_FIELDS)
    return paired_probes(portability, "New Question", "New Answer")
