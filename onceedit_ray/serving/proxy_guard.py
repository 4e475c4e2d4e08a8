"""Middleware in the proxy: errors of Ray Serve reach clients in OpenAI's format, and `/health` answers in time.

Ray Serve's proxy reports in plain text that a replica is dead or missing, or that no application is deployed yet, which
clients of OpenAI's API cannot parse. It cuts the streams of a replica that dies; here they end with an error event. Ray
loads `middlewares` if `RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH` names it. This file does not import Ray.
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
from onceedit_ray.serving.server_sent_events import event

PROXY_CALLBACK = "onceedit_ray.serving.proxy_guard.middlewares"
HEALTH_SECONDS = 4.8
"""Short enough for a health check with a timeout of 5 s."""
GONE = ApiError(503, "the server is being started again; try again", code="server_unavailable", retry_after=5)

NOT_YET = ApiError(
    503, "nothing is served at this path yet; while the server starts, try again", code="server_unavailable",
    retry_after=5,
)  # fmt: skip
NO_APPLICATION = b"/-/routes"
"""The route of Ray Serve's list of applications, which its own 404 names."""


def middlewares() -> list[Middleware]:
    """The middleware that Ray Serve adds to each proxy."""
    return [Middleware(ProxyGuard)]


class ProxyGuard:
    """ASGI middleware; responses that already have OpenAI's format are not changed."""

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
            elif answer.is_cut:
                await answer.end_stream()
            elif (error := None if passing.cancelled() else passing.exception()) is not None:
                raise error
        finally:
            passing.cancel()  # not awaited: it may hang and ignore the cancellation


def unhealthy(reason: str) -> JSONResponse:
    """The response of `/health` if it is unknown which model has failed."""
    return JSONResponse({"status": "unhealthy", "models": {}, "reason": reason}, 503)


class _Answer:
    """Passes a response on; replaces an error of Ray Serve that is not JSON by `GONE` or `NOT_YET`."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._closed = False
        self._replaced = False
        self._streams = False
        self._ended = False
        self._missing: MutableMapping[str, Any] | None = None
        self.begun = False

    @property
    def is_cut(self) -> bool:
        """Whether the application has left a stream of events without its end."""
        return self._streams and not self._ended

    async def end_stream(self) -> None:
        """End a stream that was cut: an error event, and the end of the body."""
        await self._send({"type": "http.response.body", "body": event(GONE.body), "more_body": False})

    def close(self) -> Send:
        """Ignore all further messages of the application; returns the channel to the client."""
        self._closed = True
        return self._send

    async def take(self, message: MutableMapping[str, Any]) -> None:
        if self._closed:
            return
        if message["type"] == "http.response.start":
            self.begun = True
            kind = Headers(raw=message["headers"]).get("content-type", "")
            self._streams = kind.startswith("text/event-stream")
            if message["status"] >= 500 and not kind.startswith(("application/json", "text/event-stream")):
                await self._replace(message, GONE)
            elif message["status"] == 404 and kind.startswith("text/plain"):
                self._missing = message  # its body says whether Ray Serve wrote it
                return
        elif message["type"] == "http.response.body":
            self._ended = not message.get("more_body", False)
            if (start := self._missing) is not None:
                self._missing = None
                if NO_APPLICATION in message.get("body", b""):
                    await self._replace(start, NOT_YET)
                else:
                    await self._send(start)
        if not self._replaced:
            await self._send(message)

    async def _replace(self, start: MutableMapping[str, Any], error: ApiError) -> None:
        self._replaced = True
        response = error.response()
        await self._send({**start, "status": response.status_code, "headers": response.raw_headers})
        await self._send({"type": "http.response.body", "body": response.body})
