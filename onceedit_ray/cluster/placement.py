"""Reserves resources: one placement group for each model, so that each model has GPUs of its own."""

from __future__ import annotations

import uuid
from typing import Any

import ray
from ray.util.placement_group import PlacementGroup, placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from onceedit_ray.config import ModelConfig
from onceedit_ray.errors import ConfigError

WAIT_SECONDS = 120.0


def reserve(name: str, config: ModelConfig, wait: float = WAIT_SECONDS) -> PlacementGroup:
    """Reserve a model's CPUs and GPUs on one node.

    A model that needs several GPUs gets them on one node, since its layers are spread over them. Raises `ConfigError`
    if the cluster has no such node within `wait` seconds (an autoscaler may be adding one).
    """
    bundle = {"CPU": config.num_cpus}
    if config.num_gpus:
        bundle["GPU"] = config.num_gpus
    group = placement_group([bundle], strategy="STRICT_PACK", name=f"onceedit:{name}:{uuid.uuid4().hex[:8]}")
    if not group.wait(wait):
        remove_placement_group(group)
        free = {key: value for key, value in ray.available_resources().items() if key in ("CPU", "GPU")}
        raise ConfigError(
            f"no node has room for '{name}' ({bundle}) within {wait:.0f} s; free in the cluster: {free}; "
            "add a node or lower num_gpus"
        )
    return group


def actor_options(group: PlacementGroup, config: ModelConfig) -> dict[str, Any]:
    """Options that put an actor on its reservation.

    An actor that holds KV caches is restarted whenever it dies, but no call of it is retried: a retried call would find
    empty sessions. Recovery is `RemoteModel`'s.
    """
    return {
        "num_cpus": config.num_cpus,
        "num_gpus": config.num_gpus,
        "scheduling_strategy": PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=0),
        "max_restarts": -1,
        "max_task_retries": 0,
    }
