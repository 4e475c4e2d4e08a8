"""Asks the models a question: each model answers without the edits and with them, as streams.

This file does not use the page.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from onceedit_ray.playground.api_client import AnswerEnd, ApiClient, CompletionQuery, RequestError
from onceedit_ray.playground.tab_keys import TabKeys

EVERY_MODEL = "*"
State = Literal["waiting", "writing", "done", "stopped"]
Verdict = Literal["changed", "same"]


@dataclass
class ModelAnswer:
    """One model's answer, as far as it has arrived."""

    text: str = ""
    state: State = "waiting"
    end: AnswerEnd | None = None

    @property
    def busy(self) -> bool:
        """Whether more text may arrive."""
        return self.state in ("waiting", "writing")

    @property
    def shown(self) -> str:
        """The text to show."""
        if self.text.strip():
            return self.text.strip()
        return {"done": "(no answer: it ended at once)", "stopped": "(stopped)"}.get(self.state, "")

    @property
    def cut(self) -> bool:
        """Whether it ended because it reached the token limit."""
        return self.end is not None and self.end.finish_reason == "length"

    @property
    def gate(self) -> str:
        """The decision of the gate, in words; "" if there was none."""
        if self.end is None or self.end.weight is None:
            return ""
        if not self.end.alone:
            return "Gate open: the edit speaks"
        return "Gate closed: no edited subject" if self.end.weight == 0 else "Gate closed: not about an edit"


@dataclass
class Comparison:
    """One model's two answers: `before` without any edit, `after` with all of them."""

    model: str
    before: ModelAnswer = field(default_factory=ModelAnswer)
    after: ModelAnswer = field(default_factory=ModelAnswer)

    @property
    def verdict(self) -> Verdict | None:
        """Whether the edits changed the answer; None until both have ended."""
        if self.before.state != "done" or self.after.state != "done":
            return None
        return "same" if self.before.text.strip() == self.after.text.strip() else "changed"


class Question:
    """The current question, or the last one.

    Attributes:
        models: the targets' names, as they were last read. rows: the answers.

    Args:
        api: the client of the server. keys: the visitor's keys. on_rows: called when `rows` has been replaced.
            on_answer: called with a row whenever one of its answers has changed.
    """

    def __init__(
        self,
        api: ApiClient,
        keys: TabKeys,
        on_rows: Callable[[], None],
        on_answer: Callable[[Comparison], None],
    ) -> None:
        self.models: list[str] = []
        self.rows: list[Comparison] = []
        self._api = api
        self._keys = keys
        self._on_rows = on_rows
        self._on_answer = on_answer
        self._running: asyncio.Future[None] | None = None

    @property
    def busy(self) -> bool:
        """Whether answers are being written."""
        return self._running is not None

    async def read_models(self) -> None:
        """Read the list of models; raises `RequestError`."""
        self.models = await self._api.models(self._keys.asking)

    async def ask(self, query: CompletionQuery) -> bool:
        """Ask and wait until every answer has ended; stops an older question first.

        Returns False if this question was stopped. Raises `RequestError`.
        """
        self.stop()
        running = self._running = asyncio.ensure_future(self._answered(query))
        try:
            await asyncio.wait([running])
        finally:
            running.cancel()  # has no effect if it has ended
            if self._running is running:
                self._running = None
        if running.cancelled():
            return False
        running.result()
        return True

    def stop(self) -> None:
        """Stop every answer."""
        if self._running is not None:
            self._running.cancel()
            self._running = None

    @property
    def summary(self) -> str:
        """The result in words, for screen readers."""
        changed = [row.model for row in self.rows if row.verdict == "changed"]
        return f"Answered. The edit changed {', '.join(changed)}." if changed else "Answered, as before any edit."

    async def _answered(self, query: CompletionQuery) -> None:
        await self.read_models()  # a model may have been added since the page was opened
        rows = self.rows = [Comparison(name) for name in self.models if query.model in (EVERY_MODEL, name)]
        self._on_rows()
        if not rows:
            raise RequestError(f"the model '{query.model}' is not served any more; choose another")
        sides = (self._listen(query, rows, "before"), self._listen(query, rows, "after"))
        for failure in await asyncio.gather(*sides, return_exceptions=True):
            if failure is not None:
                raise failure

    async def _listen(self, query: CompletionQuery, rows: list[Comparison], side: Literal["before", "after"]) -> None:
        pieces = self._api.answers(query, side == "before", self._keys.asking)
        try:
            async with contextlib.aclosing(pieces):
                async for piece in pieces:
                    if piece.index >= len(rows):
                        continue  # the model was added after the models were listed
                    answer: ModelAnswer = getattr(rows[piece.index], side)
                    answer.text += piece.text
                    answer.end = piece.end
                    answer.state = "writing" if piece.end is None else "done"
                    self._on_answer(rows[piece.index])
            if any(getattr(row, side).busy for row in rows):
                raise RequestError("the connection was lost before the answer ended; ask again")
        finally:
            for row in rows:
                if getattr(row, side).busy:
                    getattr(row, side).state = "stopped"
                    self._on_answer(row)
