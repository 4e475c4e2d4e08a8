"""The waiting time of a refused request follows from recent durations and the number of earlier refusals."""

from __future__ import annotations

import pytest

from onceedit_ray.serving.waiting_time import LONGEST_SECONDS, WaitingTime


class Clock:
    """A clock that the test sets."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_places_are_told_one_after_another() -> None:
    clock = Clock()
    waiting = WaitingTime(places=4, least=1, clock=clock)
    assert waiting.next() == 1, "nothing is known yet"
    for _ in range(50):
        waiting.took(8.0)
    assert [waiting.next() for _ in range(5)] == [2, 4, 6, 8, 10], "a place is free every 8 / 4 seconds"
    clock.now += 5
    assert waiting.next() == 7
    clock.now += 1000
    assert waiting.next() == 2


def test_the_mean_follows_the_load_and_the_wait_has_bounds() -> None:
    waiting = WaitingTime(places=2, least=3, clock=Clock())
    waiting.took(0.001)
    assert waiting.next() == 3
    for _ in range(100):
        waiting.took(10.0)
    assert waiting.next() == pytest.approx(5, abs=1)
    assert [waiting.next() for _ in range(100)][-1] == LONGEST_SECONDS
