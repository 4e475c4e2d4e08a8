"""Decides which sessions have room in the KV cache of a model, so that the cache stays within a limit.

    call → its session has room for all tokens that the call may add: the call runs
         → there is memory for these tokens: the call runs
         → sessions at rest are preempted, the longest at rest first: the call runs; they are prefilled again later
         → the call waits; calls of sessions that have begun go first, else the order is that of arrival

Each call reserves memory for all tokens that it may add, decoded ones included, so no pass runs out of memory. No call
waits for ever: a running call depends on no other call, and sessions at rest can be preempted, so the first call in the
queue gets its room at the latest when all other sessions are at rest. A session that could not fit even alone is
refused before it comes here.

The alternative is to reserve memory for a whole answer at its beginning. It would need one reservation over the plug-in
and the target together, since a request that holds one and waits for the other could wait for ever; and it would hold
memory for tokens that most answers never reach, and for clients that read slowly.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Collection, Sequence

import torch

from onceedit_ray.errors import ContextLengthError, ModelError
from onceedit_ray.models.passes import Passes
from onceedit_ray.models.session_calls import Call, Session

LEAST_TOKENS = 16
"""Tokens that a session can hold at least; a smaller limit is refused."""
REST_SECONDS = 1.0
"""A session without a call for this long may be preempted: longer than most rests between the calls of an answer."""


class CacheRoom:
    """The sessions that have a place in the cache; used by the thread of a model.

    Args:
        passes: the model's. name: for messages. context: tokens of the model's window.
        limit: bytes of keys and values; None for no limit.

    context: tokens that a session may hold, by window and limit. preempted: number of sessions preempted so far.

    Raises:
        ModelError: not even a short session fits the limit.
    """

    def __init__(
        self,
        passes: Passes,
        name: str,
        context: int,
        limit: int | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.limit = limit
        self.context = context
        self.preempted = 0
        self._passes = passes
        self._name = name
        self._window = context
        self._clock = clock
        self._seated: dict[int, Session] = {}
        if limit is not None:
            self._measure(limit)

    @torch.inference_mode()
    def _measure(self, limit: int) -> None:
        self._passes.measure()
        self._passes.bound(limit)
        token, session = self._passes.token_bytes, self._passes.session_bytes
        longest = (limit - session) // token if token else sys.maxsize if session <= limit else 0
        if longest < min(LEAST_TOKENS, self.context):
            needed = session + LEAST_TOKENS * token
            raise ModelError(
                f"{self._name} has {limit} bytes for keys and values, and a session of {LEAST_TOKENS} tokens takes "
                f"{needed}; raise kv_cache_bytes, or free memory"
            )
        self.context = min(self.context, longest)

    def check(self, tokens: int) -> None:
        """Raise `ContextLengthError` if a session of that many tokens could never be held."""
        if tokens <= self.context:
            return
        if self.context < self._window:
            raise ContextLengthError(
                f"{tokens} tokens do not fit the memory of {self._name}: its {self.limit} bytes for keys and values "
                f"hold {self.context}; shorten the prompt, or raise kv_cache_bytes"
            )
        raise ContextLengthError(
            f"{tokens} tokens do not fit the context of {self.context} tokens of {self._name}; shorten the prompt"
        )

    def admit(self, calls: Sequence[Call]) -> list[Call]:
        """Of the calls that wait, one for each session in the order of arrival, those that may run now; each of their
        sessions has its place.
        """
        going = [call for call in calls if call.entered]
        busy = {call.session.number for call in going}
        waits = False
        for call in sorted((call for call in calls if not call.entered), key=lambda call: call.keep is None):
            if self._has_room(call) or (not waits and self._makes_room(call, busy)):
                going.append(call)
                busy.add(call.session.number)
            else:
                waits = True
        now = self._clock()
        for call in going:
            call.session.used = now
        return going

    def fork(self, source: Session, made: Session) -> None:
        """Copy the state of a session if there is room; otherwise `made` is prefilled when it goes on."""
        made.ids = list(source.ids)
        if source.place >= 0:
            made.place, made.held = self._passes.copy(source.place, source.held)
        if made.place >= 0:
            made.room, made.used = made.held, self._clock()
            self._seated[made.number] = made

    def leave(self, session: Session) -> None:
        """Take a session's place away; the session then holds nothing."""
        if self._seated.pop(session.number, None) is not None:
            self._passes.give_back(session.place)
        session.place, session.held = -1, 0

    def _needed(self, call: Call) -> int:
        """The most positions that the session may have when the call has been answered."""
        return min((call.keep or 0) + len(call.ids) + call.decode, self.context)

    def _has_room(self, call: Call) -> bool:
        session, needed = call.session, self._needed(call)
        if session.place < 0 or not self._passes.holds(session.place, needed):
            return False
        session.room = needed
        return True

    def _makes_room(self, call: Call, busy: Collection[int]) -> bool:
        """Give the session of a call a place; if need be, preempt other sessions for it."""
        session, needed = call.session, self._needed(call)
        lengths = {number: each.room if number in busy else each.held for number, each in self._seated.items()}
        lengths[session.number] = needed
        taken: list[Session] = []
        if self.limit is not None:
            resting = self._resting({*busy, session.number})
            while self._passes.bytes_for(list(lengths.values())) > self.limit:
                if not resting:
                    return False
                taken.append(resting.pop())
                del lengths[taken[-1].number]
        for each in taken:
            self.leave(each)
        self.preempted += len(taken)
        if session.place < 0:
            session.place, session.held = self._passes.take(), 0
            self._seated[session.number] = session
        session.room = needed
        self._passes.fit({self._seated[number].place: length for number, length in lengths.items()})
        return True

    def _resting(self, busy: Collection[int]) -> list[Session]:
        """The sessions that may be preempted, the one that rests longest last."""
        latest = self._clock() - REST_SECONDS
        resting = [each for number, each in self._seated.items() if number not in busy and each.used <= latest]
        return sorted(resting, key=lambda session: -session.used)
