"""Opening a session for a caller that may go away."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from onceedit_ray.models.protocol import Step


async def kept_or_closed(opening: Awaitable[Step], close: Callable[[int], object]) -> Step:
    """Await `opening`; if the caller is cancelled meanwhile, `close` the session as soon as it is open."""
    running = asyncio.ensure_future(opening)

    def abandon(done: asyncio.Future[Step]) -> None:
        if not done.cancelled() and done.exception() is None:
            close(done.result().session)

    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        running.add_done_callback(abandon)
        raise
