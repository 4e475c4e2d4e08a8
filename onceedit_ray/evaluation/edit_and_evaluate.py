"""A complete run: edit once, evaluate every target, write the results. It is the same in one process and on Ray."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager

from onceedit_ray.config import RunConfig
from onceedit_ray.evaluation.evaluate import Answerer
from onceedit_ray.evaluation.evaluate_targets import EvaluationResults, evaluate_targets, write_results
from onceedit_ray.fusion.system import check_run
from onceedit_ray.knowledge.edit import Edit
from onceedit_ray.knowledge.run_data import general_prompts, selected_edits
from onceedit_ray.knowledge.version import Version
from onceedit_ray.progress import Progress
from onceedit_ray.results import Results


def edit_and_evaluate(
    config: RunConfig,
    results: Results,
    command: str,
    edit: Callable[[], Version],
    answering: Callable[[Version], AbstractContextManager[Answerer]],
    progress: Progress,
    edits: Sequence[Edit] | None = None,
) -> EvaluationResults:
    """Run everything that `config` asks for and write the folder `config.name` of `results`.

    Args:
        command: the command line, for the report. edit: makes the version, or finds the one that was made before.
        answering: a context manager that loads the models and gives an answerer with that version.
        edits: what is scored; None takes the edits that `config` names.

    Raises the errors of each step; no later step begins after an error.
    """
    started = time.monotonic()
    edits = selected_edits(config.knowledge) if edits is None else list(edits)
    general = general_prompts(config.evaluation.general, config.evaluation.general_limit)
    check_run(config, progress)
    version = edit()
    progress(f"version {version.id} answers")
    with answering(version) as answerer:
        records, gate = asyncio.run(evaluate_targets(answerer, config, edits, general, progress))
    seconds = time.monotonic() - started
    folder = results.folder / config.name
    written = write_results(folder, config, version, edits, records, gate, seconds, command)
    results.publish([f"{config.name}/*"])
    return written
