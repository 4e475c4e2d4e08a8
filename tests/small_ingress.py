"""Shared by the tests of the ingress: a small system behind it, and clients in this process."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncGenerator, Sequence
from typing import Any

import httpx2
from fastapi import FastAPI

from onceedit_ray.config import ModelConfig
from onceedit_ray.errors import UnknownTargetError
from onceedit_ray.serving.backend import Backend, Knowledge
from onceedit_ray.serving.errors import ApiError
from onceedit_ray.serving.generation_request import GenerationEnd, GenerationRequest
from onceedit_ray.serving.in_process import InProcess
from onceedit_ray.serving.ingress import build_ingress
from onceedit_ray.serving.keys import Keys
from onceedit_ray.serving.limits import Limits
from onceedit_ray.serving.logprobs import Piece
from tests.small_decoding import decoder_of
from tests.small_system import TaughtModels

LIMITS = Limits(max_tokens=64, chat_tokens=8, answers=16, temperature=0.0)
TARGETS = ["mistral", "qwen2"]
VERSION = "small-0123"


def small_backend(models: TaughtModels, weight: float = 0.6, **fusion: Any) -> InProcess:
    """Two taught targets and a plug-in whose gate weight is `weight`."""
    decoder = decoder_of(models, weight, threshold=0.5, **fusion)
    decoder.members = {name: decoder.members[name] for name in TARGETS}
    decoder.plugin.version = VERSION
    return InProcess(decoder)


def ingress_of(
    backend: Backend,
    keys: Sequence[str] = (),
    edit_keys: Sequence[str] = (),
    admin_keys: Sequence[str] = (),
    **limits: Any,
) -> FastAPI:
    return build_ingress(
        backend, LIMITS.model_copy(update=limits), Keys(keys), Keys(edit_keys), admin_keys=Keys(admin_keys)
    )


@contextlib.asynccontextmanager
async def client_of(api: FastAPI, **options: Any) -> AsyncGenerator[httpx2.AsyncClient]:
    transport = httpx2.ASGITransport(api, raise_app_exceptions=False)
    async with httpx2.AsyncClient(transport=transport, base_url="http://127.0.0.1", **options) as client:
        yield client


def post(api: FastAPI, path: str, body: Any, **options: Any) -> httpx2.Response:
    """The response to one request; `body` is JSON, or bytes as they are."""

    async def ask() -> httpx2.Response:
        async with client_of(api) as client:
            content = body if isinstance(body, bytes) else json.dumps(body).encode()
            headers = {"Content-Type": "application/json"} | options.pop("headers", {})
            return await client.post(path, content=content, headers=headers, **options)

    return asyncio.run(ask())


def events(response: httpx2.Response) -> list[Any]:
    """The data of a stream's events; the `[DONE]` that ends it is checked and left out."""
    lines = [line.removeprefix("data: ") for line in response.text.split("\n\n") if line]
    assert lines[-1] == "[DONE]"
    return [json.loads(line) for line in lines[:-1]]


class Scripted:
    """A backend with scripted answers: yields the items of `says` and raises exceptions in it; `held` blocks it.

    asked: the requests. open: the number of running answers.
    """

    def __init__(self, *says: Any, held: bool = False) -> None:
        self.says = says
        self.held = held
        self.asked: list[GenerationRequest] = []
        self.open = 0
        self.knowledge: Knowledge | None = None
        self.servers: dict[str, ModelConfig] = {}
        self.states = {"plug-in": "", "one": ""}

    async def targets(self) -> list[str]:
        return ["one", "two"]

    async def answer(self, asked: GenerationRequest) -> tuple[Piece, GenerationEnd]:
        items = [item async for item in self.speak(asked)]
        return Piece("".join(item.text for item in items if isinstance(item, Piece))), items[-1]

    async def speak(self, asked: GenerationRequest) -> AsyncGenerator[Any]:
        self.asked.append(asked)
        self.open += 1
        try:
            for item in self.says:
                if isinstance(item, Exception):
                    raise item
                yield Piece(item) if isinstance(item, str) else item
            if self.held:
                await asyncio.Event().wait()
            yield GenerationEnd(asked.target, "stop", 3, 2, "v", 0.9, False)
        finally:
            self.open -= 1

    async def served(self) -> dict[str, ModelConfig]:
        return self.servers

    async def add_server(self, name: str, config: ModelConfig) -> str:
        raise ApiError(501, "scripted answers have no servers")

    async def remove_server(self, name: str) -> None:
        raise UnknownTargetError(f"unknown target '{name}'")

    async def probe(self) -> dict[str, str]:
        return self.states
