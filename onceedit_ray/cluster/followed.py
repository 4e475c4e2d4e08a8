"""A gateway's copy of the data that decide whether a request passes through: the targets of servers, and the facts.

The coordinator sends each change (`serving.followers`), and of the facts only what has changed. Without a valid copy,
and with very many edits, the gateway asks the coordinator itself.
"""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

from onceedit_ray.config import ModelConfig
from onceedit_ray.knowledge.facts_at import FactsAt
from onceedit_ray.knowledge.revision import Change, StoredEdit
from onceedit_ray.serving.followers import LEASE, NOTHING

LOG = logging.getLogger(__name__)
PAUSE_SECONDS = LEASE + 0.5
"""Seconds after an error before the coordinator is asked for news again. The coordinator waits for every copy that has
asked, so it must forget a copy that fails every time before that copy asks again.
"""
MOST_FACTS = 50_000
"""Number of edits up to which each gateway has a copy of their index: about 3 KB an edit."""
REMEMBERED = 64
"""Number of changes that are kept for copies that are behind."""
AT_ONCE = 20
"""Number of edits that are taken up in the event loop; more are taken up in a thread."""


@dataclass(frozen=True)
class FactNews:
    """How to update a copy of the facts. changes: to apply to the copy, in order. whole: all edits, which replace the
    copy.
    """

    changes: tuple[Change, ...] = ()
    whole: tuple[StoredEdit, ...] | None = None

    def taken_up(self, facts: FactsAt | None) -> FactsAt:
        """The copy after the news; the copy before must not be used any more."""
        if self.whole is not None or facts is None:
            return FactsAt.of(self.whole or ())
        for change in self.changes:
            following = facts.after(change)
            facts.leave()
            facts = following
        return facts

    @property
    def edits(self) -> int:
        """How many edits are taken up or dropped."""
        return len(self.whole or ()) + sum(len(change.added) + len(change.dropped) for change in self.changes)


@dataclass(frozen=True)
class News:
    """The state of a coordinator.

    coordinator: which one. revision: of its state. servers: the targets of servers. facts: None if no copy is kept.
    """

    coordinator: str
    revision: int
    servers: Mapping[str, ModelConfig]
    facts: FactNews | None = None


class ToldFacts:
    """The coordinator's memory of how its facts changed."""

    def __init__(self) -> None:
        self._changes: deque[tuple[int, Change | None]] = deque(maxlen=REMEMBERED)
        self._complete_from = NOTHING

    def replaced(self, revision: int) -> None:
        """Another version has taken over, and its changes are not known."""
        self._note(revision, None)

    def changed(self, change: Change, revision: int) -> None:
        """Record the changes of the version that took over at a revision, in place of those recorded before."""
        self._changes.pop()
        self._note(revision, change)

    def _note(self, revision: int, change: Change | None) -> None:
        if len(self._changes) == REMEMBERED:
            self._complete_from = self._changes[0][0]
        self._changes.append((revision, change))

    def since(self, known: int, now: int, facts: FactsAt | None) -> FactNews | None:
        """The news for a copy of a revision; None if no copy is kept of these facts."""
        if facts is None or len(facts) > MOST_FACTS:
            return None
        later = [change for revision, change in self._changes if known < revision <= now]
        changes = tuple(change for change in later if change is not None)
        if known == NOTHING or known < self._complete_from or len(changes) < len(later):
            return FactNews(whole=tuple(StoredEdit(id, edit, 0) for id, edit in facts.edits().items()))
        return FactNews(changes)


class Followed:
    """The copy.

    Args:
        ask: asks the coordinator for news, with the name of this copy, the coordinator that it follows, and the
            revisions of its state and of its facts that it knows.
    """

    def __init__(self, ask: Callable[[str, str, int, int], Awaitable[News]]) -> None:
        self._ask = ask
        self._name = uuid.uuid4().hex
        self._news: News | None = None
        self._facts: FactsAt | None = None
        self._until = 0.0
        self._task: asyncio.Task[None] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    @property
    def news(self) -> News | None:
        """The copy, if it may be relied on now. It is followed from the first call on."""
        loop = asyncio.get_running_loop()
        if self._loop is not loop:
            self.forget()
            self._news = self._facts = None
            self._loop, self._task = loop, loop.create_task(self._follow())
        return self._news if time.monotonic() < self._until else None

    @property
    def facts(self) -> FactsAt | None:
        """The facts, if there is a copy of them that may be relied on now."""
        return None if self.news is None else self._facts

    def forget(self) -> None:
        """The coordinator is lost: do not rely on the copy any more."""
        self._until = 0.0

    async def _follow(self) -> None:
        while True:
            known = self._news
            seen = (known.coordinator, known.revision) if known else ("", NOTHING)
            facts_at = seen[1] if self._facts is not None else NOTHING
            asked = time.monotonic()
            try:
                told = await self._ask(self._name, *seen, facts_at)
                await self._take_up(told)
            except Exception as error:
                self.forget()
                self._news = self._facts = None
                LOG.warning("no news of the coordinator: %s", " ".join(str(error).split())[:200])
                await asyncio.sleep(PAUSE_SECONDS)
                continue
            self._until = asked + LEASE

    async def _take_up(self, told: News) -> None:
        facts = None
        if told.facts is not None and told.facts.edits > AT_ONCE:
            if self._facts is not None:
                self.forget()  # the copy changes in another thread meanwhile
            facts = await asyncio.to_thread(told.facts.taken_up, self._facts)
        elif told.facts is not None:
            facts = told.facts.taken_up(self._facts)
        self._news, self._facts = told, facts
