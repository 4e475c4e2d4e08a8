"""Who takes part in decoding: the targets, and the edited plug-in that requests hold while they run."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from onceedit_ray.fusion.drafter import Drafter
from onceedit_ray.fusion.screen import Screen
from onceedit_ray.fusion.strategies import STRATEGIES, Pair, Strategy
from onceedit_ray.models.codec import Codec
from onceedit_ray.models.protocol import LanguageModel


@dataclass
class SharedDrafter:
    """A drafter in use: how many requests hold it, and its opening, which gives the gate weight."""

    drafter: Drafter
    opening: asyncio.Task[float]
    holders: int = 0


@dataclass
class Member:
    """A target as the decoder sees it; `pair` is called once, when a strategy first needs the alignment.

    beside: whether it has hardware of its own, so that its prefill runs beside the plug-in's and not instead of it.
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


@dataclass
class Plugin:
    """An edited plug-in as the decoder sees it.

    view: its prompt view. screen: the edited subjects; a question that mentions none is not put to it. None puts every
    question to it. version: its id.
    """

    model: LanguageModel
    codec: Codec
    view: str
    screen: Screen | None = None
    version: str = ""
    weights: dict[str, float] = field(default_factory=dict)
    drafters: dict[tuple[str, bool], SharedDrafter] = field(default_factory=dict)
    requests: int = 0
    _idle: asyncio.Event = field(default_factory=asyncio.Event)

    @contextlib.contextmanager
    def held(self) -> Iterator[Plugin]:
        """Counts a request that ends with this plug-in, whatever replaces it meanwhile."""
        self.requests += 1
        self._idle.clear()
        try:
            yield self
        finally:
            self.requests -= 1
            if not self.requests:
                self._idle.set()

    def mentions(self, question: str) -> bool:
        """Whether the screen lets a question through to the gate."""
        return self.screen is None or self.screen.mentions(question)

    async def idle(self) -> None:
        """Returns once no request holds it: at once, or when the last one has ended."""
        if self.requests:
            await self._idle.wait()
