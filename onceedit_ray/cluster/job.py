"""The job: `evaluation.edit_and_evaluate` with the edit as a task and the models as a fleet of actors."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import ray

from onceedit_ray.cluster.calls import fetch
from onceedit_ray.cluster.fleet import Fleet
from onceedit_ray.config import RunConfig
from onceedit_ray.editing.run import edit_plugin
from onceedit_ray.evaluation.edit_and_evaluate import edit_and_evaluate
from onceedit_ray.evaluation.evaluate import Answerer
from onceedit_ray.evaluation.evaluate_targets import EvaluationResults
from onceedit_ray.knowledge.store import open_store
from onceedit_ray.knowledge.version import Version
from onceedit_ray.progress import Progress
from onceedit_ray.results import Results
from onceedit_ray.threads import SLEEPING


# The worker process ends with the task, which frees the memory of the optimizer.
@ray.remote(max_retries=0, max_calls=1, runtime_env={"env_vars": SLEEPING})
def edit_task(config: RunConfig) -> str:
    """Edit the plug-in on a node with the resources that it needs; returns the id of the new or existing version."""
    return edit_plugin(config, open_store(), activate=False).id


def run_job(config: RunConfig, results: Results, command: str, progress: Progress) -> EvaluationResults:
    """Run all that `config` asks for on this cluster and write `results`; raises as `edit_and_evaluate`."""

    def edit() -> Version:
        resources = {"num_cpus": config.plugin.num_cpus, "num_gpus": config.plugin.num_gpus}
        return open_store().get(fetch(edit_task.options(**resources).remote(config)))

    @contextmanager
    def fleet(version: Version) -> Iterator[Answerer]:
        started = Fleet.start(config, version, progress)
        try:
            started.prepare(config.evaluation.strategies, progress)
            yield started.answerer
        finally:
            started.stop()

    return edit_and_evaluate(config, results, command, edit, fleet, progress)
