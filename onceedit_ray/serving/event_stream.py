"""A response that is a stream of server-sent events."""

from __future__ import annotations

from collections.abc import AsyncGenerator

from fastapi import Response
from starlette.types import Receive, Scope, Send

from onceedit_ray.serving.cancellation import undisturbed


class EventStream(Response):
    """A stream of events that is always closed, even if sending fails.

    first: the item already taken. rest: the other items; they end by themselves when the client disconnects.
    """

    media_type = "text/event-stream"

    def __init__(self, first: bytes, rest: AsyncGenerator[bytes], headers: dict[str, str]) -> None:
        super().__init__(headers=headers)
        del self.headers["content-length"]
        self._first = first
        self._rest = rest

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        def part(body: bytes, more: bool) -> dict[str, object]:
            return {"type": "http.response.body", "body": body, "more_body": more}

        try:
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            await send(part(self._first, True))
            async for item in self._rest:
                await send(part(item, True))
            await send(part(b"", False))
        finally:
            await undisturbed(self._rest.aclose())
