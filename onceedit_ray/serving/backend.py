"""The interface between the ingress and a decoder."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

from onceedit_ray.config import ModelConfig
from onceedit_ray.knowledge.edit import Edit
from onceedit_ray.living.edit_book import Status
from onceedit_ray.living.edit_views import BatchView, DeletedVersion, EditList, EditView, VersionDetail, VersionView
from onceedit_ray.models.prompt import Prompt
from onceedit_ray.serving.engine_requests import EngineRequest
from onceedit_ray.serving.generation_request import GenerationEnd, GenerationRequest
from onceedit_ray.serving.logprobs import Piece

if TYPE_CHECKING:  # only for types: the ingress has no decoder of its own
    from onceedit_ray.fusion.engine_answer import Event

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

    async def version(self, id: str) -> VersionDetail:
        """A version with its edits."""

    async def remove_version(self, id: str) -> DeletedVersion:
        """Delete a version that nothing needs."""

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

        When this returns, every process that answers requests knows it.
        """

    async def remove_server(self, name: str) -> None:
        """Remove such a target, as `any_target.remove_server`; raises as `any_target.check_removable`."""

    async def probe(self) -> dict[str, str]:
        """As `any_target.probe`."""
