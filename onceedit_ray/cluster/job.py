"""The job: edit once, start the fleet, evaluate every target in parallel, write the results."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path

import ray

from onceedit_ray.cluster.calls import fetch
from onceedit_ray.cluster.fleet import Fleet
from onceedit_ray.config import RunConfig
from onceedit_ray.editing.run import edit_plugin
from onceedit_ray.evaluation.evaluate_targets import EvaluationResults, evaluate_targets, write_results
from onceedit_ray.fusion.system import check_run
from onceedit_ray.knowledge.run_data import general_prompts, selected_edits
from onceedit_ray.knowledge.store import open_store
from onceedit_ray.threads import SLEEPING

Progress = Callable[[str], None]


# The worker ends with the task: its optimizer states go with it.
@ray.remote(max_retries=0, max_calls=1, runtime_env={"env_vars": SLEEPING})
def edit_task(config: RunConfig) -> str:
    """Edit the plug-in on a node with the resources it asks for; the id of the version made, or made before."""
    return edit_plugin(config, open_store()).id


def edit_and_evaluate(config: RunConfig, results: Path, command: str, progress: Progress = print) -> EvaluationResults:
    """Run everything `config` asks for and write `results/<name>/`.

    Raises the errors of its parts, each before the work that would follow it.
    """
    started = time.monotonic()
    edits = selected_edits(config.knowledge)
    general = general_prompts(config.evaluation.general, config.evaluation.general_limit)
    check_run(config, progress)
    resources = {"num_cpus": config.plugin.num_cpus, "num_gpus": config.plugin.num_gpus}
    version = open_store().get(fetch(edit_task.options(**resources).remote(config)))
    fleet = Fleet.start(config, version.path, progress)
    try:
        fleet.prepare(config.evaluation.strategies, progress)
        records, gate = asyncio.run(evaluate_targets(fleet.answerer, config, edits, general, progress))
    finally:
        fleet.stop()
    return write_results(
        results / config.name, config, version, edits, records, gate, time.monotonic() - started, command
    )
