"""In front of the proxy: whatever dies behind it, a client gets OpenAI's shape and `/health` answers in time.

Ray Serve's proxy says in plain text that a replica died or that there is none; whoever speaks OpenAI's API cannot read
it. Ray loads `middlewares` where `RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH` names it. Knows no Ray.
"""

from __future__ import annotations

import asyncio
from collections.abc import MutableMapping
from typing import Any

from starlette.datastructures import Headers
from starlette.middleware import Middleware
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from onceedit_ray.serving.errors import ApiError

PROXY_CALLBACK = "onceedit_ray.serving.proxy_guard.middlewares"
HEALTH_SECONDS = 4.8
"""A prober that waits 5 s gets its answer."""
GONE = ApiError(503, "the server is being started again; try again", code="server_unavailable", retry_after=5)


def middlewares() -> list[Middleware]:
    """What Ray Serve puts in front of each proxy."""
    return [Middleware(ProxyGuard)]


class ProxyGuard:
    """ASGI middleware; answers that come from behind in a client's own format pass as they are."""

    def __init__(self, app: ASGIApp, health_seconds: float = HEALTH_SECONDS) -> None:
        self._app = app
        self._health_seconds = health_seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        answer = _Answer(send)
        passing = asyncio.ensure_future(self._app(scope, receive, answer.take))
        try:
            if scope["path"] == "/health":
                await asyncio.wait([passing], timeout=self._health_seconds)
                if not passing.done() and not answer.begun:
                    await unhealthy("the server does not answer")(scope, receive, answer.close())
                    return
            await asyncio.wait([passing])
            if not answer.begun:
                await GONE.response()(scope, receive, send)
            elif (error := None if passing.cancelled() else passing.exception()) is not None:
                raise error
        finally:
            passing.cancel()  # not waited for: what hangs behind may not let itself be cancelled


def unhealthy(reason: str) -> JSONResponse:
    """What `/health` says where nobody can say which model is at fault."""
    return JSONResponse({"status": "unhealthy", "models": {}, "reason": reason}, 503)


class _Answer:
    """Passes an answer on, except for a server's error that is no JSON: `GONE` takes its place."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._closed = False
        self._replaced = False
        self.begun = False

    def close(self) -> Send:
        """Take nothing more from behind; what is returned sends to the client."""
        self._closed = True
        return self._send

    async def take(self, message: MutableMapping[str, Any]) -> None:
        if self._closed:
            return
        if message["type"] == "http.response.start":
            self.begun = True
            kind = Headers(raw=message["headers"]).get("content-type", "")
            if message["status"] >= 500 and not kind.startswith(("application/json", "text/event-stream")):
                self._replaced = True
                response = GONE.response()
                await self._send({**message, "status": response.status_code, "headers": response.raw_headers})
                await self._send({"type": "http.response.body", "body": response.body})
        if not self._replaced:
            await self._send(message)
