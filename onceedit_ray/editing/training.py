"""Trains the plug-in: from a recipe to weights and the manifest of the new version.

A version's id is a hash of all its inputs, so a recipe finds the version that it made before. This module does not know
the checks that a version must pass before it is used.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers import PreTrainedTokenizerBase

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

if TYPE_CHECKING:  # only for types: the import takes two seconds, and not every process loads a model
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class Recipe:
    """The inputs of a version.

    config: plug-in, editor and settings. base: the plug-in before any edit. edits: all edits of the version, in order.
        unrelated: prompts for which the gate stays closed, by origin. parent: the version to continue from; None starts
        from `base`.
    """

    config: RunConfig
    base: ModelFolder
    edits: tuple[Edit, ...]
    unrelated: Sequence[Sequence[str]]
    parent: Version | None = None

    @cached_property
    def adapter(self) -> Adapter | None:
        """The reader of the version; None if the plug-in is trained on its edits."""
        editor = self.config.editing.editor
        return adapter_for(self.base, editor) if editor_name(editor) == READER else None

    @cached_property
    def settings(self) -> dict[str, Any]:
        """How the version is made, as stated in its manifest."""
        if self.adapter is not None:
            return {"editor": READER, "reader": self.adapter.digest}
        own = {**self.config.editing.model_dump(mode="json"), "view": self.config.plugin.view}
        if self.config.plugin.context is not None:
            own["context"] = self.config.plugin.context
        return own if self.parent is None else {**own, "rehearsal": self.config.living.rehearsal}

    @cached_property
    def id(self) -> str:
        """The id of the version."""
        return self._id(self.settings)

    def made_before(self, versions: Iterable[Version]) -> Version | None:
        """The version among `versions` that was made from the same inputs, or None.

        The id depends on the content of the files of unrelated prompts and on their paths. A version that was made when
        the files had other paths is recognised by the paths in its manifest.
        """
        for version in versions:
            settings = version.manifest.settings
            moved = {**settings, "unrelated": self.settings["unrelated"]} if "unrelated" in self.settings else settings
            if moved == self.settings and version.id == self._id(settings):
                return version
        return None

    def _id(self, settings: Mapping[str, Any]) -> str:
        made_of: list[object] = [self.base.digest, data_hash(self.edits), settings]
        if self.adapter is None:  # a reader uses no unrelated prompts, and does not depend on earlier edits
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
        """The edits that the parent has not learnt."""
        known = set(self.known)
        return tuple(edit for edit in self.edits if edit not in known)


@dataclass(frozen=True)
class Trained:
    """A plug-in that was trained by a recipe, not yet committed as a version."""

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
        """The manifest of the version; `report`: the figures for which it was accepted."""
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

    A reader needs no training: the reader with its facts is returned at once.
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
    editor = chosen(
        model, tokenizer, recipe.new, recipe.unrelated, config.editing, config.plugin.view, *going_on,
        context=config.plugin.context,
    )  # fmt: skip
    return Trained(recipe, model, tokenizer, editor.run(report))
