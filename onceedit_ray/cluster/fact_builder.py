"""Versions of a plug-in that reads facts: judged by the plug-in that answers, committed, and live within a second.

No process is started and no weights are loaded: the plug-in's actor serves the judging beside the requests.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from onceedit_ray.cluster.fleet import Fleet
from onceedit_ray.config import RunConfig
from onceedit_ray.editing.run import recipe_of
from onceedit_ray.editing.training import Recipe, train
from onceedit_ray.evaluation.acceptance import Judgement
from onceedit_ray.knowledge.edit import Edit
from onceedit_ray.knowledge.store import KnowledgeStore
from onceedit_ray.knowledge.version import Version
from onceedit_ray.living.build_version import BuiltVersion, Report


class FactBuilder:
    """`edit_queue.VersionBuilder` for a fleet whose plug-in reads facts."""

    def __init__(self, config: RunConfig, fleet: Fleet, store: KnowledgeStore) -> None:
        self._config = config
        self._fleet = fleet
        self._store = store

    async def make(
        self, edits: Sequence[Edit], parent: Version | None, new: Sequence[Edit], report: Report
    ) -> BuiltVersion:
        """As `build_version.build_version`; `parent` plays no part, since nothing is gone on with.

        Raises `ProcessLostError` if the coordinator dies meanwhile.
        """
        recipe = await asyncio.to_thread(recipe_of, self._config, edits)
        report("evaluating", 0.0)
        judged: Judgement = await self._fleet.ask("judge", list(edits), list(new), self._config.living)
        if judged.reason is None:
            await asyncio.to_thread(self._commit, recipe, judged)
        return BuiltVersion(recipe.id, judged.figures, judged.reason)

    def _commit(self, recipe: Recipe, judged: Judgement) -> None:
        if recipe.made_before(self._store.versions()) is None:
            made = train(recipe, lambda epoch: None)
            self._store.commit(made.manifest(judged.figures), recipe.edits, made.write)
