"""The models of a decoder: the targets, and the plug-in with its edits. The decoder decides how to answer a request."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from onceedit_ray.errors import ConfigError
from onceedit_ray.fusion.candidates import CANDIDATES, with_context
from onceedit_ray.fusion.drafter import Drafter
from onceedit_ray.fusion.screen import Screen
from onceedit_ray.fusion.strategies import STRATEGIES, Pair, Strategy
from onceedit_ray.knowledge.facts_at import FactsAt
from onceedit_ray.knowledge.prompt_shapes import plugin_view
from onceedit_ray.knowledge.selection import question_key
from onceedit_ray.models.codec import Codec
from onceedit_ray.models.prompt import Exchange
from onceedit_ray.models.protocol import LanguageModel
from onceedit_ray.reader.view import as_read, asked, fact_line


@dataclass
class Member:
    """A target as the decoder sees it; `pair` is called once, when a strategy first needs the alignment.

    beside: whether it has its own hardware, so that its prefill runs in parallel with the plug-in's.
    """

    name: str
    model: LanguageModel
    codec: Codec
    pair: Callable[[], Pair]
    beside: bool = True
    _strategies: dict[str, Strategy] = field(default_factory=dict)
    _building: threading.Lock = field(default_factory=threading.Lock)

    def strategy(self, name: str) -> Strategy:
        """The named strategy over this target's alignment, built once; safe to call from several threads."""
        with self._building:
            if name not in self._strategies:
                self._strategies[name] = STRATEGIES.get(name)(self.pair())
            return self._strategies[name]

    def is_built(self, name: str) -> bool:
        """Whether `strategy(name)` returns at once."""
        return name in self._strategies


@dataclass(frozen=True)
class View:
    """A prompt of the plug-in. edits: ids of the edits that it contains."""

    text: str
    edits: tuple[str, ...] = ()


@dataclass
class Plugin:
    """An edited plug-in as the decoder sees it.

    view: the prompt view of a plug-in that was trained on its edits. screen: which questions may be about an edit; None
    lets every question through. facts: the edits of a plug-in that reads them; None for a trained plug-in. version: its
    id. index: builds an index of a trained plug-in's edits; None if they are not known.
    """

    model: LanguageModel
    codec: Codec
    view: str
    screen: Screen | None = None
    version: str = ""
    facts: FactsAt | None = None
    index: Callable[[], FactsAt] | None = None
    weights: dict[str, float] = field(default_factory=dict)
    drafters: dict[tuple[str, tuple[Exchange, ...], bool], SharedDrafter] = field(default_factory=dict)
    requests: int = 0
    _idle: asyncio.Event = field(default_factory=asyncio.Event)

    @cached_property
    def live_edits(self) -> FactsAt:
        """An index of the edits, for strategies that put them into a target's prompt.

        Raises:
            ConfigError: the edits of a trained plug-in are not known.
        """
        if self.facts is not None:
            return self.facts
        if self.index is None:
            raise ConfigError(
                f"version '{self.version}' does not say which edits it has, so none can be put into a prompt; "
                "edit again, or choose a strategy that uses the plug-in"
            )
        return self.index()

    def views(self, question: str, turns: Sequence[Exchange] = (), screened: bool = True) -> list[View]:
        """The prompts that the plug-in gets; none if the question is about no edit.

        screened: whether a trained plug-in is called only for edited subjects.
        """
        if self.facts is not None:
            found = self.facts.find(with_context(question, turns), CANDIDATES)
            asked_for = question_key(question)
            # An edit's own prompt asks for that edit, whatever others say of the subject.
            found = [f for f in found if question_key(f.edit.prompt) == asked_for] or found
            return [View(asked([fact_line(f.edit)], as_read(question), turns[-1:]), (f.id,)) for f in found]
        if screened and self.screen is not None and not self.screen.mentions(question):
            return []
        return [View(plugin_view(question, self.view))]

    @contextlib.contextmanager
    def held(self) -> Iterator[Plugin]:
        """Count a request that uses this plug-in until its end, even if the plug-in is replaced meanwhile."""
        self.requests += 1
        self._idle.clear()
        try:
            yield self
        finally:
            self.requests -= 1
            if not self.requests:
                self._idle.set()

    async def idle(self) -> None:
        """Return when no request uses it any more."""
        if self.requests:
            await self._idle.wait()


@dataclass
class SharedDrafter:
    """A drafter in use: the number of its requests, and the task that opens it, which returns the gate weight."""

    drafter: Drafter
    opening: asyncio.Task[float]
    holders: int = 0
