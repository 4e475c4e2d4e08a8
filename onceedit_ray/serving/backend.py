"""The interface between the ingress and a decoder, and its implementation for a decoder in this process."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import Protocol

from onceedit_ray.config import ModelConfig
from onceedit_ray.fusion.decoder import FusedDecoder
from onceedit_ray.fusion.engine_answer import Event
from onceedit_ray.knowledge.edit import Edit
from onceedit_ray.living.edit_book import Status
from onceedit_ray.living.edit_views import BatchView, EditList, EditView, VersionView
from onceedit_ray.models.engines.openai import OpenAIEngine
from onceedit_ray.models.prompt import Prompt
from onceedit_ray.serving.any_target import (
    answer,
    check_removable,
    probe,
    relay,
    remove_server,
    served,
    speak,
    targets,
    try_server,
)
from onceedit_ray.serving.engine_requests import EngineRequest
from onceedit_ray.serving.generation import GenerationEnd, GenerationRequest
from onceedit_ray.serving.logprobs import Piece

PROBE_SECONDS = 3.5


class Knowledge(Protocol):
    """The methods for editing; `edit_queue.EditQueue` documents them and their errors.

    Its edits wait until a version is trained; those of `live_facts.LiveFacts` are live when the method returns.
    """

    async def submit(self, edits: Sequence[Edit]) -> BatchView:
        """Make edits."""

    async def edits(self, after: str | None = None, limit: int = 100, status: Status | None = None) -> EditList:
        """A page of the edits, the newest first."""

    async def found(self, id: str) -> EditView | BatchView:
        """An edit or a batch."""

    async def remove(self, id: str) -> EditView | BatchView:
        """Delete an edit or a batch."""

    async def versions(self, limit: int = 100) -> list[VersionView]:
        """The newest `limit` versions, the newest first."""

    async def activate(self, id: str) -> VersionView:
        """Make a version the active one."""


class Backend(Protocol):
    """A decoder behind the ingress: in this process, or an actor in another one.

    knowledge: the methods for editing; None if this server does not edit.
    """

    @property
    def knowledge(self) -> Knowledge | None: ...

    async def targets(self) -> Sequence[str]:
        """The names of the targets."""

    async def answer(self, asked: GenerationRequest) -> tuple[Piece, GenerationEnd]:
        """As `any_target.answer`."""

    def speak(self, asked: GenerationRequest) -> AsyncGenerator[Piece | GenerationEnd]:
        """As `any_target.speak`."""

    def relay(self, asked: EngineRequest) -> AsyncGenerator[Event | GenerationEnd]:
        """As `any_target.relay`."""

    async def mentioned(self, prompt: Prompt) -> bool:
        """Whether a request may be about an edit."""

    async def served(self) -> Mapping[str, ModelConfig]:
        """As `any_target.served`."""

    async def add_server(self, name: str, config: ModelConfig) -> str:
        """Add a target that a server has, if the server can be used; raises, and returns, as `any_target.try_server`.

        All that answer know it when this returns.
        """

    async def remove_server(self, name: str) -> None:
        """Remove such a target, as `any_target.remove_server`; raises as `any_target.check_removable`."""

    async def probe(self) -> dict[str, str]:
        """As `any_target.probe`."""


class InProcess:
    """A decoder of this process."""

    def __init__(self, decoder: FusedDecoder, knowledge: Knowledge | None = None) -> None:
        self._decoder = decoder
        self.knowledge = knowledge

    async def targets(self) -> Sequence[str]:
        return targets(self._decoder)

    async def answer(self, asked: GenerationRequest) -> tuple[Piece, GenerationEnd]:
        return await answer(self._decoder, asked)

    def speak(self, asked: GenerationRequest) -> AsyncGenerator[Piece | GenerationEnd]:
        return speak(self._decoder, asked)

    def relay(self, asked: EngineRequest) -> AsyncGenerator[Event | GenerationEnd]:
        return relay(self._decoder, asked)

    async def mentioned(self, prompt: Prompt) -> bool:
        return await self._decoder.mentioned(prompt)

    async def served(self) -> Mapping[str, ModelConfig]:
        return served(self._decoder)

    async def add_server(self, name: str, config: ModelConfig) -> str:
        about = await try_server(self._decoder, name, config)
        self._decoder.servers[name] = OpenAIEngine(name, config)
        return about

    async def remove_server(self, name: str) -> None:
        check_removable(self._decoder, name)
        await remove_server(self._decoder, name)

    async def probe(self) -> dict[str, str]:
        return await probe(self._decoder, PROBE_SECONDS)
