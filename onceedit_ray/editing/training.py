"""The plug-in is trained: from a recipe to weights and the manifest of the version they will be.

A version's id is made of everything that went into it, so a recipe finds the version it made before. Knows nothing
about what a version must pass before it is used, nor when.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from onceedit_ray.config import RunConfig
from onceedit_ray.digest import digest
from onceedit_ray.editing.editors import EDITORS, Epoch, Outcome
from onceedit_ray.editing.editors.reader import ReadFacts
from onceedit_ray.knowledge.edit import Edit
from onceedit_ray.knowledge.manifest import Manifest
from onceedit_ray.knowledge.selection import data_hash
from onceedit_ray.knowledge.version import Version
from onceedit_ray.models.assembly import use_threads
from onceedit_ray.models.loading import device_for, load_model, load_tokenizer, without_progress_bars
from onceedit_ray.models.sources import ModelFolder
from onceedit_ray.reader.adapter import Adapter, adapter_for
from onceedit_ray.reader.plugin import READER, editor_name


@dataclass(frozen=True)
class Recipe:
    """What a version is made of.

    config: plug-in, editor and settings. base: the plug-in before any edit. edits: all that the version is to know, in
    order. unrelated: prompts to leave alone, by origin. parent: the version to go on from; None begins at `base`.
    """

    config: RunConfig
    base: ModelFolder
    edits: tuple[Edit, ...]
    unrelated: Sequence[Sequence[str]]
    parent: Version | None = None

    @cached_property
    def adapter(self) -> Adapter | None:
        """The reader of the version; None where the plug-in is trained on its edits."""
        editor = self.config.editing.editor
        return adapter_for(self.base, editor) if editor_name(editor) == READER else None

    @cached_property
    def settings(self) -> dict[str, Any]:
        """How the version is made, as its manifest says."""
        if self.adapter is not None:
            return {"editor": READER, "reader": self.adapter.digest}
        own = {**self.config.editing.model_dump(mode="json"), "view": self.config.plugin.view}
        return own if self.parent is None else {**own, "rehearsal": self.config.living.rehearsal}

    @cached_property
    def id(self) -> str:
        """The id of the version."""
        return self._id(self.settings)

    def made_before(self, versions: Iterable[Version]) -> Version | None:
        """The version among `versions` that was made of the same, or None.

        An id is made of what the files of unrelated prompts hold and of their paths. A version that was made while they
        lay elsewhere is recognised by the paths that its manifest names.
        """
        for version in versions:
            settings = version.manifest.settings
            moved = {**settings, "unrelated": self.settings["unrelated"]} if "unrelated" in self.settings else settings
            if moved == self.settings and version.id == self._id(settings):
                return version
        return None

    def _id(self, settings: Mapping[str, Any]) -> str:
        made_of: list[object] = [self.base.digest, data_hash(self.edits), settings]
        if self.adapter is None:  # a reader needs no unrelated prompts, and what was known before leaves no trace
            made_of.append(digest(self.unrelated))
            if self.parent is not None:
                made_of.append(self.parent.id)
        return f"{self.config.name}-{digest(made_of)[:10]}"

    @cached_property
    def known(self) -> tuple[Edit, ...]:
        """The edits that the parent has learnt already."""
        before = set() if self.parent is None else set(self.parent.edits())
        return tuple(edit for edit in self.edits if edit in before)

    @cached_property
    def new(self) -> tuple[Edit, ...]:
        """The edits that are still to be learnt."""
        known = set(self.known)
        return tuple(edit for edit in self.edits if edit not in known)


@dataclass(frozen=True)
class Trained:
    """A plug-in that was trained by a recipe and is no version yet."""

    recipe: Recipe
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    outcome: Outcome

    def write(self, folder: Path) -> None:
        """Save model and tokenizer to `folder`."""
        with without_progress_bars():
            self.model.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)

    def manifest(self, report: dict[str, Any] | None = None) -> Manifest:
        """What the version will say about itself; `report`: what it was accepted for."""
        recipe, last = self.recipe, self.outcome.epochs[-1]
        return Manifest(
            id=recipe.id,
            base_model=recipe.config.plugin.model,
            base_digest=recipe.base.digest,
            editor=recipe.config.editing.editor,
            settings=recipe.settings,
            seed=recipe.config.editing.seed,
            data_hash=data_hash(recipe.edits),
            parents=[] if recipe.parent is None else [recipe.parent.id],
            edits=len(recipe.edits),
            losses=[asdict(epoch) for epoch in self.outcome.epochs],
            gate={"recall": last.recall, "false_alarms": last.false_alarms, "complete": self.outcome.complete},
            seconds=self.outcome.seconds,
            report=report or {},
        )


def train(recipe: Recipe, report: Callable[[Epoch], None]) -> Trained | ReadFacts:
    """Edit the plug-in as `recipe` says; calls `report` after each epoch. Raises the errors of loading.

    A reader needs no training: what comes back at once is the reader with its facts.
    """
    config = recipe.config
    chosen = EDITORS.get(editor_name(config.editing.editor))
    if recipe.adapter is not None:
        return ReadFacts(recipe.id, config.plugin.model, recipe.edits, recipe.settings, recipe.adapter)
    use_threads(config.plugin.threads)
    start = recipe.base.path if recipe.parent is None else recipe.parent.path
    model = load_model(start, dtype="float32", device=device_for(config.plugin.num_gpus))
    tokenizer = load_tokenizer(start)
    going_on = () if recipe.parent is None else (recipe.known, config.living.rehearsal * max(len(recipe.new), 1))
    editor = chosen(model, tokenizer, recipe.new, recipe.unrelated, config.editing, config.plugin.view, *going_on)
    return Trained(recipe, model, tokenizer, editor.run(report))
