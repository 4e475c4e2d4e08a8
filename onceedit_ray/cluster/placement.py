"""Reserves resources: one placement group for each model, so that each model has GPUs of its own.

All groups of a system are asked for at once, so that an autoscaler starts all nodes at once, and nothing is trained or
loaded before there is room for everything.
"""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Mapping
from typing import Any

import ray
from ray.util.placement_group import PlacementGroup, placement_group, placement_group_table, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from onceedit_ray.config import ModelConfig
from onceedit_ray.errors import ConfigError
from onceedit_ray.progress import Progress, silent

WAIT_VARIABLE = "ONCEEDIT_WAIT_SECONDS"
WAIT_SECONDS = 120.0
"""How long a reservation waits where the variable does not say it; an autoscaler that starts GPU nodes takes longer."""
TELL_SECONDS = 15.0


def reserve(name: str, config: ModelConfig, wait: float | None = None) -> PlacementGroup:
    """As `reserve_all`, for one model."""
    return reserve_all({name: config}, wait)[name]


def reserve_all(
    models: Mapping[str, ModelConfig], wait: float | None = None, progress: Progress = silent
) -> dict[str, PlacementGroup]:
    """Reserve each model's CPUs and GPUs on one node, for all models or for none.

    A model that needs several GPUs gets them on one node, since its layers are spread over them. The largest models are
    asked for first: a small one could take a GPU of the only node that fits a large one.

    Args:
        wait: seconds; None takes `WAIT_VARIABLE` or `WAIT_SECONDS`.

    Raises:
        ConfigError: the cluster has no room for all of them within that time; what each node has stands in the message.
    """
    wait = _wait() if wait is None else wait
    order = sorted(models, key=lambda name: (-models[name].num_gpus, -models[name].num_cpus))
    groups = {name: _asked(name, _bundle(models[name])) for name in order}
    try:
        begun = told = time.monotonic()
        while waiting := {name for name in order if not groups[name].wait(0)}:
            now = time.monotonic()
            if now - begun >= wait:
                raise ConfigError(_no_room(models, waiting, wait))
            if now - told >= TELL_SECONDS:
                told = now
                progress(f"waiting for room for {_named(models, waiting)} ({now - begun:.0f} of {wait:.0f} s)")
            groups[min(waiting)].wait(min(1.0, max(wait - (now - begun), 0.1)))
    except BaseException:
        for group in groups.values():
            remove_placement_group(group)
        raise
    return groups


def fits_a_node(config: ModelConfig) -> bool:
    """Whether a node would have room for a model if nothing else ran there."""
    needs = _bundle(config)
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    return any(all(node.get(name, 0.0) >= amount for name, amount in needs.items()) for node in nodes)


def node_of(group: PlacementGroup) -> str:
    """Ray's id of the node on which a group has its reservation."""
    return str(placement_group_table(group)["bundles_to_node_id"][0])


def on_group(group: PlacementGroup, config: ModelConfig) -> dict[str, Any]:
    """Options that put a task or an actor on a reservation, with all that it has."""
    return {
        "num_cpus": config.num_cpus,
        "num_gpus": config.num_gpus,
        "scheduling_strategy": PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=0),
    }


def actor_options(group: PlacementGroup, config: ModelConfig) -> dict[str, Any]:
    """Options that put an actor on its reservation.

    An actor that holds KV caches is restarted whenever it dies, but no call of it is retried: a retried call would find
    empty sessions. Recovery is `RemoteModel`'s.
    """
    return {**on_group(group, config), "max_restarts": -1, "max_task_retries": 0}


def _asked(name: str, bundle: dict[str, float]) -> PlacementGroup:
    return placement_group([bundle], strategy="STRICT_PACK", name=f"onceedit:{name}:{uuid.uuid4().hex[:8]}")


def _bundle(config: ModelConfig) -> dict[str, float]:
    return {"CPU": config.num_cpus} | ({"GPU": config.num_gpus} if config.num_gpus else {})


def _wait() -> float:
    given = os.environ.get(WAIT_VARIABLE, "")
    try:
        return float(given) if given else WAIT_SECONDS
    except ValueError:
        raise ConfigError(f"{WAIT_VARIABLE}={given} is no number of seconds; give one, such as 1200") from None


def _no_room(models: Mapping[str, ModelConfig], waiting: set[str], wait: float) -> str:
    return (
        f"no node has room for {_named(models, waiting)} within {wait:g} s; {_needed(models)}; the nodes have "
        f"{_per_node()}; add a node, lower num_gpus, or raise {WAIT_VARIABLE} where an autoscaler is adding one"
    )


def _named(models: Mapping[str, ModelConfig], waiting: set[str]) -> str:
    return ", ".join(f"'{name}' ({_written(_bundle(models[name]))})" for name in models if name in waiting)


def _needed(models: Mapping[str, ModelConfig]) -> str:
    total: dict[str, float] = {}
    for config in models.values():
        for resource, amount in _bundle(config).items():
            total[resource] = total.get(resource, 0.0) + amount
    return f"all together need {_written(total)}"


def _per_node() -> str:
    """What each node has, and what of it is free."""
    free = ray._private.state.available_resources_per_node()
    nodes = []
    for node in ray.nodes():
        if node["Alive"]:
            has = {name: node["Resources"][name] for name in ("CPU", "GPU") if node["Resources"].get(name)}
            left = {name: free.get(node["NodeID"], {}).get(name, 0.0) for name in has}
            name = f"{node['NodeManagerHostname']} ({node['NodeID'][:8]})"
            nodes.append(f"{name}: {_written(has)}, of which free {_written(left)}")
    return "; ".join(nodes)


def _written(resources: Mapping[str, float]) -> str:
    return " and ".join(f"{amount:.3g} {name}" for name, amount in resources.items()) or "nothing"
