"""The coordinators as a gateway knows them: each request goes to the one that answers the fewest of its requests.

A lost coordinator is left out at once, so its requests continue at another one; a successor is looked up meanwhile.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from ray.actor import ActorHandle
from ray.exceptions import RayActorError
from ray.serve.exceptions import RayServeException

LOG = logging.getLogger(__name__)
PAUSE_SECONDS = 0.25


@dataclass
class Known:
    """A coordinator, and how many requests of this gateway it answers, and has been given."""

    actor: ActorHandle
    running: int = 0
    given: int = 0

    @contextlib.contextmanager
    def used(self) -> Iterator[ActorHandle]:
        """The actor, while it answers one more request."""
        self.running += 1
        self.given += 1
        try:
            yield self.actor
        finally:
            self.running -= 1


class KnownCoordinators:
    """Args:
    find: the coordinators that there are, after one in place of the given one has been started if that has died.
    """

    def __init__(self, find: Callable[[ActorHandle | None], Awaitable[Sequence[ActorHandle]]]) -> None:
        self._find = find
        self._known: list[Known] = []
        self._lost: ActorHandle | None = None
        self._looking: asyncio.Task[Any] | None = None
        self._asking = asyncio.Lock()

    async def least_busy(self) -> Known:
        """Raises the errors of `find` if none is known."""
        return min(await self._all(), key=lambda known: (known.running, known.given))

    async def first(self) -> ActorHandle:
        """The same one at each call, until it is lost; raises as `least_busy`."""
        return (await self._all())[0].actor

    def lose(self, lost: ActorHandle) -> None:
        """It has died: do not choose it any more, and look for its successor."""
        self._lost = lost
        self._known = [known for known in self._known if known.actor != lost]
        if self._known and (self._looking is None or self._looking.done()):
            self._looking = asyncio.get_running_loop().create_task(self._look(lost))

    async def _all(self) -> list[Known]:
        async with self._asking:  # requests that come together look once
            if not self._known:
                self._take(await self._find(self._lost))
            return self._known

    async def _look(self, lost: ActorHandle) -> None:
        """Find the successor of one that is lost while the others answer."""
        while self._known:
            try:
                self._take(await self._find(lost))
            except (RayActorError, RayServeException) as error:
                LOG.warning("no successor yet: %s", " ".join(str(error).split())[:200])
                await asyncio.sleep(PAUSE_SECONDS)
            else:
                return

    def _take(self, actors: Sequence[ActorHandle]) -> None:
        """Those that are known keep their counts and their order; new ones come last."""
        kept = [known for known in self._known if known.actor in actors]
        new = [Known(actor) for actor in actors if all(known.actor != actor for known in kept)]
        self._known = kept + new
