"""Refuses requests to the page's process that other web pages make a browser send.

NiceGUI's socket accepts connections from any origin; this middleware accepts only the page's own origin. A page that
serves only this machine answers only under the machine's local names, so a foreign name that resolves to 127.0.0.1 is
refused. Every response has a content security policy that lets the page load nothing from other hosts.
"""

from __future__ import annotations

from collections.abc import Mapping

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from onceedit_ray.serving.keys import is_loopback
from onceedit_ray.serving.same_origin import hostname_of, origin_of

POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self' 'unsafe-inline' 'unsafe-eval'",  # NiceGUI starts by an inline script and compiles templates
        "style-src 'self' 'unsafe-inline'",
        "img-src 'self' data:",
        "font-src 'self'",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
)
HEADERS = {"Content-Security-Policy": POLICY, "X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer"}


class PageGuard:
    """ASGI middleware. local: whether the page answers only under this machine's local names, or under every name."""

    def __init__(self, app: ASGIApp, local: bool) -> None:
        self._app = app
        self._local = local

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(HEADERS)
            await send(message)

        if self.admits(Headers(scope=scope)):
            await self._app(scope, receive, guarded)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
        else:
            await PlainTextResponse("this page answers its own address alone\n", 403)(scope, receive, guarded)

    def admits(self, headers: Mapping[str, str]) -> bool:
        """Whether a request with these headers (names in lower case) comes from the page itself."""
        host, origin = headers.get("host", ""), headers.get("origin")
        if self._local and not is_loopback(hostname_of(host)):
            return False
        own = {origin_of(f"{scheme}://{host}") for scheme in ("http", "https")}
        return origin is None or origin_of(origin) in own
