"""Builds a version that knows the given edits: trains it, judges it, and commits it only if it passes.

A version that is refused leaves a report and no weights. The judgement uses what would be served: the saved weights,
loaded as the plug-in's actor loads them, in the fused decoder, with the base plug-in as the target. The call blocks
until it is done. This file uses neither Ray nor the queue.
"""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from onceedit_ray.config import LivingConfig, ModelConfig, RunConfig
from onceedit_ray.editing.run import recipe_of
from onceedit_ray.editing.training import Recipe, train
from onceedit_ray.evaluation.acceptance import Judge, Judgement
from onceedit_ray.files import remove_leftovers, scratch_folder
from onceedit_ray.fusion.system import open_decoder
from onceedit_ray.home import onceedit_home
from onceedit_ray.knowledge.edit import Edit
from onceedit_ray.knowledge.manifest import Manifest
from onceedit_ray.knowledge.readers.parquet import write_edits
from onceedit_ray.knowledge.run_data import general_prompts
from onceedit_ray.knowledge.store import KnowledgeStore
from onceedit_ray.knowledge.version import EDITS, Version
from onceedit_ray.living.hard_negatives import around

DRAFTS = "drafts"
"""The folder in `ONCEEDIT_HOME` of weights that are not yet a version."""
JUDGE = "base"
"""The target with which a version is judged: the plug-in before any edit."""

Phase = Literal["training", "evaluating"]
Report = Callable[[Phase, float], None]


@dataclass(frozen=True)
class BuiltVersion:
    """version: its id; it is in the store unless it was refused. report: its scores. reason: why it was refused."""

    version: str
    report: dict[str, Any]
    reason: str | None


def build_version(
    config: RunConfig,
    store: KnowledgeStore,
    edits: Sequence[Edit],
    parent: Version | None,
    new: Sequence[Edit],
    report: Report = lambda step, share: None,
) -> BuiltVersion:
    """Build the version that knows `edits`, and commit it if it passes.

    Args:
        parent: the version whose training is continued, with its edits rehearsed; None begins with the base plug-in.
            new: those of `edits` that are judged as new. report: called with the step and the share that is done.

    A version that is in the store already is not trained again, and not judged again if its judgement is stored.
    Raises the errors of loading, training and committing; no files are left behind.
    """
    recipe = recipe_of(config, edits, parent)
    made = recipe.made_before(store.versions(revisions=0))
    if made is not None:
        found = made.manifest.report
        judged = Judgement(found, None) if found else _judged(recipe, made.path, new, report)
        return BuiltVersion(made.id, judged.figures, judged.reason)
    with _draft(recipe.id) as folder:
        manifest = _trained(recipe, folder, report)
        judged = _judged(recipe, folder, new, report)
        if judged.reason is None:
            sealed = manifest.model_copy(update={"report": judged.figures})
            store.commit(sealed, edits, lambda to: _move(folder, to))
    return BuiltVersion(recipe.id, judged.figures, judged.reason)


def parent_of(before: Version, gone: Collection[Edit], living: LivingConfig) -> Version | None:
    """The version whose training the next one continues: `before`, or None if an edit is to be forgotten."""
    return before if living.adding == "continue" and not gone and before.manifest.holds_weights else None


def _trained(recipe: Recipe, folder: Path, report: Report) -> Manifest:
    """Train and save; the memory of the model and its optimizer's state is freed when this returns."""
    most = recipe.config.editing.max_epochs
    report("training", 0.0)
    trained = train(recipe, lambda epoch: report("training", min(epoch.number / most, 1.0)))
    trained.write(folder)
    write_edits(recipe.edits, folder / EDITS)
    return trained.manifest()


def _judged(recipe: Recipe, folder: Path, new: Sequence[Edit], report: Report) -> Judgement:
    config, living = recipe.config, recipe.config.living
    report("evaluating", 0.0)
    base = ModelConfig(**config.plugin.model_dump(exclude={"view"}))
    decoder = open_decoder(config.model_copy(update={"targets": {JUDGE: base}}), folder)
    general = general_prompts(config.evaluation.general, living.general_limit)
    fresh = set(new)
    old = [edit for edit in recipe.edits if edit not in fresh]
    # Only the latest old edits: earlier versions were judged on the others, and rehearsal covers all of them equally.
    seen = old[len(old) - min(len(old), living.old_limit) :]
    near = around([*new, *seen], recipe.edits)
    judge = Judge(decoder, JUDGE, config.fusion.strategy, config.fusion.threshold, general, near, living)
    return asyncio.run(judge.judge(list(new), seen, lambda share: report("evaluating", share)))


@contextmanager
def _draft(id: str) -> Iterator[Path]:
    """A temporary folder under `ONCEEDIT_HOME` for weights that are not yet a version; it is always removed."""
    drafts = onceedit_home() / DRAFTS
    remove_leftovers(drafts)
    with scratch_folder(drafts, f"draft-{id}") as folder:  # another name than the store's, which writes there later
        yield folder


def _move(folder: Path, to: Path) -> None:
    """Move the weights and the tokenizer to the store's folder; the store itself writes the edits there."""
    for path in folder.iterdir():
        if path.name != EDITS:
            shutil.move(path, to / path.name)
