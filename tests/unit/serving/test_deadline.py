"""A request ends within the server's limit, wherever it waits."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx2
import pytest
from fastapi import FastAPI

from onceedit_ray.serving.ingress import build_ingress
from onceedit_ray.serving.keys import Keys
from tests.small_ingress import LIMITS

ASKED: dict[str, Any] = {"model": "one", "messages": [{"role": "user", "content": "Who?"}]}


class Hanging:
    """A backend, and a knowledge, of which no call ever returns."""

    @property
    def knowledge(self) -> Hanging:
        return self

    def __getattr__(self, name: str) -> Any:
        async def never(*args: Any, **named: Any) -> None:
            await asyncio.Event().wait()

        return never


@pytest.fixture(scope="module")
def api() -> FastAPI:
    backend: Any = Hanging()
    return build_ingress(backend, LIMITS.model_copy(update={"seconds": 0.2}), Keys())


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("GET", "/v1/models", None),
        ("GET", "/v1/models/one", None),
        ("GET", "/v1/edits", None),
        ("GET", "/v1/versions", None),
        ("GET", "/v1/versions/one", None),
        ("DELETE", "/v1/versions/one", None),
        ("POST", "/v1/edits", {"prompt": "Who leads?", "target_new": "Ann"}),
        ("POST", "/v1/chat/completions", ASKED),
        ("POST", "/v1/completions", {"model": "one", "prompt": "Who?", "stream": True}),
    ],
)
def test_a_backend_that_hangs_ends_no_request_late(api: FastAPI, method: str, path: str, body: Any) -> None:
    async def ask() -> httpx2.Response:
        transport = httpx2.ASGITransport(api)
        async with httpx2.AsyncClient(transport=transport, base_url="http://127.0.0.1", timeout=None) as client:
            return await client.request(method, path, json=body)

    answer = asyncio.run(asyncio.wait_for(ask(), 60))
    assert answer.status_code == 504 and answer.json()["error"]["code"] == "timeout"


def test_an_answer_that_has_begun_is_not_ended_by_it() -> None:
    from onceedit_ray.serving.deadline import Deadline

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await asyncio.sleep(0.3)
        await send({"type": "http.response.body", "body": b"late"})

    async def ask() -> httpx2.Response:
        transport = httpx2.ASGITransport(Deadline(app, 0.05))
        async with httpx2.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
            return await client.get("/v1/models")

    assert asyncio.run(ask()).text == "late"
