"""Ends every request whose answer has not begun in time, wherever it waits."""

from __future__ import annotations

import asyncio

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from onceedit_ray.serving.engine_requests import ROUTES
from onceedit_ray.serving.errors import ApiError
from onceedit_ray.serving.observing import account_of

LATE = ApiError(504, "the server did not answer in time; try again", code="timeout", retry_after=5)
GRACE_SECONDS = 1.0
"""Routes that write answers have an earlier deadline of their own, whose error says how far the answer came."""


class Deadline:
    """ASGI middleware. An answer that has begun is not ended here.

    Args:
        seconds: until an answer begins.
    """

    def __init__(self, app: ASGIApp, seconds: float) -> None:
        self._app = app
        self._seconds = seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        begun = False

        async def told(message: Message) -> None:
            nonlocal begun
            if not begun:
                begun = True
                limit.reschedule(None)
            await send(message)

        grace = GRACE_SECONDS if scope["path"] in ROUTES else 0.0
        try:
            async with asyncio.timeout(self._seconds + grace) as limit:
                await self._app(scope, receive, told)
        except TimeoutError:
            if begun or not limit.expired():
                raise
            account_of(scope).error = LATE.code
            await LATE.response()(scope, receive, send)
