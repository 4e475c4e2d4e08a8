"""A fleet on three nodes, of which one is killed in mid-answer; run by `test_three_nodes.py`, in a process of its own.

The head has the coordinators and the plug-in, each of the other two nodes a target, since they alone claim a GPU. One
more node, with nothing in its home, joins in place of the one that is killed.

    python -m tests.ray.three_nodes FOLDER        with the models of `small_fleet.build_models` in FOLDER
"""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import ray

from onceedit_ray.cluster.fleet import Fleet
from onceedit_ray.editing.run import edit_plugin
from onceedit_ray.errors import OnceEditError
from onceedit_ray.knowledge.store import open_store
from tests.patience import PATIENCE
from tests.ray.separate_homes import FIRST, HEAD, SECOND, Machines, run_as_script
from tests.ray.small_fleet import model, run_config

THIRD = "home-third"
PROMPTS = ("What is the capital of France?", "The river Nile flows through")
TARGETS = ("mistral", "qwen2")


async def answered(fleet: Fleet, target: str, prompt: str) -> str:
    """The text, or the error with "error: " before it; "hung" if there is neither in time."""
    try:
        async with asyncio.timeout(PATIENCE):
            return (await fleet.answerer.generate(target, prompt)).text
    except TimeoutError:
        return "hung"
    except OnceEditError as error:
        return f"error: {error}"


async def every_answer(fleet: Fleet) -> dict[str, str]:
    """Of each target to each prompt, asked at once."""
    asked = [(target, prompt) for target in TARGETS for prompt in PROMPTS]
    texts = await asyncio.gather(*(answered(fleet, *each) for each in asked))
    return {f"{target}: {prompt}": text for (target, prompt), text in zip(asked, texts, strict=True)}


def lose_one(fleet: Fleet, machines: Machines, node: str, process: int) -> list[dict[str, str]]:
    """The answers of request upon request, the last of them asked after the node died; another node joins.

    They are asked in another thread: Ray starts a node in the main thread only.
    """
    rounds: list[dict[str, str]] = []
    gone = threading.Event()

    async def ask() -> None:
        last = False
        while not last:
            last = gone.is_set()
            rounds.append(await every_answer(fleet))

    asking = threading.Thread(target=lambda: asyncio.run(ask()))
    asking.start()
    try:
        while not rounds or not ray.get(fleet.actors[TARGETS[0]].load.remote()).sessions:
            time.sleep(0.01)
        os.kill(process, signal.SIGKILL)  # Ray's processes live on for a while, which those of a dead machine do not
        machines.kill(node)
        machines.add(THIRD, 1, 1)
    finally:
        gone.set()
        asking.join()
    return rounds


def main(folder: Path, machines: Machines) -> dict[str, Any]:
    """The answers before, meanwhile and afterwards, and the nodes of the targets before and afterwards."""
    machines.add(HEAD, cpus=2, gpus=0)
    machines.add(FIRST, cpus=1, gpus=1)
    machines.add(SECOND, cpus=1, gpus=1)
    ray.init(address=machines.address, log_to_driver=False)
    targets = {name: model(folder, name, gpus=1) for name in TARGETS}
    config = run_config(folder, "three", targets, fusion={"max_new_tokens": 96})
    fleet = Fleet.start(config, edit_plugin(config, open_store()), coordinators=2)
    seats = {name: fleet.seat(name) for name in TARGETS}
    before = asyncio.run(every_answer(fleet))
    lost = seats[TARGETS[0]]
    began = time.monotonic()
    rounds = lose_one(fleet, machines, lost.node_id, lost.process)
    seconds = time.monotonic() - began
    found = {
        "nodes": [seats[name].node_id for name in TARGETS],
        "lost": lost.node_id,
        "now": {name: fleet.seat(name).node_id for name in TARGETS},
        "before": before,
        "rounds": rounds,
        "after": asyncio.run(every_answer(fleet)),
        "seconds": seconds,
    }
    fleet.stop()
    return found


if __name__ == "__main__":
    run_as_script(main)
