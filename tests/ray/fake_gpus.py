"""A fleet on a cluster of its own whose nodes claim to have GPUs; run by `test_placement.py`, in a process of its own.

Ray believes `num_gpus`, sets CUDA_VISIBLE_DEVICES and places accordingly; the models load on the CPU. There are as many
GPUs as the models need and no more, three nodes with one and one with two, so that a model on the wrong node leaves no
room for another. Prints one JSON object: the node of each model, and the answers.

    python -m tests.ray.fake_gpus FOLDER        with the models of `small_fleet.build_models` in FOLDER
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import ray
from ray.cluster_utils import Cluster

from onceedit_ray.cluster.fleet import PLUGIN, Fleet
from onceedit_ray.cluster.placement import WAIT_VARIABLE
from onceedit_ray.editing.run import edit_plugin
from onceedit_ray.errors import ConfigError
from onceedit_ray.knowledge.store import open_store
from tests.ray.small_fleet import model, run_config

GPUS_OF_NODES = (1, 2, 1, 1)
"""Of the head first."""
TARGETS = {"one": ("mistral", 1.0), "two": ("gpt2", 2.0)}
LATE = "qwen2"
PROMPT = "What is the capital of France?"


def main(folder: Path) -> dict[str, Any]:
    """Start the cluster and the fleet, add a target, ask everyone."""
    targets = {name: model(folder, family, gpus) for name, (family, gpus) in TARGETS.items()}
    config = run_config(folder, "placement", targets)
    config = config.model_copy(update={"plugin": config.plugin.model_copy(update={"num_gpus": 1.0})})
    version = edit_plugin(config, open_store(), lambda line: None)
    os.environ[WAIT_VARIABLE] = "15"
    fleet = Fleet.start(config, version.path)
    seats = {name: fleet.seat(name) for name in (PLUGIN, *TARGETS)}
    fleet.add_target("late", model(folder, LATE, 1.0))
    seats["late"] = fleet.seat("late")
    try:
        fleet.add_target("too late", model(folder, LATE, 1.0))
        refusal = ""
    except ConfigError as error:
        refusal = str(error)
    answers = {name: asyncio.run(fleet.answerer.generate(name, PROMPT)).text.strip() for name in (*TARGETS, "late")}
    fleet.stop()
    versions = len([found for found in open_store().versions() if found.id.startswith("placement-")])
    seated = {name: asdict(seat) for name, seat in seats.items()}
    return {"seats": seated, "answers": answers, "refusal": refusal, "versions": versions}


if __name__ == "__main__":
    small = {"num_cpus": 1, "object_store_memory": 80 * 2**20, "include_dashboard": False}
    cluster = Cluster()
    try:
        for gpus in GPUS_OF_NODES:
            cluster.add_node(**small, num_gpus=gpus)
        cluster.wait_for_nodes()
        ray.init(address=cluster.address, log_to_driver=False)
        print(json.dumps(main(Path(sys.argv[1]))))
    finally:
        ray.shutdown()
        cluster.shutdown()
