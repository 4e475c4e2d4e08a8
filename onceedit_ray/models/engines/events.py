"""Server-sent events, as OpenAI's API streams them."""

from __future__ import annotations

import json
from collections.abc import AsyncIterable, AsyncIterator
from typing import Any

DONE = b"[DONE]"
LARGEST = 1 << 24
"""Most bytes of one event."""


async def blocks(data: AsyncIterable[bytes]) -> AsyncIterator[bytes]:
    """The events of a stream, each without the blank line that ends it; raises `ValueError` for one without an end."""
    held = b""
    async for part in data:
        held = (held + part).replace(b"\r\n", b"\n")
        *whole, held = held.split(b"\n\n")
        for block in whole:
            yield block
        if len(held) > LARGEST:
            raise ValueError(f"an event of more than {LARGEST} bytes")
    if held.strip():
        yield held


def data_of(block: bytes) -> bytes:
    """The data of an event, b"" for a comment."""
    lines = (line[5:].lstrip() for line in block.split(b"\n") if line.startswith(b"data:"))
    return b"\n".join(lines)


def parsed(data: bytes) -> dict[str, Any] | None:
    """An event's data as an object; None if the data is not an object."""
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None
