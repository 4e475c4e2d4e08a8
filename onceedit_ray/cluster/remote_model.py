"""`LanguageModel` for an actor, with recovery: a session survives the actor's restart.

All calls made in one turn of the event loop are sent in one actor call, so a round of many requests costs one call per
model. When an actor dies, its KV caches are lost. The tokens of every session are kept here, so after the restart the
session is prefilled again and the call continues; the caller sees the same tokens.
"""

from __future__ import annotations

import asyncio
import contextvars
import itertools
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from ray.actor import ActorHandle
from ray.exceptions import ActorDiedError, ActorUnavailableError

from onceedit_ray.cluster.calls import detached, result
from onceedit_ray.errors import ModelError, SessionLostError
from onceedit_ray.models.protocol import Reading, Step
from onceedit_ray.models.sampling import GREEDY, Sampling

T = TypeVar("T")
RESTART_SECONDS = 600.0
"""How long to wait for a dead actor. Ray restarts it in about two seconds, plus the time to load its weights."""


@dataclass
class _Session:
    number: int  # the actor's number of the session
    ids: list[int]


@dataclass
class _Call:
    """A call that waits to be sent: method, arguments, and the caller's future. length: most tokens that it decodes."""

    method: str
    arguments: tuple[Any, ...]
    length: int
    answer: asyncio.Future[Any]


class RemoteModel:
    """The sessions of a model actor, as the coordinator uses them.

    Args:
        actor: a `ModelActor` handle. name: used in messages.
    """

    def __init__(self, actor: ActorHandle, name: str) -> None:
        self._actor = actor
        self._name = name
        self._sessions: dict[int, _Session] = {}
        self._numbers = itertools.count(1)
        self._leaving: list[_Call] = []
        self._travelling: set[asyncio.Task[None]] = set()

    async def open(
        self,
        ids: Sequence[int],
        rows: int = 1,
        decode: int = 0,
        threshold: float = 0.0,
        sampling: Sampling = GREEDY,
    ) -> Step:
        """As `LanguageModel.open`; raises `ModelError` if a dead actor does not come back."""
        ids = list(ids)
        step = await self._opened(ids, rows, decode, threshold, sampling)
        return replace(step, session=self._known(step.session, ids + list(step.new_ids[:-1])))

    async def extend(
        self,
        session: int,
        keep: int,
        ids: Sequence[int],
        rows: int = 1,
        decode: int = 0,
        sampling: Sampling = GREEDY,
    ) -> Step:
        """As `LanguageModel.extend`; a session that the actor lost is prefilled again first."""
        known = self._session(session)
        held = known.ids[:keep] + list(ids)
        try:
            step = await self._ask("extend", (known.number, keep, list(ids), rows, decode, sampling), decode)
        except ActorDiedError:
            raise self._gone() from None
        except (ActorUnavailableError, SessionLostError):
            self._session(session)  # raises if it was closed meanwhile: nobody would close a new one
            step = await self._opened(held, rows, decode, 0.0, sampling)
            known.number = step.session
        known.ids = held + list(step.new_ids[:-1])
        return replace(step, session=session)

    async def score(self, ids: Sequence[int]) -> Reading:
        """As `LanguageModel.score`; raises as `open`."""
        reading: Reading = await self._ask_until_back("score", (list(ids),), len(ids))
        return reading

    async def fork(self, session: int) -> int:
        """As `LanguageModel.fork`; a session that the actor lost is prefilled again."""
        known = self._session(session)
        try:
            number = await _kept_or_closed(self._ask("fork", (known.number,), 0), self._release)
        except ActorDiedError:
            raise self._gone() from None
        except (ActorUnavailableError, SessionLostError):
            self._session(session)
            number = (await self._opened(known.ids, 0, 0, 0.0, GREEDY)).session
        return self._known(number, known.ids)

    async def close(self, session: int) -> None:
        """As `LanguageModel.close`; does not wait."""
        known = self._sessions.pop(session, None)
        if known is not None:
            self._release(known.number)

    def _session(self, number: int) -> _Session:
        try:
            return self._sessions[number]
        except KeyError:
            raise SessionLostError(f"{self._name} has no session {number}; open one again") from None

    def _release(self, number: int) -> None:
        """Free one of the actor's sessions; does not wait."""
        detached(self._actor.close, number)

    def _known(self, number: int, ids: Sequence[int]) -> int:
        session = next(self._numbers)
        self._sessions[session] = _Session(number, list(ids))
        return session

    async def _opened(self, ids: list[int], rows: int, decode: int, threshold: float, sampling: Sampling) -> Step:
        """Open a session in the actor; it is closed there if the caller is cancelled meanwhile."""
        opening = self._open(ids, rows, decode, threshold, sampling)
        return await _kept_or_closed(opening, lambda step: self._release(step.session))

    async def _open(self, ids: list[int], rows: int, decode: int, threshold: float, sampling: Sampling) -> Step:
        step: Step = await self._ask_until_back("open", (ids, rows, decode, threshold, sampling), decode)
        return step

    async def _ask_until_back(self, method: str, arguments: tuple[Any, ...], length: int) -> Any:
        """A call that needs no session; it is repeated while the actor restarts."""
        clock = asyncio.get_running_loop()
        deadline = clock.time() + RESTART_SECONDS
        while True:
            try:
                return await self._ask(method, arguments, length)
            except ActorDiedError:
                raise self._gone() from None
            except ActorUnavailableError:
                if clock.time() > deadline:
                    seconds = f"{RESTART_SECONDS:.0f} s"
                    raise ModelError(f"{self._name} did not come back within {seconds}; see its log") from None
                await asyncio.sleep(0.5)

    def _gone(self) -> ModelError:
        return ModelError(f"{self._name} died and has no restarts left; see its log, then add it again")

    # --- calls sent together -----------------------------------------------------------------------------------------

    async def _ask(self, method: str, arguments: tuple[Any, ...], length: int) -> Any:
        """Call the actor, together with all other calls made in this turn of the event loop."""
        loop = asyncio.get_running_loop()
        call = _Call(method, arguments, length, loop.create_future())
        self._leaving.append(call)
        loop.call_soon(self._depart)
        return await call.answer

    def _depart(self) -> None:
        """Send the waiting calls, one actor call for each length, so that none waits for a longer one's decoding."""
        leaving, self._leaving = self._leaving, []
        for length in {call.length for call in leaving}:
            calls = [call for call in leaving if call.length == length]
            journey = asyncio.get_running_loop().create_task(self._travel(calls), context=contextvars.Context())
            self._travelling.add(journey)
            journey.add_done_callback(self._travelling.discard)

    async def _travel(self, calls: Sequence[_Call]) -> None:
        try:
            answers = await result(self._actor.serve.remote([(call.method, call.arguments) for call in calls]))
        except BaseException as error:  # cancellation included: every caller waits for this actor call
            answers = [error] * len(calls)
        for call, answer in zip(calls, answers, strict=True):
            if not call.answer.done():
                if isinstance(answer, asyncio.CancelledError):
                    call.answer.cancel()
                elif isinstance(answer, BaseException):
                    call.answer.set_exception(answer)
                else:
                    call.answer.set_result(answer)


async def _kept_or_closed(opening: Awaitable[T], close: Callable[[T], object]) -> T:
    """Await `opening`; if the caller is cancelled meanwhile, `close` its result as soon as it arrives."""
    running = asyncio.ensure_future(opening)

    def abandon(done: asyncio.Future[T]) -> None:
        if not done.cancelled() and done.exception() is None:
            close(done.result())

    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        running.add_done_callback(abandon)
        raise
