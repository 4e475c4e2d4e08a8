"""A gateway's copy of the facts and of the targets of servers: it gets each change, and is not used when it is old."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from onceedit_ray.cluster import followed
from onceedit_ray.cluster.followed import FactNews, Followed, News, ToldFacts
from onceedit_ray.knowledge.edit import Edit
from onceedit_ray.knowledge.facts_at import FactsAt
from onceedit_ray.knowledge.revision import Change, StoredEdit
from onceedit_ray.serving import followers
from onceedit_ray.serving.followers import NOTHING, Followers

PLACES = ("Australia", "Lyon", "Osaka", "Quito")


def stored(place: str) -> StoredEdit:
    return StoredEdit(f"edit_{place}", Edit(prompt=f"What is {place}?", target_new="a town", subject=place), 1)


def named(facts: FactsAt | None) -> list[str]:
    assert facts is not None
    return [place for place in PLACES if facts.find(f"Tell me about {place}.", 1)]


class State:
    """A coordinator's state in this process."""

    def __init__(self, name: str = "first") -> None:
        self.name = name
        self.followers = Followers(lambda: 0.0)
        self.followers._unknown_until = 0.0
        self.told = ToldFacts()
        self.facts = FactsAt.of([stored("Australia")])
        self.told.replaced(self.followers.changed())
        self.sent: list[FactNews | None] = []
        self.dead = False

    async def news(self, copy: str, coordinator: str, revision: int, facts_at: int) -> News:
        if self.dead:
            raise ConnectionError("it has died")
        known, facts_at = (revision, facts_at) if coordinator == self.name else (NOTHING, NOTHING)
        await self.followers.news(copy, known)
        now = self.followers.revision
        self.sent.append(self.told.since(facts_at, now, self.facts))
        return News(self.name, now, {}, self.sent[-1])

    async def change(self, change: Change) -> None:
        self.facts = self.facts.after(change)
        revision = self.followers.changed()
        self.told.replaced(revision)
        self.told.changed(change, revision)
        await asyncio.wait_for(self.followers.known(), 5)


@pytest.fixture
async def copied() -> AsyncIterator[tuple[State, Followed]]:
    state = State()
    copy = Followed(state.news)
    while copy.news is None:
        await asyncio.sleep(0.01)
    yield state, copy
    assert copy._task is not None
    copy._task.cancel()


async def test_a_change_is_known_when_it_is_finished(copied: tuple[State, Followed]) -> None:
    state, copy = copied
    assert named(copy.facts) == ["Australia"]
    await state.change(Change(1, 2, added=(stored("Lyon"), stored("Osaka"))))
    assert named(copy.facts) == ["Australia", "Lyon", "Osaka"]
    await state.change(Change(2, 3, added=(stored("Quito"),), dropped=(stored("Lyon"), stored("Australia"))))
    assert named(copy.facts) == ["Osaka", "Quito"]
    assert [each.whole is None for each in state.sent if each] == [False, True, True], "only what changed is sent"


async def test_a_version_of_which_nothing_is_known_is_sent_whole(copied: tuple[State, Followed]) -> None:
    state, copy = copied
    state.facts = FactsAt.of([stored("Quito")])
    state.told.replaced(state.followers.changed())
    await asyncio.wait_for(state.followers.known(), 5)
    assert named(copy.facts) == ["Quito"]


async def test_a_copy_is_not_relied_on_when_its_coordinator_is_gone(
    copied: tuple[State, Followed], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(followed, "PAUSE_SECONDS", 0.01)
    state, copy = copied
    state.dead = True
    state.followers.changed()
    while copy.news is not None:
        await asyncio.sleep(0.01)
    assert copy.facts is None
    state.dead, state.name, state.facts = False, "second", FactsAt.of([stored("Lyon")])
    while copy.news is None:
        await asyncio.sleep(0.01)
    assert named(copy.facts) == ["Lyon"], "the successor's"


async def test_a_copy_that_hears_nothing_is_not_relied_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(followed, "LEASE", 0.05)
    state = State()
    copy = Followed(state.news)
    while copy.news is None:
        await asyncio.sleep(0.005)
    await asyncio.sleep(0.1)  # the coordinator holds the question longer
    assert copy.news is None and copy.facts is None
    assert copy._task is not None
    copy._task.cancel()


def test_a_copy_that_is_far_behind_gets_all_edits() -> None:
    told, facts = ToldFacts(), FactsAt.of([stored("Lyon")])
    for revision in range(1, followed.REMEMBERED + 3):
        told.replaced(revision)
        told.changed(Change(0, revision), revision)
    now = followed.REMEMBERED + 2
    behind = told.since(2, now, facts)
    assert behind is not None and behind.whole is None and len(behind.changes) == followed.REMEMBERED
    far = told.since(1, now, facts)
    assert far is not None and far.whole is not None


def test_of_very_many_edits_no_copy_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(followed, "MOST_FACTS", 1)
    facts = FactsAt.of([stored("Lyon"), stored("Osaka")])
    assert ToldFacts().since(NOTHING, 1, facts) is None and ToldFacts().since(NOTHING, 1, None) is None


async def test_a_copy_that_fails_every_time_holds_no_change_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """It asks again and again, and each question lets it rely on what it has; between two it must be forgotten."""
    assert followed.PAUSE_SECONDS > followers.LEASE
    monkeypatch.setattr(followers, "LEASE", 0.2)
    monkeypatch.setattr(followed, "PAUSE_SECONDS", 0.2 * followed.PAUSE_SECONDS / 2.0)

    async def fails(told: News) -> None:
        raise ValueError("it cannot be read")

    state = State()
    state.followers = Followers()
    copy = Followed(state.news)
    monkeypatch.setattr(copy, "_take_up", fails)
    assert copy.news is None
    await asyncio.sleep(0.3)
    state.followers.changed()
    await asyncio.wait_for(state.followers.known(), 10)
    assert copy._task is not None
    copy._task.cancel()
