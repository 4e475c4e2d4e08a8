"""A cell of a baseline: the method edits the target, and then the target answers by itself.

`batch`: all edits are made, in the method's own way, then everything is scored (the paper's setting). `single`: each
edit is made on the unedited target, scored on its own record, and undone. The edit of a batch is kept beside the
records until the cell is finished, so that a killed cell continues with scoring and does not edit again.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from onceedit_ray.baselines import Baseline
from onceedit_ray.baselines.edited_model import EditedModel
from onceedit_ray.baselines.material import read_material
from onceedit_ray.comparison.cells import Plan, Sources, corpus_texts
from onceedit_ray.comparison.edited_target import EditedTarget
from onceedit_ray.comparison.scoring import KeptRecords, Scoring, Unit, units_left
from onceedit_ray.comparison.stopwatch import Stopwatch
from onceedit_ray.comparison.unedited_answers import UneditedAnswers
from onceedit_ray.digest import digest
from onceedit_ray.knowledge.run_data import general_prompts
from onceedit_ray.knowledge.selection import data_hash
from onceedit_ray.models.assembly import open_codec, use_threads
from onceedit_ray.models.loading import device_for, load_model, load_tokenizer
from onceedit_ray.models.sources import resolve
from onceedit_ray.progress import Count, Progress


class BaselineCell:
    """The work on one cell.

    Args:
        plan: what to compute. folder: the folder for the cell's unfinished work. progress: called with lines of text.
    """

    def __init__(self, plan: Plan, folder: Path, progress: Progress) -> None:
        self.watch = Stopwatch()
        self._plan, self._folder, self._progress = plan, folder, progress
        source = resolve(plan.target.model, progress)
        use_threads(plan.target.threads)
        device = device_for(plan.target.num_gpus)
        spread = "auto" if plan.target.num_gpus > 1 else None
        self._sources = Sources(plan.dataset)
        self._source = source
        named = digest([source.digest, plan.target.dtype, device, data_hash(self._sources.edits)])
        self._own = folder.parent.parent / "unedited" / f"{named[:16]}.json"
        self._model: PreTrainedModel = load_model(source.path, plan.target.dtype, device, spread)
        self._model.requires_grad_(False)
        self._tokenizer: PreTrainedTokenizerBase = load_tokenizer(source.path)
        self._codec = open_codec(source.path)
        self._method: Baseline = plan.baseline()
        self._method.check(self._model)

    @property
    def edits(self) -> int:
        """How many edits are made."""
        return len(self._sources.edits)

    async def scored(self) -> KeptRecords:
        """Edit and score; returns the records of every unit, those of an earlier start included."""
        evaluation = self._plan.evaluation
        batch = self._plan.protocol == "batch"
        general = general_prompts(evaluation.general, evaluation.general_limit)[: evaluation.drift_limit]
        general = general if batch else []  # no drift can be measured after an edit was undone
        kept = KeptRecords(self._folder / "records.jsonl")
        target = EditedTarget(self._plan.target_name, self._model, self._codec, UneditedAnswers.load(self._own))
        one_at_a_time = evaluation.model_copy(update={"concurrency": 1})
        scoring = Scoring(
            target, self._plan.target_name, self._folder.name, one_at_a_time, self._sources.edits, general, kept
        )
        left = units_left(kept, self._sources.edits, general)
        total = len(kept) + len(left)

        def told() -> None:
            self._progress(Count("scoring", len(kept), total))

        if left and batch:
            await self._batch(target, scoring, left, told)
        elif left:
            await self._one_by_one(target, scoring, left, told)
        return kept

    def timed(self) -> None:
        """Prepare and edit only to measure their times; nothing that was prepared before is used."""
        with tempfile.TemporaryDirectory(prefix="onceedit-") as cache:
            self._prepare(Path(cache))
        self._edit().undo()

    async def _batch(self, target: EditedTarget, scoring: Scoring, left: list[Unit], told: Callable[[], None]) -> None:
        with self.watch.of("unedited"):
            self._progress("asking the unedited target")
            await scoring.ask_unedited(left)
            target.own.save(self._own)
        edit = self._folder / "edit"
        if edit.is_dir():
            self._progress("putting the edit that was made before on again")
            self.watch.restore(edit / "times.json")
            target.edited = self._method.load(self._model, self._tokenizer, edit)
        else:
            self._prepare()
            target.edited = self._edit()
            self._keep(target.edited, edit)
        with self.watch.of("score"):
            await scoring.score(left, told)

    async def _one_by_one(
        self, target: EditedTarget, scoring: Scoring, left: list[Unit], told: Callable[[], None]
    ) -> None:
        self._prepare()
        for unit in left:
            await scoring.ask_unedited([unit])
            with self.watch.of("edit"):
                edits = [self._sources.edits[unit[1]]]
                target.edited = self._method.edit(self._model, self._tokenizer, edits, lambda line: None)
            with self.watch.of("score"):
                await scoring.score([unit], told)
            target.edited.undo()
            target.edited = None

    def _prepare(self, cache: Path | None = None) -> None:
        plan = self._plan
        material = read_material(self._source, training=plan.dataset.training, edited=plan.dataset.path)
        material = replace(
            material,
            corpus=corpus_texts(plan.corpus, plan.corpus_texts),
            unrelated=self._sources.unrelated,
            cache=cache or material.cache,
        )
        with self.watch.of("prepare"):
            self._method.prepare(self._model, self._tokenizer, material, self._progress)

    def _edit(self) -> EditedModel:
        with self.watch.of("edit"):
            return self._method.edit(self._model, self._tokenizer, self._sources.edits, self._progress)

    def _keep(self, edited: EditedModel, folder: Path) -> None:
        """Save the edit and the times until now, whole or not at all."""
        aside = folder.with_name(f".edit.{os.getpid()}")
        shutil.rmtree(aside, ignore_errors=True)
        edited.save(aside)
        self.watch.save(aside / "times.json")
        aside.replace(folder)
