"""Calls on sessions, which event loops pass to a model's thread. This module knows no network. The future of every call
is set, unless its caller was cancelled.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from onceedit_ray.models.protocol import Step, Top
from onceedit_ray.models.sampling import Sampling


@dataclass
class Session:
    """One session. place: its place in the cache, below 0 while it has none. ids: its tokens."""

    number: int
    place: int = -1
    ids: list[int] = field(default_factory=list)
    held: int = 0  # how many of `ids` the place holds
    room: int = 0  # positions reserved for its present call
    used: float = 0.0  # when it was last in a pass, by the clock of `CacheRoom`


@dataclass
class Call:
    """One call on a session, until it is answered."""

    session: Session
    ids: list[int]
    rows: int
    decode: int
    sampling: Sampling
    answer: asyncio.Future[Step]
    keep: int | None = None  # None opens the session
    threshold: float = 0.0
    feed: list[int] = field(default_factory=list)
    tops: list[Top] = field(default_factory=list)
    new_ids: list[int] = field(default_factory=list)
    new_p: list[float] = field(default_factory=list)
    asked: list[int] = field(default_factory=list)  # a token for each row, whose probability is returned
    asked_p: list[float] = field(default_factory=list)
    weight: float | None = None
    weights: list[float] = field(default_factory=list)
    entered: bool = False  # its tokens have a place in the session
    begun: bool = False  # its first pass is done

    @property
    def wanted(self) -> int:
        """Number of last positions of `feed` whose logits are needed."""
        return 1 if self.begun else max(min(self.rows, len(self.feed)), 1)


@dataclass
class Fork:
    """A request to copy a session."""

    session: Session  # the session to copy
    made: Session
    answer: asyncio.Future[int]


@dataclass
class Release:
    """A request to free a session."""

    session: Session


Answer = tuple[asyncio.Future[Any], object]
"""A call's future, and its result or error."""


def is_settled(item: Call | Fork, answers: Sequence[Answer]) -> bool:
    """Whether a call has its answer, or its caller was cancelled."""
    return item.answer.cancelled() or any(future is item.answer for future, _ in answers)


def deliver(answers: Sequence[Answer]) -> None:
    """Set results in the event loops that wait for them, all results of a loop in one iteration."""
    loops = {id(future.get_loop()): future.get_loop() for future, _ in answers}

    def settle(loop_id: int) -> None:
        for future, value in answers:
            if id(future.get_loop()) == loop_id and not future.done():
                if isinstance(value, Exception):
                    # A future takes no StopIteration, and the others of the batch would then get nothing.
                    future.set_exception(RuntimeError(repr(value)) if isinstance(value, StopIteration) else value)
                else:
                    future.set_result(value)

    for loop_id, loop in loops.items():
        with contextlib.suppress(RuntimeError):  # nothing waits in a closed loop
            loop.call_soon_threadsafe(settle, loop_id)


def future() -> asyncio.Future[Any]:
    """A future of the event loop that is running."""
    return asyncio.get_running_loop().create_future()
