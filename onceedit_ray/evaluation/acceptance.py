"""Decides whether a version may go live: compares its scores with the bounds.

The scores come from the same evaluation as every other result, through the complete decoder, on one target. Old edits
are scored beside the new ones: the version must still know them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from onceedit_ray.config import EvaluationConfig, LivingConfig
from onceedit_ray.evaluation.evaluate import Answerer, Evaluation, probes, read_gate
from onceedit_ray.evaluation.records import Record
from onceedit_ray.evaluation.summary import summarise
from onceedit_ray.fusion.decoder import UNEDITED
from onceedit_ray.knowledge.edit import Edit

CONCURRENCY = 8
NEAR = {
    "near_misses": "other requests about a live subject",
    "tasks": "tasks on a text that holds a live prompt",
    "swaps": "requests of one live edit about the subject of another",
}
"""The kinds of requests near an edit, in words."""


@dataclass(frozen=True)
class Judgement:
    """figures: the scores and the bounds, ready for JSON. reason: why the version is refused; None if accepted."""

    figures: dict[str, Any]
    reason: str | None


@dataclass(frozen=True)
class Judge:
    """Judges versions.

    answerer: the edited system. target: the target that answers. strategy, threshold: of the fusion. general:
    prompts that are about no edit and were held out of training. near: requests that are near an edit and do not ask
    for it, by the kinds of `NEAR`. bounds: the limits of the scores.
    """

    answerer: Answerer
    target: str
    strategy: str
    threshold: float
    general: Sequence[str]
    near: Mapping[str, Sequence[str]]
    bounds: LivingConfig

    async def judge(
        self, new: Sequence[Edit], old: Sequence[Edit], progress: Callable[[float], None] = lambda share: None
    ) -> Judgement:
        """Score `new` and `old` edits; `progress` is called with the share that is done.

        The rephrasings of old edits are left out: they do not show whether an edit was kept.
        """
        asked = [*new, *(edit.model_copy(update={"rephrasings": ()}) for edit in old)]
        near = sum(map(len, self.near.values()))
        steps = sum(1 for _ in probes(asked, portability=False)) + len(self.general) + len(asked) + near
        done = 0

        def advance(count: int) -> None:
            nonlocal done
            done += count
            progress(min(done / steps, 1.0))

        config = EvaluationConfig(
            strategies=(self.strategy,), settings=("teacher_forced",), portability=False, concurrency=CONCURRENCY
        )
        records = await Evaluation(self.answerer, self.target, "", config, advance).run(asked)
        own = [edit.model_copy(update={"locality": (), "rephrasings": ()}) for edit in asked]
        gate = await read_gate(self.answerer, self.target, own, self.general, ("raw",), CONCURRENCY, advance)
        summary = summarise(records, gate, self.threshold, "", len(asked), 0.0)
        row = summary["targets"].get(self.target, {}).get(self.strategy)
        scores = row["teacher_forced"] if row else {}
        weights = summary["gate"]["shapes"].get("raw", {})
        found = {
            "learnt": self._reliability([record for record in records if record.record < len(new)]),
            "kept": self._reliability([record for record in records if record.record >= len(new)]),
            "generality": scores.get("generality"),
            "locality": scores.get("locality"),
            "recall": _share(weights, "edit"),
            "false_alarms": _share(weights, "general"),
            **{f"{kind}_open": await self._opened(texts, advance) for kind, texts in self.near.items()},
            "new_edits": len(new),
            "old_edits": len(old),
            "general_prompts": len(self.general),
        }
        names = ("learnt", "kept", "locality", "false_alarms", "near_misses")
        bounds = {name: getattr(self.bounds, name) for name in names}
        return Judgement({**found, "bounds": bounds}, _reason(found, self.bounds))

    async def _opened(self, prompts: Sequence[str], advance: Callable[[int], None]) -> float | None:
        """The share of prompts for which the gate opens."""
        read = await read_gate(self.answerer, self.target, (), prompts, ("raw",), CONCURRENCY, advance)
        return sum(each.weight >= self.threshold for each in read) / len(read) if read else None

    def _reliability(self, records: Sequence[Record]) -> float | None:
        if not any(record.strategy != UNEDITED for record in records):
            return None
        row = summarise(records, [], self.threshold, "", 0, 0.0)["targets"][self.target][self.strategy]
        score: float | None = row["teacher_forced"]["reliability"]
        return score


def _share(weights: dict[str, Any], kind: str) -> float | None:
    return weights[kind]["share_above"] if kind in weights else None


def _reason(found: dict[str, Any], bounds: LivingConfig) -> str | None:
    """The scores that are out of bounds, in words; a score that was not measured is not out of bounds."""
    too_low = [
        f"{what} {found[name]:.3f}, below {getattr(bounds, name):g}"
        for name, what in (
            ("learnt", "reliability of the new edits"),
            ("kept", "reliability of the old edits"),
            ("locality", "locality"),
        )
        if found[name] is not None and found[name] < getattr(bounds, name)
    ]
    alarms = found["false_alarms"]
    if alarms is not None and alarms > bounds.false_alarms:
        too_low.append(f"the gate opens for {alarms:.3f} of unrelated prompts, above {bounds.false_alarms:g}")
    for kind, what in NEAR.items():
        opened = found.get(f"{kind}_open")
        if opened is not None and opened > bounds.near_misses:
            too_low.append(
                f"the gate opens for {opened:.3f} of {what}, above {bounds.near_misses:g}; raise hard_negatives of the "
                "run file, or use the reader"
            )
    return "; ".join(too_low) or None
