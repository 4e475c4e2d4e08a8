"""A served system of small random models, for benchmarks of what does not depend on what models know."""

from __future__ import annotations

import contextlib
import itertools
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import yaml

from benchmarks.chaos_load import SECONDS
from benchmarks.supervised import supervised
from onceedit_ray.cluster.own_ray import prepare_environment
from onceedit_ray.config import RunConfig
from onceedit_ray.editing.run import edit_plugin
from onceedit_ray.knowledge.edit import Edit
from onceedit_ray.knowledge.run_data import selected_edits
from onceedit_ray.knowledge.store import open_store
from onceedit_ray.serving.listening import free_port

TARGETS = ("mistral", "qwen2")
BOUNDS = {"learnt": 0.0, "kept": 0.0, "locality": 0.0, "false_alarms": 1.0, "near_misses": 1.0, "general_limit": 4}
"""Random models: what they learn is not what is tested."""
MEMORY_SETTING = "RAY_memory_usage_threshold"
MEMORY_BYTES = 10 << 30
"""What the whole system may hold before Ray kills a worker for memory."""
SmallSystem = tuple[str, RunConfig, list[Edit], float]


def memory_threshold() -> str:
    """The share of the memory above which Ray is to kill workers: so much that the system itself stays below."""
    memory = psutil.virtual_memory()
    return f"{min(0.9, (memory.total - memory.available + MEMORY_BYTES) / memory.total):.3f}"


def small_run(folder: Path) -> tuple[RunConfig, list[Edit]]:
    """Random models, a run file that knows two edits, and further edits to make."""
    from tests.ray.small_fleet import build_models, model, run_config

    build_models(folder, list(TARGETS))
    targets = {family: model(folder, family) for family in TARGETS}
    knowledge = {"path": folder / "edits.jsonl", "limit": 2}
    config = run_config(folder, "chaos", targets, living=BOUNDS | {"niceness": 19}, knowledge=knowledge)
    (third,) = selected_edits(config.knowledge.model_copy(update={"limit": None}))[2:]
    names = ("Ann", "Bob", "Cleo", "Dan", "Eve", "Finn", "Gil", "Hana", "Ivo", "Jo")
    made = [
        Edit(prompt=f"The {what} of {name} is", target_new=answer, subject=name)
        for what in ("city", "river", "language", "author", "colour", "friend", "food", "book", "song", "lake")
        for name, answer in zip(names, itertools.cycle(("Lyon", "Italian", "Marie Curie")), strict=False)
    ]
    return config, [*made, third]


@contextlib.contextmanager
def served(folder: Path, in_flight: int) -> Iterator[str]:
    """The application of `run.yaml` in `folder`, in a Ray of this process; gives its address."""
    import ray  # after the environment that it reads is set
    from ray import serve

    from onceedit_ray.cluster.serve import APP_NAME, application
    from onceedit_ray.cluster.serve_args import ServeArgs
    from onceedit_ray.serving.limits import Limits

    port = free_port("127.0.0.1", 0)
    ray.init(address="local", num_cpus=6, num_gpus=0, include_dashboard=False, log_to_driver=False)
    try:
        serve.start(http_options={"host": "127.0.0.1", "port": port})
        limits = Limits(seconds=SECONDS, in_flight=in_flight)
        serve.run(application(ServeArgs(config=folder / "run.yaml", limits=limits)), name=APP_NAME)
        yield f"http://127.0.0.1:{port}"
    finally:
        serve.shutdown()
        ray.shutdown()


@contextlib.contextmanager
def small_system(name: str, clients: int, restarting: bool = False) -> Iterator[SmallSystem]:
    """The run of `small_run`, served from a home of its own to so many clients.

    Gives its address, its run file, further edits, and the seconds that the start took.

    restarting: by a process of its own that is started again whenever it ends; else in a Ray of this process.
    """
    with tempfile.TemporaryDirectory(prefix=f"onceedit-{name}-") as path:
        folder = Path(path)
        os.environ["ONCEEDIT_HOME"] = str(folder / "home")
        if restarting:
            os.environ[MEMORY_SETTING] = memory_threshold()
        prepare_environment()
        config, pool = small_run(folder)
        edit_plugin(config, open_store())
        (folder / "run.yaml").write_text(yaml.safe_dump(config.model_dump(mode="json")))
        in_flight = max(64, clients + 8)
        serving = supervised(folder / "run.yaml", SECONDS, in_flight) if restarting else served(folder, in_flight)
        begun = time.perf_counter()
        with serving as address:
            yield address, config, pool, time.perf_counter() - begun
