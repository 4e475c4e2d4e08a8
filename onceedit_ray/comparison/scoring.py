"""Scores a cell edit by edit, so that finished scores are kept when the process is killed.

The probes of one edit, or one general prompt, are a unit. Its records are appended to a file as soon as the unit is
scored. A cell that is resumed scores the remaining units. A kill loses only the units that are being scored.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path

from onceedit_ray.config import EvaluationConfig
from onceedit_ray.evaluation.evaluate import Answerer, Evaluation
from onceedit_ray.evaluation.records import Record
from onceedit_ray.knowledge.edit import Edit

OnScored = Callable[[], None]
Unit = tuple[str, int]
"""A unit of scoring: "edit" or "general", and its number."""


class KeptRecords:
    """Records of finished units in a JSON lines file; an incomplete last line, left by a kill, is ignored."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._units: dict[Unit, list[Record]] = {}
        whole = 0
        if path.is_file():
            with path.open("rb") as file:
                for line in file:
                    if not line.endswith(b"\n"):
                        break
                    kept = json.loads(line)
                    self._units[kept["kind"], kept["number"]] = [Record(**values) for values in kept["records"]]
                    whole += len(line)
            os.truncate(path, whole)

    def __contains__(self, unit: Unit) -> bool:
        return unit in self._units

    def __len__(self) -> int:
        return len(self._units)

    def add(self, unit: Unit, records: Sequence[Record]) -> None:
        """Append a unit's records; they are on the disk when this returns."""
        kind, number = unit
        line = {"kind": kind, "number": number, "records": [asdict(record) for record in records]}
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line, ensure_ascii=False) + "\n")
            file.flush()
            os.fsync(file.fileno())
        self._units[unit] = list(records)

    def records(self) -> list[Record]:
        """All records: the edits in order, then the general prompts in order."""
        return [record for unit in sorted(self._units) for record in self._units[unit]]


def units_left(kept: KeptRecords, edits: Sequence[Edit], general: Sequence[str]) -> list[Unit]:
    """The units that have not been scored yet."""
    units = [("edit", number) for number in range(len(edits))] + [("general", number) for number in range(len(general))]
    return [unit for unit in units if unit not in kept]


class Scoring:
    """Scores units of one cell and keeps them.

    Args:
        answerer: the edited system. target, run: names for the records. config: what is scored; its `concurrency`
            is the number of units scored at the same time.
        edits, general: the contents of the units. kept: stores their records.
    """

    def __init__(
        self,
        answerer: Answerer,
        target: str,
        run: str,
        config: EvaluationConfig,
        edits: Sequence[Edit],
        general: Sequence[str],
        kept: KeptRecords,
    ) -> None:
        self._answerer, self._target, self._run, self._config = answerer, target, run, config
        self._edits, self._general, self._kept = edits, general, kept

    async def ask_unedited(self, units: Sequence[Unit]) -> None:
        """Ask the unedited target the prompts of the units; the answerer remembers its answers."""
        unedited = self._config.model_copy(update={"strategies": ()})
        for unit in units:
            await self._evaluated(unit, unedited)

    async def score(self, units: Sequence[Unit], scored: OnScored = lambda: None) -> None:
        """Score and keep the units; calls `scored` after each."""
        turns = asyncio.Semaphore(self._config.concurrency)

        async def in_turn(unit: Unit) -> None:
            async with turns:
                self._kept.add(unit, await self._evaluated(unit, self._config))
                scored()

        tasks: list[Awaitable[None]] = [in_turn(unit) for unit in units]
        await asyncio.gather(*tasks)

    async def _evaluated(self, unit: Unit, config: EvaluationConfig) -> list[Record]:
        kind, number = unit
        alone = config.model_copy(update={"concurrency": 1})
        evaluation = Evaluation(self._answerer, self._target, self._run, alone)
        edits, general = ([self._edits[number]], []) if kind == "edit" else ([], [self._general[number]])
        return [replace(record, record=number) for record in await evaluation.run(edits, general)]
