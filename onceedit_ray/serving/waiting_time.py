"""Computes `Retry-After` for refused requests from how long recent requests took."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

LONGEST_SECONDS = 60
SHARE = 0.1
"""Weight of the latest request in the mean."""


class WaitingTime:
    """A virtual queue: each refused request is told the time at which the next place not promised to another is free.

    Args:
        places: requests that run at once. least: the shortest waiting time, in seconds. clock: in seconds.
    """

    def __init__(self, places: int, least: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._places = places
        self._least = least
        self._clock = clock
        self._mean = 0.0
        self._free_at = 0.0

    def took(self, seconds: float) -> None:
        """Record that a request took `seconds`."""
        self._mean = seconds if not self._mean else (1 - SHARE) * self._mean + SHARE * seconds

    def next(self) -> int:
        """Whole seconds until one more request may run."""
        now = self._clock()
        latest = now + LONGEST_SECONDS
        self._free_at = min(max(now, self._free_at) + self._mean / self._places, latest)
        return max(math.ceil(self._free_at - now), self._least)
