"""The cost of one more LLM, and the memory of each actor: `python -m benchmarks.onboarding [--quick]`.

The run file's first target is added to a fleet without it: its actor starts, and its alignment is built without a
cache. For comparison, that target is fine-tuned on the edits (FT-L) on the same machine, which is the alternative
without a plug-in. Then the memory of every actor is measured after questions about edits. Writes `onboarding.parquet`
and `onboarding.md`.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.options import parse, parser_for
from benchmarks.ratios import Ratios
from onceedit_ray.baselines import BASELINES, preset
from onceedit_ray.cluster.own_ray import prepare_environment
from onceedit_ray.config import ModelConfig, RunConfig, load_config
from onceedit_ray.editing.run import edit_plugin
from onceedit_ray.home import onceedit_home
from onceedit_ray.knowledge.edit import Edit
from onceedit_ray.knowledge.run_data import selected_edits
from onceedit_ray.knowledge.store import open_store
from onceedit_ray.models.assembly import use_threads
from onceedit_ray.models.loading import load_model, load_tokenizer
from onceedit_ray.models.sources import resolve

FINE_TUNED = 16
"""Maximum number of edits for fine-tuning; one batch of FT-L."""


def without_alignments(home: Path, folder: Path) -> Path:
    """A home in `folder` with everything of `home` except its alignments."""
    for entry in home.iterdir():
        if entry.name != "alignments":
            (folder / entry.name).symlink_to(entry)
    return folder


def fine_tuning_seconds(target: ModelConfig, edits: Sequence[Edit]) -> float:
    """Seconds that FT-L needs per edit on the target, with `edits` learnt together."""
    use_threads(target.threads)
    folder = resolve(target.model).path
    model = load_model(folder, dtype="float32")
    tokenizer = load_tokenizer(folder)
    method: Any = BASELINES.get("ft-l")(preset("ft-l", model))
    started = time.perf_counter()
    method.edit(model, tokenizer, edits, lambda line: None)
    return (time.perf_counter() - started) / len(edits)


def onboard(config: RunConfig, edited: Path, newcomer: str, edits: Sequence[Edit], ratios: Ratios, each: float) -> None:
    """Start the fleet without `newcomer`, add it, ask it, record the times; `each`: seconds to fine-tune one edit."""
    from onceedit_ray.cluster.calls import fetch
    from onceedit_ray.cluster.fleet import Fleet

    present = {name: target for name, target in config.targets.items() if name != newcomer}
    fleet = Fleet.start(config.model_copy(update={"targets": present}), edited)
    try:
        started = time.perf_counter()
        fleet.add_target(newcomer, config.targets[newcomer])
        joined = time.perf_counter() - started
        fetch(fleet.coordinator.restriction.remote(newcomer, config.fusion.strategy))
        whole = time.perf_counter() - started
        ratios.record(f"actor start of {newcomer}, in edits made on it by fine-tuning", "reported", [joined / each])
        ratios.record("the same, its alignment built from nothing as well", "reported", [whole / each])
        ratios.record(f"the same, over fine-tuning it on {len(edits)} edits", "reported", [whole / (each * len(edits))])

        async def ask() -> None:
            for edit in edits[:8]:
                await fleet.answerer.generate_all(dict.fromkeys(config.targets, edit.prompt))

        asyncio.run(ask())
        for name, actor in fleet.actors.items():
            load = fetch(actor.load.remote())
            about = f"memory of the actor '{name}', GiB (keys and values: {load.cache_bytes >> 20} MiB)"
            ratios.record(about, "reported", [load.resident_bytes / 2**30])
        held = fetch(fleet.coordinator.resident_bytes.remote())
        ratios.record("memory of the coordinator, GiB", "reported", [held / 2**30])
    finally:
        fleet.stop()


def main(arguments: Sequence[str] | None = None) -> None:
    """Start a Ray of its own, measure, write the table."""
    parser = parser_for("onboarding", __doc__, "take in the run file's last target, fine-tune 4 edits")
    options = parse(parser, arguments)
    prepare_environment()
    config = load_config(options.config)
    edits = selected_edits(config.knowledge)
    newcomer = list(config.targets)[-1 if options.quick else 0]
    version = edit_plugin(config, open_store())
    ratios = Ratios()
    each = fine_tuning_seconds(config.targets[newcomer], edits[: 4 if options.quick else FINE_TUNED])
    import ray  # after its environment variables are set

    with tempfile.TemporaryDirectory(prefix="onceedit-") as folder:
        home = without_alignments(onceedit_home(), Path(folder))
        ray.init(
            address="local",
            num_cpus=8,
            include_dashboard=False,
            log_to_driver=False,
            runtime_env={"env_vars": {"ONCEEDIT_HOME": str(home)}},
        )
        try:
            onboard(config, version.path, newcomer, edits, ratios, each)
        finally:
            ray.shutdown()
    ratios.write(options.results, "onboarding", f"python -m benchmarks.onboarding --config {options.config}")


if __name__ == "__main__":
    main()
