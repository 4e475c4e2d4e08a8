"""`LanguageModel` over an actor, with recovery: a session outlives the actor's restart.

An actor that dies takes its KV caches with it. The tokens of every session are known here, so after the restart the
session is prefilled again and the call goes on; the caller sees the same tokens.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace

from ray.actor import ActorHandle
from ray.exceptions import ActorDiedError, ActorUnavailableError

from onceedit_ray.cluster.results import result
from onceedit_ray.errors import ModelError, SessionLostError
from onceedit_ray.models.opening import kept_or_closed
from onceedit_ray.models.protocol import Step

RESTART_SECONDS = 600.0
"""How long a dead actor is waited for. Ray restarts one in about two seconds, plus the time to load its weights."""


@dataclass
class _Session:
    number: int  # the actor's own number for it
    ids: list[int]


class RemoteModel:
    """A model actor's sessions, seen from the coordinator.

    Args:
        actor: a `ModelActor` handle. name: for messages.
    """

    def __init__(self, actor: ActorHandle, name: str) -> None:
        self._actor = actor
        self._name = name
        self._sessions: dict[int, _Session] = {}
        self._numbers = itertools.count(1)

    async def open(self, ids: Sequence[int], rows: int = 1, decode: int = 0, threshold: float = 0.0) -> Step:
        """As `LanguageModel.open`; raises `ModelError` if a dead actor does not come back."""
        ids = list(ids)
        step = await kept_or_closed(self._open(ids, rows, decode, threshold), self._actor.close.remote)
        number = next(self._numbers)
        self._sessions[number] = _Session(step.session, ids + list(step.new_ids[:-1]))
        return replace(step, session=number)

    async def extend(self, session: int, keep: int, ids: Sequence[int], rows: int = 1, decode: int = 0) -> Step:
        """As `LanguageModel.extend`; a session the actor lost is prefilled again first."""
        known = self._sessions[session]
        held = known.ids[:keep] + list(ids)
        try:
            step = await result(self._actor.extend.remote(known.number, keep, list(ids), rows, decode))
        except ActorDiedError:
            raise self._gone() from None
        except (ActorUnavailableError, SessionLostError):
            step = await self._open(held, rows, decode, 0.0)
            known.number = step.session
        known.ids = held + list(step.new_ids[:-1])
        return replace(step, session=session)

    async def close(self, session: int) -> None:
        """As `LanguageModel.close`; does not wait."""
        known = self._sessions.pop(session, None)
        if known is not None:
            self._actor.close.remote(known.number)

    async def _open(self, ids: list[int], rows: int, decode: int, threshold: float) -> Step:
        clock = asyncio.get_running_loop()
        deadline = clock.time() + RESTART_SECONDS
        while True:
            try:
                return await result(self._actor.open.remote(ids, rows, decode, threshold))
            except ActorDiedError:
                raise self._gone() from None
            except ActorUnavailableError:
                if clock.time() > deadline:
                    seconds = f"{RESTART_SECONDS:.0f} s"
                    raise ModelError(f"{self._name} did not come back within {seconds}; see its log") from None
                await asyncio.sleep(0.5)

    def _gone(self) -> ModelError:
        return ModelError(f"{self._name} died and has no restarts left; see its log, then add it again")
