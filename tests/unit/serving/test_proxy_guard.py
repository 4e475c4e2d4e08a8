"""What a client receives if the processes behind the proxy die, hang, or answer in plain text."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import time
from typing import Any

import httpx2
import pytest
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from onceedit_ray.cluster.own_ray import prepare_environment
from onceedit_ray.serving import ingress, proxy_guard
from onceedit_ray.serving.errors import ApiError
from onceedit_ray.serving.proxy_guard import PROXY_CALLBACK, ProxyGuard


def ask(behind: Any, path: str = "/v1/models", seconds: float = 0.2) -> httpx2.Response:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if isinstance(behind, Response):
            await behind(scope, receive, send)
        else:
            await behind(scope, receive, send)

    async def go() -> httpx2.Response:
        guard: ASGIApp = ProxyGuard(app, seconds)
        transport = httpx2.ASGITransport(guard, raise_app_exceptions=False)
        async with httpx2.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
            begun = time.monotonic()
            found = await client.get(path)
            found.extensions["seconds"] = time.monotonic() - begun
            return found

    return asyncio.run(go())


async def hang(scope: Scope, receive: Receive, send: Send) -> None:
    """Takes 5 s, also if it is cancelled."""
    ended = time.monotonic() + 5
    while time.monotonic() < ended:
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(ended - time.monotonic())


async def fall(scope: Scope, receive: Receive, send: Send) -> None:
    raise RuntimeError("the replica is gone")


@pytest.mark.parametrize("behind", [PlainTextResponse("Internal Server Error", 500), PlainTextResponse("", 503), fall])
def test_a_servers_error_in_plain_text_comes_in_openais_shape(behind: Any) -> None:
    found = ask(behind)
    assert found.status_code == 503 and found.headers["Retry-After"] == "5"
    error = found.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert (error["type"], error["code"]) == ("server_error", "server_unavailable")
    assert int(found.headers["Content-Length"]) == len(found.content)


def test_before_an_application_is_deployed_the_error_has_openais_shape_too() -> None:
    path = "Path '/v1/models' not found. Ping http://.../-/routes for available routes."
    found = ask(PlainTextResponse(path, 404))
    assert found.status_code == 503 and found.headers["Retry-After"] == "5"
    assert found.json()["error"]["code"] == "server_unavailable"
    assert int(found.headers["Content-Length"]) == len(found.content)


def test_everything_else_passes_as_it_is() -> None:
    timeout = ApiError(504, "too long", code="timeout").response()
    for behind in (timeout, PlainTextResponse("page", 200), PlainTextResponse("no", 404)):
        found = ask(behind)
        assert (found.status_code, found.content) == (behind.status_code, behind.body)
    streamed = StreamingResponse(iter([b"data: 1\n\n", b"data: [DONE]\n\n"]), media_type="text/event-stream")
    assert ask(streamed).text == "data: 1\n\ndata: [DONE]\n\n"


@pytest.mark.parametrize("how", [RuntimeError("the replica is gone"), None])
def test_a_stream_that_is_cut_ends_with_an_error_event(how: Exception | None) -> None:
    async def cut(scope: Scope, receive: Receive, send: Send) -> None:
        headers = [(b"content-type", b"text/event-stream; charset=utf-8")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b"data: 1\n\n", "more_body": True})
        if how is not None:
            raise how

    first, last, end = ask(cut).text.split("\n\n")
    assert (first, end) == ("data: 1", "")
    error = json.loads(last.removeprefix("data: "))["error"]
    assert (error["type"], error["code"]) == ("server_error", "server_unavailable")


def test_health_answers_in_time_whatever_hangs_behind() -> None:
    found = ask(hang, "/health")
    assert found.extensions["seconds"] < 2, "the app behind takes 5 s at least"
    assert (found.status_code, found.json()["status"]) == (503, "unhealthy")
    assert ask(PlainTextResponse("ok"), "/health").text == "ok"
    assert ingress.HEALTH_SECONDS < proxy_guard.HEALTH_SECONDS < 5, "in time for a health check that waits 5 s"


def test_a_ray_of_our_own_loads_it(monkeypatch: pytest.MonkeyPatch) -> None:
    name = "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH"
    monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("RAY_AUTH_TOKEN", "t" * 32)
    prepare_environment()
    assert os.environ[name] == PROXY_CALLBACK
    module, _, attribute = PROXY_CALLBACK.rpartition(".")
    assert module == proxy_guard.__name__ and getattr(proxy_guard, attribute)()[0].cls is ProxyGuard
