"""How long a refused request is told to wait, from how long requests take here. Knows no request."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

LONGEST_SECONDS = 60
SHARE = 0.1
"""Weight of the latest request in the mean."""


class WaitingTime:
    """A queue that exists on paper: whoever is refused is told when the next place that nobody was told of is free.

    Args:
        places: requests under way at once. least: seconds, what is told at least. clock: in seconds.
    """

    def __init__(self, places: int, least: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._places = places
        self._least = least
        self._clock = clock
        self._mean = 0.0
        self._free_at = 0.0

    def took(self, seconds: float) -> None:
        """A request was under way for `seconds`."""
        self._mean = seconds if not self._mean else (1 - SHARE) * self._mean + SHARE * seconds

    def next(self) -> int:
        """Whole seconds until one more may be under way."""
        now = self._clock()
        latest = now + LONGEST_SECONDS
        self._free_at = min(max(now, self._free_at) + self._mean / self._places, latest)
        return max(math.ceil(self._free_at - now), self._least)
