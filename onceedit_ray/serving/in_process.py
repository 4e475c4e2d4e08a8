"""The decoder of this process behind the ingress."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence

from onceedit_ray.config import ModelConfig
from onceedit_ray.fusion.decoder import FusedDecoder
from onceedit_ray.fusion.engine_answer import Event
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
from onceedit_ray.serving.backend import PROBE_SECONDS, Knowledge
from onceedit_ray.serving.engine_requests import EngineRequest
from onceedit_ray.serving.generation_request import GenerationEnd, GenerationRequest
from onceedit_ray.serving.logprobs import Piece


class InProcess:
    """Implements `backend.Backend` with a decoder of this process."""

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
