"""Opening a session for a caller that may go away."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

T = TypeVar("T")


async def kept_or_closed(opening: Awaitable[T], close: Callable[[T], object]) -> T:
    """Await `opening`; if the caller is cancelled meanwhile, `close` what it gives as soon as it is there."""
    running = asyncio.ensure_future(opening)

    def abandon(done: asyncio.Future[T]) -> None:
        if not done.cancelled() and done.exception() is None:
            close(done.result())

    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        running.add_done_callback(abandon)
        raise
