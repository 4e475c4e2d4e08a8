"""Load over HTTP that costs the client little: prepared requests on connections that stay open, answers read as bytes.

A client that parses its answers would take processor time from the measured system on the same machine.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

END = b"\r\n\r\n"


@dataclass(frozen=True)
class Timed:
    """One answer. first, whole: seconds until the first event, and until the end. events: of a stream, else 1."""

    first: float
    whole: float
    events: int


class Connection:
    """One connection, on which requests are made one after another; `RuntimeError` for a status other than 200."""

    def __init__(self, address: str) -> None:
        url = urlsplit(address)
        self._host, self._port = url.hostname or "", url.port or 80
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None

    async def post(self, path: str, body: Mapping[str, Any]) -> Timed:
        """The times of the answer to a request."""
        if self._writer is None or self._reader is None:
            self._reader, self._writer = await asyncio.open_connection(self._host, self._port, limit=1 << 22)
        content = json.dumps(body).encode()
        head = f"POST {path} HTTP/1.1\r\nHost: {self._host}\r\nContent-Type: application/json\r\n"
        begun = time.perf_counter()
        self._writer.write(f"{head}Content-Length: {len(content)}\r\n\r\n".encode() + content)
        headers = await self._reader.readuntil(END)
        if not headers.startswith(b"HTTP/1.1 200"):
            raise RuntimeError(f"answered with {headers.splitlines()[0].decode()}")
        lowered = headers.lower()
        if b"content-length:" in lowered:
            length = int(lowered.split(b"content-length:")[1].split(b"\r\n")[0])
            await self._reader.readexactly(length)
            whole = time.perf_counter() - begun
            return Timed(whole, whole, 1)
        first, events, chunk = 0.0, 0, b""
        while True:
            size = int(await self._reader.readline(), 16)
            chunk = await self._reader.readexactly(size + 2)
            if size == 0:
                return Timed(first, time.perf_counter() - begun, events)
            first = first or time.perf_counter() - begun
            events += chunk.count(b"data: {")

    def close(self) -> None:
        """Close it."""
        if self._writer is not None:
            self._writer.close()


async def asked_by(
    address: str, path: str, clients: int, bodies: Sequence[Mapping[str, Any]]
) -> tuple[list[Timed], float]:
    """The answers to all requests, made by a number of clients at once, and the seconds of all of them."""
    left = iter(bodies)
    found: list[Timed] = []

    async def client() -> None:
        connection = Connection(address)
        try:
            for body in left:
                found.append(await connection.post(path, body))
        finally:
            connection.close()

    begun = time.perf_counter()
    await asyncio.gather(*(client() for _ in range(clients)))
    return found, time.perf_counter() - begun
