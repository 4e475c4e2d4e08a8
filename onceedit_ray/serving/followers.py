"""Keeps copies of a changing state in other processes up to date: a change is finished when every copy knows it.

A process with a copy asks for news again and again (`news`), and says which revision it knows. For `LEASE` seconds
after it has asked, it may use its copy; `known` waits for every copy that may be used. So a copy that lacks a finished
change is never used, and a process that dies or hangs delays a change by `LEASE` seconds at most. It does not depend on
what the state is.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable

LEASE = 2.0
"""Seconds. The copy counts them from before its question, this side from after the question arrived, which is later."""
LONGEST_WAIT = 0.6
"""Seconds after which a question is answered without news, so that the copy asks again."""
NOTHING = -1
"""The revision of a copy that knows nothing."""


class Followers:
    """Args:
    clock: seconds, rising.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.revision = 0
        self._clock = clock
        self._known: dict[str, tuple[int, float]] = {}
        # There may be copies that a predecessor of this object has informed.
        self._unknown_until = clock() + LEASE
        self._changed = asyncio.Event()
        self._asked = asyncio.Event()

    def changed(self) -> int:
        """Count a change of the state; returns its revision. Called in the event loop's thread."""
        self.revision += 1
        self._changed.set()
        self._changed = asyncio.Event()
        return self.revision

    async def news(self, copy: str, known: int) -> None:
        """Return when the state differs from the revision that a copy knows, or after `LONGEST_WAIT` seconds."""
        self._known[copy] = known, self._clock() + LEASE
        self._asked.set()
        self._asked = asyncio.Event()
        if known == self.revision:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._changed.wait(), LONGEST_WAIT)

    async def known(self) -> None:
        """Return when every copy that may still be used knows the present revision."""
        wanted = self.revision
        while True:
            now = self._clock()
            self._known = {copy: (known, until) for copy, (known, until) in self._known.items() if until > now}
            late = [until for known, until in self._known.values() if known < wanted]
            late += [self._unknown_until] if self._unknown_until > now else []
            if not late:
                return
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._asked.wait(), max(late) - now)
