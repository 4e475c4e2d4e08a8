"""A model as a Ray actor: the same `LocalModel` in another process."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import psutil
import ray

from onceedit_ray.cluster.on_this_node import Weights, names_the_node, weights_here
from onceedit_ray.config import ModelConfig
from onceedit_ray.errors import OnceEditError
from onceedit_ray.models.assembly import decoding_threads, load_for_decoding, open_codec
from onceedit_ray.models.local_model import LocalModel


@dataclass(frozen=True)
class Seat:
    """Where an actor runs. gpu_ids: the GPUs Ray gave it; visible_devices: its CUDA_VISIBLE_DEVICES."""

    node_id: str
    gpu_ids: tuple[str, ...]
    visible_devices: str
    process: int


@dataclass(frozen=True)
class Load:
    """The load of a model actor. passes, tokens: forward passes, and the tokens fed to them. sessions: open sessions.
    cache_bytes, resident_bytes: memory of the KV cache, and of the process."""

    passes: int
    tokens: int
    sessions: int
    cache_bytes: int
    resident_bytes: int


class HostedModel(LocalModel):
    """Loads a model in the actor's process and holds its sessions.

    Args:
        name: the target's name, or the plug-in's version.
        weights: what it is loaded from; found on this node, or fetched.
        config: its resources. top_k: the number of entries kept of each distribution.
    """

    def __init__(self, name: str, weights: Weights, config: ModelConfig, top_k: int) -> None:
        self._failure: OnceEditError | None = None
        try:
            with names_the_node():
                folder = weights_here(weights)
                codec = open_codec(folder)
                model = load_for_decoding(folder, config)
                threads = decoding_threads(model, config)
            super().__init__(model, codec.end_ids, codec.weight_id, top_k, name, threads)
        except OnceEditError as error:
            self._failure = error  # `seat` raises it: an error in an actor's constructor would arrive as a traceback

    async def serve(self, calls: Sequence[tuple[str, tuple[Any, ...]]]) -> list[Any]:
        """Several calls at once, each a method and its arguments; a call that fails gives its error as its result.

        Raises the error of loading if a restarted actor could not load its model again.
        """
        if self._failure is not None:
            raise self._failure
        return await asyncio.gather(
            *(getattr(self, method)(*arguments) for method, arguments in calls), return_exceptions=True
        )

    async def close_all(self) -> None:
        """Free every session: those of a coordinator that has died, which nobody else would close."""
        for number in list(self._sessions):
            await self.close(number)

    async def load(self) -> Load:
        """The memory of this actor, and its counters."""
        return Load(self.passes, self.tokens, self.open_sessions, self.cache_bytes, psutil.Process().memory_info().rss)

    async def seat(self) -> Seat:
        """Where this actor runs; raises the error of loading the model, if there was one."""
        if self._failure is not None:
            raise self._failure
        context = ray.get_runtime_context()
        gpu_ids = tuple(str(gpu) for gpu in context.get_accelerator_ids().get("GPU", []))
        return Seat(context.get_node_id(), gpu_ids, os.environ.get("CUDA_VISIBLE_DEVICES", ""), os.getpid())


ModelActor = ray.remote(HostedModel)
