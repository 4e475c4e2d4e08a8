"""Copies in other processes: a change is finished when every copy that may be used knows it."""

from __future__ import annotations

import asyncio

import pytest

from onceedit_ray.serving import followers
from onceedit_ray.serving.followers import LEASE, NOTHING, Followers


class Clock:
    """Seconds that pass only when a test says so."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def started() -> tuple[Followers, Clock]:
    """Followers of a state whose predecessor's copies are out of date."""
    clock = Clock()
    own = Followers(clock)
    clock.now += LEASE
    return own, clock


async def test_without_copies_a_change_is_known_at_once() -> None:
    own, _ = started()
    own.changed()
    await asyncio.wait_for(own.known(), 1)


async def test_a_change_waits_for_a_copy_that_does_not_know_it() -> None:
    own, _ = started()
    asking = asyncio.ensure_future(own.news("copy", 0))
    await asyncio.sleep(0)
    own.changed()
    await asyncio.wait_for(asking, 1)
    known = asyncio.ensure_future(own.known())
    await asyncio.sleep(0.02)
    assert not known.done(), "the copy has been told, and has not said that it knows"
    again = asyncio.ensure_future(own.news("copy", 1))
    await asyncio.wait_for(known, 1)
    assert not again.done(), "and waits for what comes next"
    again.cancel()


async def test_a_copy_that_is_silent_is_waited_for_as_long_as_it_may_be_relied_on() -> None:
    own, clock = started()
    await own.news("dead", NOTHING)
    own.changed()
    known = asyncio.ensure_future(own.known())
    await asyncio.sleep(0.02)
    assert not known.done()
    clock.now += LEASE
    other = asyncio.ensure_future(own.news("other", 1))
    await asyncio.wait_for(known, 1)
    other.cancel()


async def test_after_a_predecessor_its_copies_are_waited_for() -> None:
    clock = Clock()
    own = Followers(clock)
    own.changed()
    known = asyncio.ensure_future(own.known())
    await asyncio.sleep(0.02)
    assert not known.done()
    known.cancel()


async def test_a_question_without_news_is_answered_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    own, _ = started()
    with monkeypatch.context() as patch:
        patch.setattr(followers, "LONGEST_WAIT", 0.02)
        await asyncio.wait_for(own.news("copy", 0), 1)
    assert followers.LONGEST_WAIT < LEASE, "or a copy would be out of date between two questions"
