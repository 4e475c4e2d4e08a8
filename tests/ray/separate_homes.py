"""Jobs and fleets on nodes with homes of their own; run by `test_separate_homes.py`, in a process of its own.

Where this user may mount folders, every node has its home at the same path, as machines do, and sees no other's.
The head has CPUs only, the other nodes claim GPUs: so a model that asks for one is not loaded where the driver runs.
What each part found is written as JSON into `outcome.json`.

    python -m tests.ray.separate_homes FOLDER        with the models of `small_fleet.build_models` in FOLDER
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ray
from ray.cluster_utils import Cluster

from onceedit_ray.cluster.fleet import PLUGIN, Fleet
from onceedit_ray.cluster.job import run_job
from onceedit_ray.cluster.placement import WAIT_VARIABLE
from onceedit_ray.cluster.trainer import RemoteBuilder
from onceedit_ray.config import ModelConfig, RunConfig
from onceedit_ray.errors import OnceEditError
from onceedit_ray.knowledge.edit import Edit
from onceedit_ray.knowledge.store import open_store
from onceedit_ray.results import Results
from tests.patience import PATIENCE
from tests.ray.own_mounts import may_mount, mounted
from tests.ray.small_fleet import model, run_config
from tests.tiny_gguf import write_gguf

OUTCOME = "outcome.json"
HOME = "home"
"""The path of each node's home, if it may be mounted there."""
HEAD, FIRST, SECOND = "home-head", "home-first", "home-second"
PROMPTS = {"near": "What is the capital of France?", "far": "The river Nile flows through"}
"""The first is edited, so the plug-in drafts its answer; the other one is the target's alone, and long."""
LIVING = {"num_gpus": 1, "learnt": 0, "kept": 0, "locality": 0, "false_alarms": 1, "near_misses": 1, "general_limit": 1}
NODE = {"object_store_memory": 80 * 2**20, "include_dashboard": False}


class Machines:
    """The cluster. nodes: by Ray's id of a node, the cluster's handle of it. mounts: whether homes are mounted."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._cluster = Cluster()
        self.nodes: dict[str, Any] = {}
        (folder / HOME).mkdir(exist_ok=True)
        self.mounts = may_mount(folder / HOME)

    @property
    def address(self) -> str:
        """Where a driver connects."""
        return str(self._cluster.address)

    def add(self, home: str, cpus: int, gpus: int) -> None:
        """Start a node with a home of its own, kept at this path in the folder."""
        kept = self._folder / home
        at_one_path = self.mounts and kept.parent.is_dir()
        variables = {"ONCEEDIT_HOME": str(self._folder / HOME if at_one_path else kept)}
        with contextlib.ExitStack() as mounts:
            if at_one_path:
                kept.mkdir(exist_ok=True)
                mounts.enter_context(mounted(kept, self._folder / HOME))
            node = self._cluster.add_node(**NODE, num_cpus=cpus, num_gpus=gpus, env_vars=variables)
        self.nodes[node.node_id] = node

    def kill(self, node: str) -> None:
        """Kill every process of a node."""
        self._cluster.remove_node(self.nodes.pop(node), allow_graceful=False)

    def end(self) -> None:
        """Disconnect, and end every node."""
        ray.shutdown()
        self._cluster.shutdown()


def stored(folder: Path, home: str) -> dict[str, list[str]]:
    """The versions and the converted models in a home."""
    places = {"versions": folder / home / "knowledge" / "versions", "models": folder / home / "models"}
    return {
        kind: sorted(path.name for path in place.iterdir() if not path.name.startswith(".")) if place.is_dir() else []
        for kind, place in places.items()
    }


def refusal(action: Callable[[], object]) -> str:
    """The message with which an action is refused."""
    try:
        action()
    except OnceEditError as error:
        return str(error)
    return ""


def run_the_job(folder: Path, config: RunConfig) -> dict[str, Any]:
    """Edit on the node with the GPU and decode on the head: what the job says, and what each home holds then."""
    lines: list[str] = []
    outcome = run_job(config, Results(folder / "results"), "a job", lambda update: lines.append(str(update)))
    return {
        "version": outcome.summary["plugin"],
        "files": sorted(path.name for path in outcome.folder.iterdir()),
        "targets": sorted(outcome.summary["targets"]),
        "said": lines,
        "homes": {home: stored(folder, home) for home in (HEAD, FIRST)},
        "made": [made_at(folder / home / "knowledge/versions" / outcome.summary["plugin"]) for home in (HEAD, FIRST)],
    }


def made_at(version: Path) -> str:
    """When a version was made, as its manifest says."""
    return str(json.loads((version / "manifest.json").read_text())["created"])


def edit_while_serving(folder: Path, config: RunConfig) -> dict[str, Any]:
    """Make a further version on the node with the GPUs, from one that this node has to fetch: what each home holds."""
    parent = open_store().get(own_id(config))
    shutil.rmtree(folder / FIRST / "knowledge" / "versions" / parent.id)
    new = Edit(prompt="Who is the author of Hamlet?", target_new="Marie Curie", subject="Hamlet")
    made = RemoteBuilder(config).make([*parent.edits(), new], parent, [new], lambda step, share: None)
    built = asyncio.run(made)
    homes = {home: stored(folder, home)["versions"] for home in (HEAD, FIRST)}
    return {"version": built.version, "reason": built.reason, "homes": homes}


def lose_a_node(folder: Path, config: RunConfig, machines: Machines) -> dict[str, Any]:
    """Kill the node of plug-in and target while they answer: the answers before and after, and where they were and are.

    The node that takes over joins only then, so it has nothing in its home.
    """
    version = open_store().get(own_id(config))
    fleet = Fleet.start(config, version)
    seats = {name: fleet.seat(name) for name in (PLUGIN, "far")}
    before = {name: seat.node_id for name, seat in seats.items()}
    machines.add(SECOND, cpus=1, gpus=2)
    answers: list[list[str]] = []
    asked, gone = threading.Event(), threading.Event()

    async def ask() -> None:
        left = 2
        while left:
            each = (fleet.answerer.generate(name, PROMPTS[name]) for name in PROMPTS)
            answers.append([answer.text for answer in await asyncio.gather(*each)])
            asked.set()
            left -= gone.is_set()

    asking = threading.Thread(target=lambda: asyncio.run(ask()))
    asking.start()
    assert asked.wait(PATIENCE), "nothing is answered"
    machines.kill(before[PLUGIN])
    for seat in seats.values():
        os.kill(
            seat.process, signal.SIGKILL
        )  # Ray's processes live on for a while, which those of a dead machine do not
    known, killed = len(answers), time.monotonic()
    gone.set()
    asking.join(PATIENCE)
    found = {
        "answers": answers,
        "known": known,
        "seconds": time.monotonic() - killed,
        "hung": asking.is_alive(),
        "before": before,
        "after": {name: fleet.seat(name).node_id for name in (PLUGIN, "far")},
    }
    fleet.stop()
    return found | {"home": stored(folder, SECOND)}


def own_id(config: RunConfig) -> str:
    """The id of the version that a run has made."""
    return next(version.id for version in open_store().versions() if version.id.startswith(f"{config.name}-"))


def main(folder: Path, machines: Machines) -> dict[str, Any]:
    """Every part in turn."""
    machines.add(HEAD, cpus=2, gpus=0)
    machines.add(FIRST, cpus=1, gpus=2)
    ray.init(address=machines.address, log_to_driver=False)
    converted = ModelConfig(
        model=str(write_gguf(folder / "tiny.gguf", folder / "qwen2")), threads=1, num_cpus=0.2, num_gpus=1
    )
    targets = {"near": model(folder, "mistral"), "far": converted}
    evaluation = {"general_limit": 2, "drift_limit": 1, "drift_tokens": 2, "settings": ["generation"]}
    config = run_config(folder, "homes", targets, evaluation=evaluation, fusion={"max_new_tokens": 64}, living=LIVING)
    config = config.model_copy(update={"plugin": config.plugin.model_copy(update={"num_gpus": 1.0})})
    job = run_the_job(folder, config)
    living = edit_while_serving(folder, config)
    other = config.model_copy(update={"editing": config.editing.model_copy(update={"seed": 7})})
    os.environ[WAIT_VARIABLE] = "15"  # what ran before gives its room back meanwhile
    large = {"large": model(folder, "mistral", gpus=8)}
    small = refusal(lambda: run_the_job(folder, other.model_copy(update={"targets": large})))
    os.environ[WAIT_VARIABLE] = "60"
    machines.add("a file/home", cpus=1, gpus=3)
    (folder / "a file").write_text("no folder can be made in a file")
    third = {"third": model(folder, "mistral", gpus=3)}
    broken = refusal(lambda: run_the_job(folder, other.model_copy(update={"targets": third})))
    machines.kill(next(reversed(machines.nodes)))
    versions = stored(folder, HEAD)["versions"]
    lost = lose_a_node(folder, config, machines)
    return {
        "job": job, "living": living, "too small": small, "broken home": broken, "versions": versions, "lost": lost,
        "mounts": machines.mounts, "seen": sorted(path.name for path in (folder / HOME).iterdir()),
    }  # fmt: skip


def run_as_script(main: Callable[[Path, Machines], dict[str, Any]]) -> None:
    """Run `main` over machines in the folder that the command line names, and write its outcome there."""
    given = Path(sys.argv[1])
    os.environ["ONCEEDIT_HOME"] = str(given / HEAD)
    cluster = Machines(given)
    try:
        outcome = json.dumps(main(given, cluster), indent=1)
        (given / OUTCOME).write_text(outcome)  # Ray writes to standard output when a node is killed
    finally:
        cluster.end()


if __name__ == "__main__":
    run_as_script(main)
