"""HTTP connections to one server, kept open between requests. This module does not know what is asked.

The connections may be used in one event loop after another, as by programs that call `asyncio.run` often. The library
is aiohttp: its requests cost less processor time than httpx's, and a gateway makes one for each that it gets.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping
from urllib.parse import urlsplit

import aiohttp
import httpx2

CONNECT_SECONDS = 5.0
IDLE_SECONDS = 4.0
"""How long a connection stays open unused: less than the 5 s after which uvicorn, and so vLLM, closes it."""
LOOPBACK = ("127.0.0.1", "localhost", "::1")


class Connections:
    """Args:
    url: of the server. headers: of every request.
    """

    def __init__(self, url: str, headers: Mapping[str, str]) -> None:
        self._url = url
        self._headers = dict(headers)
        self._session: aiohttp.ClientSession | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    async def send(self, path: str, content: bytes | None) -> aiohttp.ClientResponse:
        """The response to a request, whose body has not been read; close it. Only connecting has a time limit.

        Args:
            path: below the url. content: the body of a POST, as JSON; None for a GET.

        Raises:
            aiohttp.ClientError: no connection, or it breaks before the response begins.
        """
        session, url = self._opened(), f"{self._url}/{path}"
        if content is None:
            return await session.get(url, allow_redirects=False)
        headers = {"Content-Type": "application/json"}
        return await session.post(url, data=content, headers=headers, allow_redirects=False)

    async def aclose(self) -> None:
        """Close all; the next request makes new ones."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    def _opened(self) -> aiohttp.ClientSession:
        """The connections of this event loop."""
        loop = asyncio.get_running_loop()
        if self._session is None or self._loop is not loop:
            self._abandon()
            url = urlsplit(self._url)
            near = url.hostname in LOOPBACK  # needs no proxy
            tls = httpx2.create_ssl_context() if url.scheme == "https" else True  # as in our other clients
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=IDLE_SECONDS, ssl=tls),
                timeout=aiohttp.ClientTimeout(total=None, connect=CONNECT_SECONDS, sock_connect=CONNECT_SECONDS),
                cookie_jar=aiohttp.DummyCookieJar(),  # no cookie of one client reaches another one
                headers=self._headers,
                trust_env=not near,
            )
            self._loop = loop
        return self._session

    def _abandon(self) -> None:
        """Close the connections that no event loop waits for any more."""
        session, self._session = self._session, None
        if session is not None:
            with contextlib.suppress(StopIteration, RuntimeError):
                session.close().send(None)

    def __del__(self) -> None:
        if hasattr(self, "_session"):
            self._abandon()
