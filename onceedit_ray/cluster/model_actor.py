"""A model as a Ray actor: the same `LocalModel` in another process."""

from __future__ import annotations

import asyncio
import os
import threading
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import psutil
import ray

from onceedit_ray.cluster.on_this_node import Weights, names_the_node, weights_here
from onceedit_ray.cluster.telemetry import TELL_SECONDS, CacheMetrics
from onceedit_ray.config import ModelConfig
from onceedit_ray.errors import OnceEditError
from onceedit_ray.models.assembly import bounds_of, load_for_decoding, open_codec
from onceedit_ray.models.local_model import LocalModel
from onceedit_ray.models.protocol import Step

TOGETHER_SECONDS = 0.25
"""How long calls that came together are answered together. A call may wait for memory, and those with it need not."""


@dataclass(frozen=True)
class Seat:
    """Where an actor runs. gpu_ids: the GPUs Ray gave it; visible_devices: its CUDA_VISIBLE_DEVICES."""

    node_id: str
    gpu_ids: tuple[str, ...]
    visible_devices: str
    process: int


@dataclass(frozen=True)
class Load:
    """The load of a model actor.

    passes, tokens: forward passes, and the tokens fed to them. sessions: open sessions. waiting: those of them without
    room in the KV cache. preempted: how often a session lost its room. token_bytes: keys and values of one token.
    cache_bytes, cache_limit: of the KV cache, and the most that it may take. resident_bytes: of the process.
    """

    passes: int
    tokens: int
    sessions: int
    waiting: int
    preempted: int
    token_bytes: int
    cache_bytes: int
    cache_limit: int
    resident_bytes: int


@dataclass(frozen=True)
class Later:
    """Stands for the answer to a call that takes longer; `rest` returns that answer."""

    ticket: str


class HostedModel(LocalModel):
    """Loads a model in the actor's process and holds its sessions.

    Args:
        name: the target's name, or the plug-in's version.
        weights: what it is loaded from; found on this node, or fetched.
        config: its resources. top_k: the number of entries kept of each distribution.
    """

    def __init__(self, name: str, weights: Weights, config: ModelConfig, top_k: int) -> None:
        self._failure: OnceEditError | None = None
        self._later: dict[str, tuple[asyncio.Task[Any], str]] = {}
        self._owners: dict[int, str] = {}
        self._forgotten: set[str] = set()
        try:
            with names_the_node():
                folder = weights_here(weights)
                codec = open_codec(folder)
                model = load_for_decoding(folder, config)
                bounds = bounds_of(model, config, codec)
                super().__init__(model, codec.end_ids, codec.weight_id, top_k, name, *bounds)
        except OnceEditError as error:
            self._failure = error  # `seat` raises it: an error in an actor's constructor would arrive as a traceback
        if self._failure is None and ray.is_initialized():
            threading.Thread(target=self._show, args=(CacheMetrics(name),), daemon=True).start()

    async def serve(self, calls: Sequence[tuple[str, tuple[Any, ...]]], owner: str = "") -> list[Any]:
        """Several calls at once, each a method and its arguments; a call that fails gives its error as its result, one
        that takes longer than `TOGETHER_SECONDS` a `Later`, so that it keeps no other one from its answer.

        owner: whose sessions these are, for `forget`.

        Raises the error of loading if a restarted actor could not load its model again.
        """
        if self._failure is not None:
            raise self._failure
        tasks = [asyncio.ensure_future(self._called(owner, method, arguments)) for method, arguments in calls]
        await asyncio.wait(tasks, timeout=TOGETHER_SECONDS)
        return [_answer(task) if task.done() else self._postponed(task, owner) for task in tasks]

    async def _called(self, owner: str, method: str, arguments: tuple[Any, ...]) -> Any:
        answer = await getattr(self, method)(*arguments)
        if method in ("open", "fork"):
            number = answer.session if isinstance(answer, Step) else answer
            self._owners[number] = owner
            if owner in self._forgotten:
                await self.close(number)
        return answer

    async def close(self, session: int) -> None:
        """As `LanguageModel.close`."""
        self._owners.pop(session, None)
        await super().close(session)

    async def rest(self, ticket: str) -> Any:
        """The answer, or the error, of a call; None if this process does not know it, since it was restarted."""
        if ticket not in self._later:
            return None
        task, _ = self._later[ticket]
        await asyncio.wait([task])
        self._later.pop(ticket, None)
        return _answer(task)

    async def abandon(self, ticket: str) -> None:
        """Cancel a call whose caller has left; what it waits for is given back."""
        if ticket in self._later:
            task, _ = self._later.pop(ticket)
            task.cancel()

    def _postponed(self, task: asyncio.Task[Any], owner: str) -> Later:
        later = Later(uuid.uuid4().hex)
        self._later[later.ticket] = task, owner
        return later

    async def forget(self, owner: str) -> None:
        """Free the sessions of a coordinator that has died, which nobody else would close."""
        self._forgotten.add(owner)
        for ticket in [ticket for ticket, (_, whose) in self._later.items() if whose == owner]:
            await self.abandon(ticket)
        for number in [number for number, whose in self._owners.items() if whose == owner]:
            await self.close(number)

    async def load(self) -> Load:
        """The memory of this actor, and its counters."""
        return Load(
            self.passes, self.tokens, self.open_sessions, self.waiting_sessions, self.preempted_sessions,
            self.token_bytes, self.cache_bytes, self.cache_limit or 0, psutil.Process().memory_info().rss,
        )  # fmt: skip

    def _show(self, metrics: CacheMetrics) -> None:
        while True:
            metrics.show(self)
            time.sleep(TELL_SECONDS)

    async def seat(self) -> Seat:
        """Where this actor runs; raises the error of loading the model, if there was one."""
        if self._failure is not None:
            raise self._failure
        context = ray.get_runtime_context()
        gpu_ids = tuple(str(gpu) for gpu in context.get_accelerator_ids().get("GPU", []))
        return Seat(context.get_node_id(), gpu_ids, os.environ.get("CUDA_VISIBLE_DEVICES", ""), os.getpid())


def _answer(task: asyncio.Task[Any]) -> Any:
    if task.cancelled():
        return asyncio.CancelledError()
    return task.exception() or task.result()


ModelActor = ray.remote(HostedModel)
