"""A model as an actor: the same `LocalModel`, one hop away."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import ray

from onceedit_ray.config import ModelConfig
from onceedit_ray.errors import OnceEditError
from onceedit_ray.models.assembly import load_for_decoding, open_codec
from onceedit_ray.models.local import LocalModel
from onceedit_ray.models.protocol import Step


@dataclass(frozen=True)
class Seat:
    """Where an actor runs. gpu_ids: the GPUs Ray gave it; visible_devices: its CUDA_VISIBLE_DEVICES."""

    node_id: str
    gpu_ids: tuple[str, ...]
    visible_devices: str
    process: int


class HostedModel(LocalModel):
    """Loads a model where it runs and hosts its sessions.

    Args:
        name: the target's name, or the plug-in's version.
        folder: a model folder that this node can read.
        config: what it runs on. top_k: entries kept of each distribution.
    """

    def __init__(self, name: str, folder: Path, config: ModelConfig, top_k: int) -> None:
        self._failure: OnceEditError | None = None
        try:
            codec = open_codec(folder)
            super().__init__(load_for_decoding(folder, config), codec.end_ids, codec.weight_id, top_k, name)
        except OnceEditError as error:
            self._failure = error  # raised by `seat`: what an actor's constructor raises arrives as a traceback

    async def open(self, ids: Sequence[int], rows: int = 1, decode: int = 0, threshold: float = 0.0) -> Step:
        """As `LocalModel.open`; raises what went wrong where a restarted actor could not load its model again."""
        if self._failure is not None:
            raise self._failure
        return await super().open(ids, rows, decode, threshold)

    async def seat(self) -> Seat:
        """Where this actor runs; raises what went wrong while it was loading."""
        if self._failure is not None:
            raise self._failure
        context = ray.get_runtime_context()
        gpu_ids = tuple(str(gpu) for gpu in context.get_accelerator_ids().get("GPU", []))
        return Seat(context.get_node_id(), gpu_ids, os.environ.get("CUDA_VISIBLE_DEVICES", ""), os.getpid())


ModelActor = ray.remote(HostedModel)
