"""A complete evaluation: every target, the gate, and the results folder. The same in one process and on Ray."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from onceedit_ray.config import RunConfig
from onceedit_ray.evaluation.evaluate import Answerer, Evaluation, probes, read_gate
from onceedit_ray.evaluation.machine import describe_machine
from onceedit_ray.evaluation.records import GateRecord, Record, write_gate_records, write_records
from onceedit_ray.evaluation.report import ReportMeta, before_after_table, write_report
from onceedit_ray.evaluation.summary import summarise
from onceedit_ray.knowledge.edit import Edit
from onceedit_ray.knowledge.version import Version
from onceedit_ray.location import without_secrets
from onceedit_ray.progress import Progress, counting

SHOWN_ANSWERS = 6


async def evaluate_targets(
    answerer: Answerer,
    config: RunConfig,
    edits: Sequence[Edit],
    general: Sequence[str],
    progress: Progress,
) -> tuple[list[Record], list[GateRecord]]:
    """Score every target and read the gate in every shape; all targets at once if every model has its own GPU."""
    drift = general[: config.evaluation.drift_limit]
    questions = sum(1 for _ in probes(edits, config.evaluation.portability)) + len(drift)

    on_gpus = all(model.num_gpus for model in (config.plugin, *config.targets.values()))
    turns = asyncio.Semaphore(len(config.targets) + 1 if on_gpus else 1)  # models that share cores slow each other down

    async def scored(target: str) -> list[Record]:
        async with turns:
            counter = counting(f"evaluating {target}", questions, progress)
            return await Evaluation(answerer, target, config.name, config.evaluation, counter, progress).run(
                edits, drift
            )

    prompts = sum(1 + len(edit.rephrasings) + len(edit.locality) for edit in edits) + len(general)
    first = next(iter(config.targets))

    async def gate() -> list[GateRecord]:
        async with turns:
            counter = counting("reading the gate", prompts, progress)
            shapes, concurrency = config.evaluation.gate_shapes, config.evaluation.concurrency
            return await read_gate(answerer, first, edits, general, shapes, concurrency, counter, progress)

    readings, records = await asyncio.gather(gate(), asyncio.gather(*(scored(target) for target in config.targets)))
    return [record for of_target in records for record in of_target], readings


@dataclass(frozen=True)
class EvaluationResults:
    """A finished run: where its results are, its summary, and the before/after table as text."""

    folder: Path
    summary: dict[str, Any]
    table: str


def write_results(
    folder: Path,
    config: RunConfig,
    version: Version,
    edits: Sequence[Edit],
    records: Sequence[Record],
    gate: Sequence[GateRecord],
    seconds: float,
    command: str,
) -> EvaluationResults:
    """Write `records.parquet`, `gate.parquet`, `summary.json`, `report.md` and the figures into `folder`."""
    write_records(folder / "records.parquet", records)
    write_gate_records(folder / "gate.parquet", gate)
    summary = summarise(
        records, gate, config.fusion.threshold, version.id, len(edits), version.manifest.seconds, config.name
    )
    meta = ReportMeta(
        run=config.name,
        dataset=without_secrets(str(config.knowledge.path)),
        models={"plug-in": config.plugin.model, **{name: target.model for name, target in config.targets.items()}},
        machine=describe_machine(),
        duration_seconds=seconds,
        command=command,
    )
    write_report(folder, summary, records, gate, meta)
    return EvaluationResults(folder, summary, before_after_table(summary, records, n=SHOWN_ANSWERS))
