"""An answer of a target that a server has: the server writes, the plug-in reads along, and text is cut and continued.

    the server streams its text → the plug-in reads along in chunks → no contradiction: the server's events, unchanged
    → a contradiction: the stream is closed there, the new answer is written, and the server is asked to continue
      after prompt, kept text and new answer

The server need not return probabilities. The new answer is the plug-in's own text; every other word is the server's.
Where the text contradicts a fact is decided as for the targets that are loaded here (`fusion.contradictions`).
"""

from __future__ import annotations

import contextlib
import time
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from onceedit_ray.config import ModelConfig
from onceedit_ray.fusion.contradictions import ASKED_SURE, CHUNK, MOST_GROWN, Contradiction, Contradictions
from onceedit_ray.fusion.drafter import DraftReader
from onceedit_ray.fusion.read_along import LONGEST_ANSWER
from onceedit_ray.fusion.slots import REACH, Undecided
from onceedit_ray.models.prompt import Prompt

Event = dict[str, Any]
"""An event of a stream of OpenAI's API: a chunk."""
REPLACED = ("id", "created", "object", "model", "system_fingerprint")
"""The fields whose values every event of an answer takes from its first event."""


class Server(Protocol):
    """The server of a target, as `OpenAIEngine` implements it. config: its entry in a run file."""

    config: ModelConfig

    def events(self, path: str, body: Mapping[str, Any]) -> AsyncGenerator[Event]:
        """The events of a streamed answer."""

    async def leave(self) -> None:
        """Close its connections when its answers have ended."""

    async def state(self) -> str:
        """ "" if the server answers, else its error."""

    def continued(self, body: Mapping[str, Any], written: str, left: int | None) -> AsyncGenerator[Event]:
        """The events of the rest of an answer; none at all where the server cannot continue it."""


@dataclass
class EngineAnswer:
    """One answer.

    server: of the target. body: the client's request, for one choice. prompt: its text, for the plug-in. found: the
        contradictions that the plug-in finds. written: the text so far. tokens: how many it has; a new answer counts
        with the plug-in's. finish: why the answer has ended. head: the fields that all its events have.
    """

    server: Server
    body: Mapping[str, Any]
    prompt: Prompt
    found: Contradictions
    written: str = ""
    tokens: int = 0
    finish: str = ""
    _usage: Mapping[str, Any] = field(default_factory=dict)
    head: dict[str, Any] = field(default_factory=dict)
    _cut: bool = False
    _calls: bool = False

    @property
    def untouched(self) -> bool:
        """Whether every word so far is the server's own."""
        return not self.found.corrections

    @property
    def usage(self) -> dict[str, Any]:
        """The token counts: the server's, or for a corrected answer the server's for the last request, divided anew.

        If the server was not asked at all, the prompt counts with the plug-in's tokens of the question.
        """
        if self.untouched and self._usage:
            return dict(self._usage)
        total = int(self._usage.get("total_tokens") or 0)
        if not total:
            total = self.tokens + len(self.found.along.codec.encode_bytes(self.prompt.question.encode()))
        prompt = max(total - self.tokens, 0)
        return {"prompt_tokens": prompt, "completion_tokens": self.tokens, "total_tokens": prompt + self.tokens}

    async def events(self) -> AsyncIterator[Event]:
        """The events of the answer, the last of which has a finish reason; at most one chunk is held back."""
        if not self.prompt.is_chat and (reader := self.found.asking()) is not None:
            yield await self._begin(reader)
            if not self.prompt.continued:
                yield self._ending("stop")
                return
        self.found.avoids = False
        if self.prompt.is_chat and (opening := self.found.opening) is not None:
            self.found.open(opening)
            yield self._said(opening.text.encode())
            self.found.checked = len(self.written.encode())
        self._cut = self.found.corrections > 0
        while not self.finish:
            left = self._left()
            if self._cut and left is not None and left <= 0:
                yield self._ending("length")
                return
            path = "chat/completions" if self.prompt.is_chat else "completions"
            stream = (
                self.server.continued(self.body, self.written, left)
                if self._cut
                else self.server.events(path, self.body)
            )
            self._cut = False
            async with contextlib.aclosing(stream):
                async for event in self._relayed(stream):
                    yield event

    async def _relayed(self, stream: AsyncGenerator[Event]) -> AsyncIterator[Event]:
        """A stream's events, up to its end or to a cut."""
        held: list[Event] = []
        grown = 0
        async for event in stream:
            self._usage = event.get("usage") or self._usage
            if not event.get("choices"):
                continue
            event = self._as_the_first(event)
            self._calls = self._calls or bool((event["choices"][0].get("delta") or {}).get("tool_calls"))
            ended = bool(finish_of(event))
            if not held and not ended and not text_of(event):  # only text is read along, not reasoning
                yield self._kept(event)
                continue
            held.append(event)
            if ended or sum(map(bool, map(text_of, held))) >= CHUNK + grown * REACH:
                found = await self._found(held, ended, waits=grown < MOST_GROWN)
                if isinstance(found, Undecided):
                    grown += 1
                    continue
                async for checked in self._checked(held, found):
                    yield checked
                if self._cut:
                    return
                held, grown = [], 0
        if held or not self.finish:
            found = await self._found(held, ended=True, waits=False)
            assert not isinstance(found, Undecided), "it does not wait"
            async for checked in self._checked(held, found):
                yield checked
            if not self._cut and not self.finish:
                yield self._ending("stop")

    async def _found(self, held: Sequence[Event], ended: bool, waits: bool) -> Contradiction | Undecided | None:
        return await self.found.find(self._with(held), ended, waits)

    def _with(self, held: Sequence[Event]) -> bytes:
        return (self.written + "".join(map(text_of, held))).encode("utf-8", "replace")

    async def _checked(self, held: Sequence[Event], found: Contradiction | None) -> AsyncIterator[Event]:
        """The events that are kept of a chunk, and the new answer if it contradicts a fact."""
        if found is None:
            if self._is_asked() and (reader := self.found.asking(ASKED_SURE)) is not None:
                yield await self._begin(reader)
                self._cut = True
                return
            for event in held:
                yield self._kept(event)
            return
        room = len(self._with(held)[: found.place].decode("utf-8", "ignore")) - len(self.written)
        for event in held:
            text = text_of(event)
            if (text and room <= 0) or event["choices"][0].get("finish_reason"):
                break
            room -= len(text)
            yield self._kept(event if room >= 0 else _with_text(event, text[:room]))
        assert found.due is not None, "a server's text is corrected, not avoided"
        self.found.correct(found)
        yield self._said(found.due.answer)
        self.found.checked = len(self.written.encode())
        self._cut = True

    def _is_asked(self) -> bool:
        """Whether a reply's first chunk does not answer the question; a tool call counts as an answer."""
        return self.prompt.is_chat and not self.written and not self.found.stated and not self._calls

    async def _begin(self, reader: DraftReader) -> Event:
        """The direct answer, at the beginning."""
        answer = await reader.whole(LONGEST_ANSWER)
        self.found.begin(reader.edits)
        event = self._said(answer)
        self.found.checked = len(self.written.encode())
        return event

    def _said(self, answer: bytes) -> Event:
        """An event with text of the plug-in."""
        text = answer.decode("utf-8", "ignore")
        self.written += text
        self.tokens += len(self.found.along.codec.encode_bytes(text.encode()))
        return self._event(text, None)

    def _kept(self, event: Event) -> Event:
        text = text_of(event)
        self.written += text
        self.tokens += bool(text)
        self.finish = event["choices"][0].get("finish_reason") or self.finish
        return event

    def _ending(self, reason: str) -> Event:
        self.finish = reason
        return self._event("", reason)

    def _event(self, text: str, finish: str | None) -> Event:
        chat = self.prompt.is_chat
        if not self.head:
            kind, name = ("chat.completion.chunk", "chatcmpl") if chat else ("text_completion", "cmpl")
            self.head = {"id": f"{name}-{uuid.uuid4().hex}", "object": kind, "created": int(time.time()), "model": ""}
        told = {"delta": {"content": text} if text else {}} if chat else {"text": text}
        return {**self.head, "choices": [{"index": 0, **told, "logprobs": None, "finish_reason": finish}]}

    def _as_the_first(self, event: Event) -> Event:
        """An event with the id and the form of the answer's first event."""
        if not self.head:
            self.head = {key: event[key] for key in REPLACED if key in event}
        choice = event["choices"][0]
        if self.prompt.is_chat and "text" in choice:  # the rest of a chat that is continued as a text
            choice = {**choice, "delta": {"content": choice["text"]}, "logprobs": None}
            del choice["text"]
        elif self.written and (choice.get("delta") or {}).get("role"):  # the answer was opened before
            choice = {**choice, "delta": {key: value for key, value in choice["delta"].items() if key != "role"}}
        rest = event if self.untouched else {key: value for key, value in event.items() if key != "usage"}
        return {**rest, **self.head, "choices": [choice]}

    def _left(self) -> int | None:
        """Tokens that may follow; None if the request sets no limit."""
        limit = self.body.get("max_completion_tokens") or self.body.get("max_tokens")
        return None if limit is None else int(limit) - self.tokens


def finish_of(event: Mapping[str, Any]) -> str:
    """Why an event ends a choice, "" if it does not."""
    found = (choice.get("finish_reason") for choice in event.get("choices") or () if isinstance(choice, dict))
    return next((str(reason) for reason in found if reason), "")


def text_of(event: Mapping[str, Any]) -> str:
    """The text that an event adds to its answer."""
    choice = event["choices"][0]
    return str((choice["delta"] or {}).get("content") or "" if "delta" in choice else choice.get("text") or "")


def _with_text(event: Event, text: str) -> Event:
    choice = event["choices"][0]
    told = {"delta": {**choice["delta"], "content": text}} if "delta" in choice else {"text": text}
    return {**event, "choices": [{**choice, **told, "logprobs": None}]}
