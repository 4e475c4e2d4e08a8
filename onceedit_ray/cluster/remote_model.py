"""`LanguageModel` for an actor, with recovery: a session survives the actor's restart.

All calls made in one turn of the event loop are sent in one actor call, so a round of many requests costs one call per
model. When an actor dies, its KV caches are lost. The tokens of every session are kept here, so after the restart the
session is prefilled again and the call continues; the caller sees the same tokens.
"""

from __future__ import annotations

import asyncio
import contextvars
import itertools
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ray.actor import ActorHandle
from ray.exceptions import ActorDiedError, ActorUnavailableError

from onceedit_ray.cluster.calls import detached, result
from onceedit_ray.cluster.model_actor import Later
from onceedit_ray.errors import ModelError, SessionLostError
from onceedit_ray.models.protocol import Reading, Step
from onceedit_ray.models.sampling import GREEDY, Sampling

RESTART_SECONDS = 600.0
"""How long to wait for a dead actor. Ray restarts it in about two seconds, plus the time to load its weights."""


@dataclass
class _Session:
    number: int  # the actor's number of the session
    ids: list[int]


@dataclass
class _Call:
    """A call that waits to be sent: method, arguments, and its future answer. length: most tokens that it decodes.

    left: whether its caller has gone. ticket: of the actor's, if the answer comes later.
    """

    method: str
    arguments: tuple[Any, ...]
    length: int
    answer: asyncio.Future[Any]
    left: bool = False
    ticket: str = ""


class RemoteModel:
    """The sessions of a model actor, as the coordinator uses them.

    Args:
        actor: a `ModelActor` handle. name: used in messages. owner: whose sessions these are, in the actor.
    """

    def __init__(self, actor: ActorHandle, name: str, owner: str = "") -> None:
        self._actor = actor
        self._owner = owner
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
        step = await self._open(ids, rows, decode, threshold, sampling)
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
            step = await self._open(held, rows, decode, 0.0, sampling)
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
            number = await self._ask("fork", (known.number,), 0)
        except ActorDiedError:
            raise self._gone() from None
        except (ActorUnavailableError, SessionLostError):
            self._session(session)
            number = (await self._open(known.ids, 0, 0, 0.0, GREEDY)).session
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
        """Call the actor, together with all other calls made in this turn of the event loop.

        If the caller is cancelled meanwhile, the call gives back what it waits for, and a session that it opened.
        """
        loop = asyncio.get_running_loop()
        call = _Call(method, arguments, length, loop.create_future())
        self._leaving.append(call)
        loop.call_soon(self._depart)
        try:
            return await asyncio.shield(call.answer)
        except asyncio.CancelledError:
            if not call.answer.cancelled():
                self._leave(call)
            raise

    def _leave(self, call: _Call) -> None:
        call.left = True
        if call.ticket:
            detached(self._actor.abandon, call.ticket)

        def close(done: asyncio.Future[Any]) -> None:
            if not done.cancelled() and done.exception() is None and call.method in ("open", "fork"):
                opened = done.result()
                self._release(opened.session if isinstance(opened, Step) else opened)

        call.answer.add_done_callback(close)

    def _depart(self) -> None:
        """Send the waiting calls, one actor call for each length, so that none waits for a longer one's decoding."""
        leaving, self._leaving = self._leaving, []
        for length in {call.length for call in leaving}:
            calls = [call for call in leaving if call.length == length]
            self._start(self._travel(calls))

    async def _travel(self, calls: Sequence[_Call]) -> None:
        try:
            asked = [(call.method, call.arguments) for call in calls]
            answers = await result(self._actor.serve.remote(asked, self._owner))
        except BaseException as error:  # cancellation included: every caller waits for this actor call
            answers = [error] * len(calls)
        for call, answer in zip(calls, answers, strict=True):
            if isinstance(answer, Later):
                self._start(self._fetch(call, answer.ticket))
            else:
                _settle(call, answer)

    async def _fetch(self, call: _Call, ticket: str) -> None:
        """Bring the answer of a call that takes longer, by a call of its own."""
        call.ticket = ticket
        if call.left:
            detached(self._actor.abandon, ticket)
            call.answer.cancel()
            return
        try:
            answer = await result(self._actor.rest.remote(ticket))
        except BaseException as error:
            answer = error
        _settle(call, ActorUnavailableError("it has been restarted", None) if answer is None else answer)

    def _start(self, journey: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(journey, context=contextvars.Context())
        self._travelling.add(task)
        task.add_done_callback(self._travelling.discard)


def _settle(call: _Call, answer: Any) -> None:
    if call.answer.done():
        return
    if isinstance(answer, asyncio.CancelledError):
        call.answer.cancel()
    elif isinstance(answer, BaseException):
        call.answer.set_exception(answer)
    else:
        call.answer.set_result(answer)
