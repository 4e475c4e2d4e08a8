"""The job: `evaluation.edit_and_evaluate` with the edit as a task and the models as a fleet of actors."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import ray

from onceedit_ray.cluster.calls import fetch
from onceedit_ray.cluster.fleet import PLUGIN, Fleet
from onceedit_ray.cluster.on_this_node import have_version, names_the_node, node_id
from onceedit_ray.cluster.placement import on_group
from onceedit_ray.config import RunConfig
from onceedit_ray.editing.run import edit_plugin, recipe_of
from onceedit_ray.evaluation.edit_and_evaluate import edit_and_evaluate
from onceedit_ray.evaluation.evaluate import Answerer
from onceedit_ray.evaluation.evaluate_targets import EvaluationResults
from onceedit_ray.knowledge.edit import Edit
from onceedit_ray.knowledge.run_data import selected_edits
from onceedit_ray.knowledge.store import open_store
from onceedit_ray.knowledge.version import Version
from onceedit_ray.progress import Progress
from onceedit_ray.results import Results
from onceedit_ray.threads import SLEEPING


# The worker process ends with the task, which frees the memory of the optimizer.
@ray.remote(max_retries=0, max_calls=1, runtime_env={"env_vars": SLEEPING})
def edit_task(config: RunConfig, edits: Sequence[Edit]) -> tuple[str, str]:
    """Edit the plug-in in this node's store; returns the version's id and the node's."""
    with names_the_node():
        return edit_plugin(config, open_store(), edits=edits, activate=False).id, node_id()


def run_job(config: RunConfig, results: Results, command: str, progress: Progress) -> EvaluationResults:
    """Run all that `config` asks for on this cluster and write `results`; raises as `edit_and_evaluate`.

    Room for every actor is reserved, and their nodes are checked, before the plug-in is edited. It is edited in the
    room that is reserved for it.
    """
    fleet = Fleet(config)

    def edit() -> Version:
        fleet.reserve(progress)
        edits = selected_edits(config.knowledge)
        recipe = recipe_of(config, edits, progress=progress)
        if (made := recipe.made_before(open_store().versions(revisions=0))) is not None:
            return made
        if recipe.adapter is not None:  # nothing is trained
            return edit_plugin(config, open_store(), progress, edits, activate=False)
        options = on_group(fleet.groups[PLUGIN], config.plugin)
        return have_version(*fetch(edit_task.options(**options).remote(config, edits)))

    @contextmanager
    def answering(version: Version) -> Iterator[Answerer]:
        fleet.open(version, progress)
        fleet.prepare(config.evaluation.strategies, progress)
        yield fleet.answerer
        fleet.stop()

    try:
        return edit_and_evaluate(config, results, command, edit, answering, progress)
    finally:
        fleet.stop()
