"""The coordinators of a fleet: several share its requests over the same models, and one that dies is replaced.

Every change of the fleet is sent to all of them (`tell`), so a call that makes a change returns when all of them decode
with it. A successor begins with the present state of the fleet, so nothing is sent to it. This module knows neither
models nor versions.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import ray
from ray.actor import ActorHandle
from ray.exceptions import GetTimeoutError, RayActorError, RayError

from onceedit_ray.cluster.calls import awaited, fetch
from onceedit_ray.errors import ProcessLostError

LOG = logging.getLogger(__name__)
ALIVE_SECONDS = 5.0
"""How long a coordinator has to answer before it counts as busy; a death is noticed at once."""
MOST_TRIES = 3
"""How often a call is made in all, if its coordinator dies each time."""


@dataclass
class Place:
    """The place of one coordinator. owner: the name of its sessions in the models; a successor has another one."""

    coordinator: ActorHandle
    owner: str
    reviving: threading.Lock = field(default_factory=threading.Lock)


class Coordinators:
    """Args:
    start: starts the coordinator of a place, by its number and the name of its sessions. close: closes the sessions
        of a name in the models. state: what a coordinator begins with; compared by identity.
    """

    def __init__(
        self, start: Callable[[int, str], ActorHandle], close: Callable[[str], None], state: Callable[[], object]
    ) -> None:
        self._start = start
        self._close = close
        self._state = state
        self.seats: list[Place] = []
        self.stopped = False

    def open(self, number: int) -> None:
        """Start `number` coordinators; raises `RayActorError` if one dies while it starts."""
        for at in range(number):
            owner = uuid.uuid4().hex
            self.seats.append(Place(self._start(at, owner), owner))

    @property
    def handles(self) -> list[ActorHandle]:
        """The actors, of which one may have died."""
        return [seat.coordinator for seat in self.seats]

    def revive(self, lost: ActorHandle) -> None:
        """Start another coordinator in place of `lost`, unless that has been done or `lost` answers.

        The models stay loaded; the sessions that the dead coordinator had in them are closed. Raises `RayActorError` if
        the new coordinator dies while it starts; call this again then.
        """
        at = next((at for at, seat in enumerate(self.seats) if seat.coordinator == lost), None)
        if at is None:
            return
        seat = self.seats[at]
        with seat.reviving:
            if self.stopped or seat.coordinator != lost or _answers(lost):
                return
            LOG.error("a coordinator has died; another one is started")
            ray.kill(lost)  # it may only be unreachable
            self._close(seat.owner)
            while True:
                begun, owner = self._state(), uuid.uuid4().hex
                started = self._start(at, owner)
                if begun is self._state():
                    break
                ray.kill(started)  # another version has gone live meanwhile: nobody may ask this one
            seat.coordinator, seat.owner = started, owner

    async def ask(self, method: str, *args: object, at: int = 0, **named: object) -> Any:
        """The result of a method of the coordinator in a place.

        Raises `ProcessLostError` if the coordinator dies meanwhile; another one has been started then.
        """
        asked = self.seats[at].coordinator
        try:
            return await awaited(getattr(asked, method), *args, **named)
        except RayActorError as error:
            with contextlib.suppress(RayActorError):  # the next call tries again
                await asyncio.to_thread(self.revive, asked)
            raise ProcessLostError(f"the coordinator died ({' '.join(str(error).split())[:200]})") from None

    async def ask_again(self, method: str, *args: object, at: int = 0, **named: object) -> Any:
        """As `ask`, but the successor is asked too, `MOST_TRIES` times in all."""
        for _ in range(MOST_TRIES - 1):
            with contextlib.suppress(ProcessLostError):
                return await self.ask(method, *args, at=at, **named)
        return await self.ask(method, *args, at=at, **named)

    async def tell(self, method: str, *args: object) -> list[Any]:
        """As `ask_again` of all of them at once: the results in the order of the places.

        It returns or raises when all have answered.
        """
        calls = (self.ask_again(method, *args, at=at) for at in range(len(self.seats)))
        found = await asyncio.gather(*calls, return_exceptions=True)
        for each in found:
            if isinstance(each, BaseException):
                raise each
        return found

    def tell_now(self, method: str, *args: object) -> list[Any]:
        """The results of a method of all of them, as a blocking call; raises `RayActorError` if one has died."""
        results: list[Any] = fetch([getattr(each, method).remote(*args) for each in self.handles])
        return results

    def stop(self) -> None:
        """End all of them."""
        self.stopped = True
        for each in self.handles:
            ray.kill(each)


def _answers(coordinator: ActorHandle) -> bool:
    """Whether a coordinator lives; a busy one counts as alive."""
    try:
        ray.get(coordinator.resident_bytes.remote(), timeout=ALIVE_SECONDS)
    except GetTimeoutError:
        return True
    except RayError:
        return False
    return True
