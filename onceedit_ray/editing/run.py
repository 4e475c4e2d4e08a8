"""Edits the plug-in as a run file says, and commits an immutable version to the knowledge store.

A version's id is a hash of all its inputs, so the same run file finds the version that it made before.
"""

from __future__ import annotations

from collections.abc import Sequence

from onceedit_ray.config import RunConfig
from onceedit_ray.editing.editors import Epoch
from onceedit_ray.editing.training import Recipe, train
from onceedit_ray.errors import ConfigError, StoreError
from onceedit_ray.knowledge.edit import Edit
from onceedit_ray.knowledge.run_data import selected_edits, unrelated_prompts
from onceedit_ray.knowledge.store import KnowledgeStore, open_store
from onceedit_ray.knowledge.version import Version
from onceedit_ray.models.sources import resolve
from onceedit_ray.progress import Count, Progress, silent


def version_for(config: RunConfig, version_id: str | None = None, progress: Progress = print) -> Version:
    """The committed version with which `config`'s plug-in answers: the one named, or the run file's own.

    The run file's own version is the one made from its edits and settings, or the one to which a server that began with
    it has edited it since. Other run files do not change it. A reader's version is made here if need be, since
    nothing is trained.

    Raises `StoreError` if there is none, `ConfigError` if it was made from another plug-in than `config` names.
    """
    return answering_version(config, version_id, version_id or own_version(config, open_store(), progress).id, progress)


def answering_version(config: RunConfig, version_id: str | None, own: str, progress: Progress = silent) -> Version:
    """As `version_for`, where the id of the run file's own version is known: `own`."""
    store = open_store()
    found = store.get(version_id) if version_id else store.latest(store.get(own))
    if found.manifest.base_digest != resolve(config.plugin.model, progress).digest:
        raise ConfigError(
            f"version {found.id} was made from another plug-in ({found.manifest.base_model}) than the run file names "
            f"({config.plugin.model}); run `onceedit edit` with that run file"
        )
    return found


def own_version(config: RunConfig, store: KnowledgeStore, progress: Progress = print) -> Version:
    """The version that `config` makes by itself, without what a server has edited since.

    Raises `StoreError` if it has not been made yet and must be trained.
    """
    recipe = recipe_of(config, selected_edits(config.knowledge), progress=progress)
    made = recipe.made_before(store.versions(revisions=0))
    if made is not None:
        return made
    if recipe.adapter is None:
        raise StoreError(
            f"nothing has been edited yet with the edits and settings of run '{config.name}'; run `onceedit edit` with "
            "its run file first, or name a version with --version"
        )
    return edit_plugin(config, store, progress, recipe.edits, activate=False)


def recipe_of(
    config: RunConfig, edits: Sequence[Edit], parent: Version | None = None, progress: Progress = silent
) -> Recipe:
    """The recipe of a version with `edits`, which starts from the base plug-in or continues from `parent`.

    Raises `ModelError` if the plug-in is not available, `DataError` for a file of unrelated prompts.
    """
    unrelated = unrelated_prompts(config.editing.unrelated)
    return Recipe(config, resolve(config.plugin.model, progress), tuple(edits), unrelated, parent)


def edit_plugin(
    config: RunConfig,
    store: KnowledgeStore,
    progress: Progress = print,
    edits: Sequence[Edit] | None = None,
    activate: bool = True,
) -> Version:
    """Edit the plug-in as `config` says and commit the version, or find the version that was made in the same way.

    Args:
        edits: the edits to make; None takes those that `config` names.
        activate: whether it becomes the active version of its line, with which servers begin.

    Raises the errors of reading, resolving and committing; neither an error nor Ctrl-C leaves files behind.
    """
    edits = selected_edits(config.knowledge) if edits is None else edits
    recipe = recipe_of(config, edits, progress=progress)
    made = recipe.made_before(store.versions(revisions=0))
    if made is not None:
        progress(f"version {made.id} was made before from the same edits and settings; using it")
        return store.activate(made.id) if activate else made
    if recipe.adapter is None:
        drawn = sum(map(len, recipe.unrelated))
        progress(f"editing {recipe.base.name}: {len(edits)} edits, {drawn} unrelated prompts to draw from")
    trained = train(recipe, lambda epoch: progress(_count(epoch, config.editing.max_epochs, recipe.base.name)))
    for last in trained.outcome.epochs[-1:]:
        if last.number < config.editing.max_epochs:  # training ended early: complete the count
            progress(_count(last, last.number, recipe.base.name))
    version = store.commit(trained.manifest(), edits, trained.write)
    outcome = trained.outcome
    done = (
        ("every edit learnt" if outcome.epochs else f"{len(edits)} edits to be read, nothing to be trained")
        if outcome.complete
        else f"{outcome.epochs[-1].learnt:.0%} of the edits learnt after the last epoch"
    )
    progress(f"version {version.id}: {done}, {outcome.seconds:.0f} s")
    return store.activate(version.id) if activate else version


def _count(epoch: Epoch, total: int, name: str) -> Count:
    note = (
        f"edit loss {epoch.edit_loss:.3f}, gate loss {epoch.weight_loss:.3f}, learnt {epoch.learnt:.0%}, "
        f"gate open for {epoch.recall:.0%} of edits and {epoch.false_alarms:.0%} of unrelated prompts"
    )
    return Count(f"epochs of {name}", epoch.number, total, note)
