"""Computes the averages of `summary.json` from the records.

Means are taken within a record first (several rephrasings or locality prompts of one edit), then over records, then
over the three properties. This file does not decide how the averages are shown or where they are written.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from onceedit_ray.evaluation.metrics import average, drift, gate_figures
from onceedit_ray.evaluation.records import GateRecord, Record
from onceedit_ray.fusion.decoder import UNEDITED

SETTINGS = ("teacher_forced", "generation", "text_match")
"""The three blocks of scores; `text_match` is a second score of the generation records."""

PROPERTIES = ("reliability", "generality", "locality")

SETTING_LABELS = {
    "teacher_forced": "Teacher-forced",
    "generation": "Generation",
    "text_match": "Text match",
}
PROPERTY_LABELS = {"reliability": "Reliability", "generality": "Generality", "locality": "Locality"}
KIND_LABELS = {
    "edit": "Edited prompts",
    "rephrasing": "Rephrasings",
    "locality": "Locality prompts",
    "general": "General text",
}


def summarise(
    records: Iterable[Record],
    gate_records: Iterable[GateRecord],
    threshold: float,
    plugin: str,
    edits: int,
    edit_seconds: float,
    run: str = "",
) -> dict[str, Any]:
    """All averages of a run as values ready for JSON.

    Args:
        records: the scored answers of every target and strategy, `UNEDITED` included.
        gate_records: the readings of the gate.
        threshold: the smallest gate weight with which the plug-in takes part in the answer.
        plugin: name of the plug-in model or version.
        edits: number of edits made.
        edit_seconds: wall time of editing the plug-in.
        run: name of the run.

    Returns:
        `{"run", "plugin", "edits", "edit_seconds", "targets": {target: {strategy: row}}, "gate": {"threshold",
        "shapes": {shape: {kind: {"mean", "share_above", "n"}}}}, "drift": {target: {strategy: {"identical", "n"}}}}`.
        A row is described at `_row`. A property without records is None, and the average is over those present.

    Raises:
        ValueError: `threshold` or `edit_seconds` is not finite.
    """
    for name, value in (("threshold", threshold), ("edit_seconds", edit_seconds)):
        if not math.isfinite(value):
            raise ValueError(f"{name} is {value}; expected a finite number")
    by_target: dict[str, dict[str, list[Record]]] = {}
    for record in records:
        by_target.setdefault(record.target, {}).setdefault(record.strategy, []).append(record)
    return {
        "run": run,
        "plugin": plugin,
        "edits": edits,
        "edit_seconds": edit_seconds,
        "targets": {
            target: {strategy: _row(strategies[strategy]) for strategy in _unedited_first(strategies)}
            for target, strategies in by_target.items()
        },
        "gate": {"threshold": threshold, "shapes": _gate(gate_records, threshold)},
        "drift": _drift(by_target),
    }


def strategies_of(summary: Mapping[str, Any]) -> list[str]:
    """The strategies of a summary in order of appearance, without `UNEDITED`; reports show the first one first."""
    names = dict.fromkeys(name for rows in summary["targets"].values() for name in rows)
    return [name for name in names if name != UNEDITED]


def _unedited_first(strategies: Iterable[str]) -> list[str]:
    return sorted(strategies, key=lambda name: name != UNEDITED)


def _row(records: Sequence[Record]) -> dict[str, Any]:
    """The averages of one target with one strategy.

    `teacher_forced`, `generation`, `text_match`: reliability, generality, locality and their average;
    `portability`: a score for each setting, not part of the average;
    `records`: how many records each property was scored on;
    `cost`: of the generated answers, general prompts left out;
    `restricted`: the distinct notes on strategies restricted to candidates.
    """
    row: dict[str, Any] = {setting: _scores(records, setting) for setting in SETTINGS}
    row["portability"] = {setting: _property_score(records, setting, "portability") for setting in SETTINGS}
    row["records"] = {
        prop: len({record.record for record in records if record.property == prop})
        for prop in (*PROPERTIES, "portability")
    }
    row["cost"] = _cost(records)
    row["restricted"] = sorted({record.restricted for record in records if record.restricted})
    return row


def _scores(records: Sequence[Record], setting: str) -> dict[str, float | None]:
    reliability, generality, locality = (_property_score(records, setting, prop) for prop in PROPERTIES)
    return {
        "reliability": reliability,
        "generality": generality,
        "locality": locality,
        "average": average(reliability, generality, locality),
    }


def _property_score(records: Sequence[Record], setting: str, prop: str) -> float | None:
    """The mean over records of the mean within each record; None if nothing was scored."""
    within: dict[int, list[float]] = defaultdict(list)
    for record in records:
        score = _score(record, setting)
        if record.property == prop and score is not None:
            within[record.record].append(score)
    return _mean([_mean(scores) for scores in within.values()]) if within else None


def _score(record: Record, setting: str) -> float | None:
    if setting == "text_match":
        return record.text_match
    return record.score if record.setting == setting else None


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


def _cost(records: Sequence[Record]) -> dict[str, float | int | None]:
    """Passes and tokens of the generated answers to the edits' probes.

    `tokens_per_target_pass` is None if there were no passes; `alone` is the share of answers that the target gave
    alone. Several answers are computed at once, so their times do not measure speed: use `make bench`.
    """
    answers = [record for record in records if record.setting == "generation" and record.property != "general"]
    tokens = sum(record.new_tokens for record in answers)
    passes = sum(record.target_passes for record in answers)
    return {
        "answers": len(answers),
        "new_tokens": tokens,
        "target_passes": passes,
        "plugin_passes": sum(record.plugin_passes for record in answers),
        "tokens_per_target_pass": tokens / passes if passes else None,
        "plugin_passes_per_answer": sum(record.plugin_passes for record in answers) / len(answers) if answers else None,
        "alone": sum(record.alone for record in answers) / len(answers) if answers else None,
    }


def _gate(gate_records: Iterable[GateRecord], threshold: float) -> dict[str, dict[str, Any]]:
    weights: dict[str, dict[str, list[float]]] = {}
    for record in gate_records:
        weights.setdefault(record.shape, {}).setdefault(record.kind, []).append(record.weight)
    return {
        shape: {kind: asdict(gate_figures(values, threshold)) for kind, values in kinds.items()}
        for shape, kinds in weights.items()
    }


def _drift(by_target: dict[str, dict[str, list[Record]]]) -> dict[str, dict[str, Any]]:
    """Drift of the generated answers to general prompts; `unedited` is the reference and has no drift."""
    result: dict[str, dict[str, Any]] = {}
    for target, strategies in by_target.items():
        for strategy, records in strategies.items():
            same = [r.score == 1.0 for r in records if r.property == "general" and r.setting == "generation"]
            if same and strategy != UNEDITED:
                result.setdefault(target, {})[strategy] = {"identical": drift(same), "n": len(same)}
    return result
