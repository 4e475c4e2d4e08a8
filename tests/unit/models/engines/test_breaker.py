"""When calls to a server stop, and when one is tried again."""

from __future__ import annotations

from onceedit_ray.models.engines.breaker import FAILURES, LONGEST, Breaker


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_calls_stop_after_some_failures_and_one_is_tried_after_each_pause() -> None:
    clock = Clock()
    breaker = Breaker(clock)
    for _ in range(FAILURES):
        assert breaker.wait() == 0
        breaker.failed()
    assert breaker.wait() == 1.0
    clock.now += 1.0
    assert breaker.wait() == 0, "one call tells whether the server is back"
    assert breaker.wait() == 1.0, "and only one"
    breaker.failed()
    assert breaker.wait() == 2.0, "the pause doubles"
    for _ in range(20):
        breaker.failed()
    assert breaker.wait() == LONGEST


def test_a_server_that_is_back_is_called_as_before() -> None:
    clock = Clock()
    breaker = Breaker(clock)
    for _ in range(FAILURES + 3):
        breaker.failed()
    breaker.worked()
    assert breaker.wait() == 0
    breaker.failed()
    assert breaker.wait() == 0, "a single failure is no reason to stop"
