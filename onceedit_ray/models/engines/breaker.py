"""Stops calls to a server that does not answer: for a second, then for twice as long after each further failure.

Meanwhile requests for its model are refused at once, and no other model is affected.
"""

from __future__ import annotations

import time
from collections.abc import Callable

FAILURES = 3
"""Number of failures in a row after which calls stop."""
SHORTEST, LONGEST = 1.0, 30.0
"""Seconds of the first and of the longest pause."""


class Breaker:
    """Args:
    clock: seconds, rising.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._failures = 0
        self._next = 0.0

    def wait(self) -> float:
        """Seconds until the next call is allowed; 0 if one is allowed now. After a pause only one call is allowed: it
        tells whether the server is back, and until it does, the others are refused."""
        now = self._clock()
        if self._failures < FAILURES:
            return 0.0
        if now < self._next:
            return self._next - now
        self._next = now + self._pause()
        return 0.0

    def worked(self) -> None:
        """The server has answered."""
        self._failures = 0

    def failed(self) -> None:
        """The server has not answered."""
        self._failures += 1
        if self._failures >= FAILURES:
            self._next = self._clock() + self._pause()

    def _pause(self) -> float:
        return min(SHORTEST * 2.0 ** min(self._failures - FAILURES, 16), LONGEST)
