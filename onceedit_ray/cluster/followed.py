"""A gateway's copy of what decides whether a request passes through: the targets that servers have.

The coordinator tells it of each change (`serving.followers`). Without a valid copy the coordinator itself is asked.
"""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

from onceedit_ray.config import ModelConfig
from onceedit_ray.serving.followers import LEASE, NOTHING

LOG = logging.getLogger(__name__)
PAUSE_SECONDS = 0.5
"""After an error, before the coordinator is asked for news again."""


@dataclass(frozen=True)
class News:
    """The state of a coordinator. coordinator: which one. revision: of its state. servers: the targets of servers."""

    coordinator: str
    revision: int
    servers: Mapping[str, ModelConfig]


class Followed:
    """The copy.

    Args:
        ask: asks the coordinator for news, with the name of this copy, the coordinator and the revision that it knows.
    """

    def __init__(self, ask: Callable[[str, str, int], Awaitable[News]]) -> None:
        self._ask = ask
        self._name = uuid.uuid4().hex
        self._news: News | None = None
        self._until = 0.0
        self._task: asyncio.Task[None] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    @property
    def news(self) -> News | None:
        """The copy, if it may be relied on now. It is followed from the first call on."""
        loop = asyncio.get_running_loop()
        if self._loop is not loop:
            self._loop, self._news, self._task = loop, None, loop.create_task(self._follow())
        return self._news if time.monotonic() < self._until else None

    def forget(self) -> None:
        """The coordinator is lost: do not rely on the copy any more."""
        self._until = 0.0

    async def _follow(self) -> None:
        while True:
            known = self._news
            asked = time.monotonic()
            try:
                told = await self._ask(
                    self._name, known.coordinator if known else "", known.revision if known else NOTHING
                )
            except Exception as error:
                self.forget()
                LOG.warning("no news of the coordinator: %s", " ".join(str(error).split())[:200])
                await asyncio.sleep(PAUSE_SECONDS)
                continue
            self._news, self._until = told, asked + LEASE
