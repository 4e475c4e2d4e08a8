"""The served models as the ingress sees them. A request survives its coordinator: another one continues its answer.

If the coordinator dies, another one, or its successor, decodes the answer again; the client gets the text that it does
not have yet. Decoding is deterministic, so the whole answer is the one that the dead coordinator would have given. The
text so far is sent with the request, so that the target checks it in a few passes instead of decoding it again.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ray.actor import ActorHandle
from ray.exceptions import RayActorError
from ray.serve.exceptions import RayServeException

from onceedit_ray.cluster.calls import awaited, received, result
from onceedit_ray.cluster.followed import Followed, News
from onceedit_ray.cluster.known_coordinators import Known, KnownCoordinators
from onceedit_ray.cluster.proxy import proxy
from onceedit_ray.config import ModelConfig
from onceedit_ray.errors import ModelError
from onceedit_ray.fusion.candidates import names_a_fact
from onceedit_ray.models.prompt import Prompt
from onceedit_ray.serving.backend import PROBE_SECONDS, Knowledge
from onceedit_ray.serving.engine_requests import EngineRequest
from onceedit_ray.serving.generation_request import GenerationEnd, GenerationRequest
from onceedit_ray.serving.given import Given
from onceedit_ray.serving.logprobs import Piece

if TYPE_CHECKING:  # a gateway has no decoder
    from onceedit_ray.fusion.engine_answer import Event

LOG = logging.getLogger(__name__)
MOST_DEATHS = 3
"""How many coordinators may die during one request: the request itself may be the cause."""
PATIENCE_SECONDS = 120.0
"""How long a coordinator is waited for; a request has a limit of its own, which may be shorter."""
PAUSE_SECONDS = 0.25


class RemoteBackend:
    """Implements `serving.backend.Backend` with the coordinators of a `Models` deployment; survives their restarts."""

    def __init__(self, models: Any) -> None:
        self._models = models
        self._coordinators = KnownCoordinators(self._find)
        self.knowledge = _knowledge(models)
        self._followed = Followed(self._news)

    async def targets(self) -> Sequence[str]:
        names: Sequence[str] = await self._ask("targets")
        return names

    async def answer(self, asked: GenerationRequest) -> tuple[Piece, GenerationEnd]:
        answer: tuple[Piece, GenerationEnd] = await self._ask("answer", asked)
        return answer

    async def speak(self, asked: GenerationRequest) -> AsyncGenerator[Piece | GenerationEnd]:
        given = Given()
        for death in range(1, MOST_DEATHS + 1):
            known = await self._waited_for()
            given.again()
            try:
                again = replace(asked, known=given.text)
                with known.used() as coordinator:
                    async with contextlib.aclosing(received(coordinator.speak, again)) as pieces:
                        async for piece in pieces:
                            if isinstance(piece, GenerationEnd):
                                given.check_ended()
                                yield piece
                                return
                            if (new := given.beyond(piece)) is not None:
                                yield new
                error: Exception = ModelError("its stream has ended early")
            except RayActorError as died:
                error = died
            self._mark_lost(known.actor, error, death)
        raise self._given_up()

    async def relay(self, asked: EngineRequest) -> AsyncGenerator[Event | GenerationEnd]:
        """As `any_target.relay`; a server may answer otherwise when asked again, so only a beginning is made again."""
        for death in range(1, MOST_DEATHS + 1):
            known = await self._waited_for()
            begun = False
            try:
                with known.used() as coordinator:
                    async with contextlib.aclosing(received(coordinator.relay, asked)) as events:
                        async for event in events:
                            begun = True
                            yield event
                return
            except RayActorError as error:
                self._mark_lost(known.actor, error, death)
                if begun:
                    raise ModelError("the coordinator died while it passed a server's answer on; ask again") from None
        raise self._given_up()

    async def mentioned(self, prompt: Prompt) -> bool:
        if (facts := self._followed.facts) is not None:
            return names_a_fact(facts, prompt.question, prompt.turns, prompt.system)
        found: bool = await self._ask("mentioned", prompt)
        return found

    async def served(self) -> Mapping[str, ModelConfig]:
        if (news := self._followed.news) is not None:
            return news.servers
        found: Mapping[str, ModelConfig] = await self._ask("served")
        return found

    async def add_server(self, name: str, config: ModelConfig) -> str:
        about: str = await self._managed("add_server", name, config)
        return about

    async def remove_server(self, name: str) -> None:
        await self._managed("remove_server", name)

    async def _managed(self, method: str, *args: object) -> Any:
        """Call a method of the `Models` deployment."""
        try:
            return await result(getattr(self._models, method).remote(*args))
        except (RayActorError, RayServeException) as error:
            reason = " ".join(str(error).split())[:200]
            raise ModelError(f"the actor that keeps the targets has died ({reason}) and is being restarted") from None

    async def _news(self, copy: str, known: str, revision: int, facts_at: int) -> News:
        await self._waited_for()
        coordinator = await self._coordinators.first()
        try:
            news: News = await awaited(coordinator.news, copy, known, revision, facts_at)
        except RayActorError as error:
            self._mark_lost(coordinator, error, 1)
            raise
        return news

    async def probe(self) -> dict[str, str]:
        coordinator = await self._coordinators.first()
        try:
            states: dict[str, str] = await awaited(coordinator.probe, PROBE_SECONDS)
        except RayActorError as error:
            self._mark_lost(coordinator, error, 1)
            raise ModelError("the coordinator has died; another one is being started") from None
        return states

    async def _ask(self, method: str, *args: object) -> Any:
        for death in range(1, MOST_DEATHS + 1):
            known = await self._waited_for()
            try:
                with known.used() as coordinator:
                    return await awaited(getattr(coordinator, method), *args)
            except RayActorError as error:
                self._mark_lost(known.actor, error, death)
        raise self._given_up()

    async def _waited_for(self) -> Known:
        """The coordinator for a request, as soon as there is one."""
        clock = asyncio.get_running_loop()
        deadline = clock.time() + PATIENCE_SECONDS
        while True:
            try:
                async with asyncio.timeout_at(deadline):
                    return await self._coordinators.least_busy()
            except (RayActorError, RayServeException, TimeoutError) as error:
                if clock.time() >= deadline:
                    reason = " ".join(str(error).split())[:200]
                    raise ModelError(f"no coordinator within {PATIENCE_SECONDS:.0f} s ({reason})") from None
                await asyncio.sleep(PAUSE_SECONDS)

    async def _find(self, lost: ActorHandle | None) -> Sequence[ActorHandle]:
        found: Sequence[ActorHandle] = await result(self._models.coordinators.remote(lost))
        return found

    def _mark_lost(self, coordinator: ActorHandle, error: Exception, death: int) -> None:
        LOG.error("a coordinator was lost (%d of %d): %s", death, MOST_DEATHS, " ".join(str(error).split())[:200])
        self._coordinators.lose(coordinator)
        self._followed.forget()  # perhaps of that one

    def _given_up(self) -> ModelError:
        return ModelError(f"{MOST_DEATHS} coordinators died while they answered this request, so it is not asked again")


def _knowledge(models: Any) -> Knowledge:
    """The editing of a `Models` deployment."""

    async def call(method: str, *args: object, **named: object) -> Any:
        try:
            return await result(models.knowledge.remote(method, *args, **named))
        except (RayActorError, RayServeException) as error:
            reason = " ".join(str(error).split())[:200]
            raise ModelError(f"the actor that keeps the edits has died ({reason}) and is being restarted") from None

    return proxy(Knowledge, call)  # type: ignore[type-abstract]  # it is never made
