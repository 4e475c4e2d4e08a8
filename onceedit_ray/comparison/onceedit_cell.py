"""A cell of OnceEdit: one target, fused with a plug-in version that was edited once for all targets."""

from __future__ import annotations

from pathlib import Path

from onceedit_ray.comparison.cells import Plan
from onceedit_ray.comparison.scoring import KeptRecords, Scoring, units_left
from onceedit_ray.comparison.stopwatch import Stopwatch
from onceedit_ray.config import RunConfig
from onceedit_ray.editing.editors import EDITORS
from onceedit_ray.fusion.system import open_decoder
from onceedit_ray.knowledge.run_data import general_prompts, selected_edits, unrelated_prompts
from onceedit_ray.knowledge.version import Version
from onceedit_ray.models.assembly import use_threads
from onceedit_ray.models.loading import device_for, load_model, load_tokenizer
from onceedit_ray.models.sources import resolve
from onceedit_ray.progress import Count, Progress


async def score_version(
    plan: Plan, run: RunConfig, version: Version, folder: Path, watch: Stopwatch, progress: Progress
) -> KeptRecords:
    """Score `version` on the plan's target; the records of an earlier, interrupted run are reused."""
    edits = selected_edits(run.knowledge)
    evaluation = plan.evaluation
    general = general_prompts(evaluation.general, evaluation.general_limit)[: evaluation.drift_limit]
    kept = KeptRecords(folder / "records.jsonl")
    left = units_left(kept, edits, general)
    if not left:
        return kept
    decoder = open_decoder(run, version.path, progress)
    with watch.of("prepare"):
        progress("aligning the plug-in with the target")
        await decoder.restriction(plan.target_name, evaluation.strategies[0])
    total = len(kept) + len(left)
    scoring = Scoring(decoder, plan.target_name, folder.name, evaluation, edits, general, kept)
    with watch.of("score"):
        await scoring.score(left, lambda: progress(Count("scoring", len(kept), total)))
    return kept


def time_edit(run: RunConfig, watch: Stopwatch, progress: Progress) -> None:
    """Edit the plug-in only to measure the time; the result is not kept."""
    edits, unrelated = selected_edits(run.knowledge), unrelated_prompts(run.editing.unrelated)
    base = resolve(run.plugin.model, progress)
    use_threads(run.plugin.threads)
    model = load_model(base.path, "float32", device_for(run.plugin.num_gpus))
    tokenizer = load_tokenizer(base.path)
    editor = EDITORS.get(run.editing.editor)(model, tokenizer, edits, unrelated, run.editing, run.plugin.view)
    with watch.of("edit"):
        editor.run(lambda epoch: progress(Count("epochs", epoch.number, run.editing.max_epochs)))
