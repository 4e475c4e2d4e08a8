"""`selective`: the target writes its own answer, and is fused with the plug-in only where a fact's answer is due.

    the target writes a chunk alone → the plug-in reads along → no slot contradicts it: the chunk is the target's own
    → a slot contradicts it: the text is cut there, eq. 8 fuses the answer's tokens, the target continues after it

Slots and contradictions are found in the text (`fusion.contradictions`); this module is about the target's tokens. If
the request asks for a fact (the gate at its end), a completion has a slot at its beginning; a reply has one there if
its first chunk shows none. The answer is then written at the beginning, as in `draft`.
Without a contradiction every token is the target's own, bit for bit.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, replace

from onceedit_ray.fusion.contradictions import CHUNK, Contradictions
from onceedit_ray.fusion.drafter import DraftReader
from onceedit_ray.fusion.read_along import DueAnswer, ReadAlong, Slot
from onceedit_ray.fusion.retokenise import LOOKAHEAD, read_draft
from onceedit_ray.fusion.speculative import SpeculativeAnswer
from onceedit_ray.fusion.strategies import Strategy
from onceedit_ray.models.protocol import Row, Step

Chunk = list[tuple[int, Row | None, float | None]]
"""Tokens of a chunk, each with its distribution and probability if a trace keeps them."""


@dataclass
class SelectiveAnswer:
    """One target's answer.

    answer: the target's side. found: the contradictions that the plug-in finds. strategy: fuses at a slot.
        draft_tokens: of the direct answer's drafts. in_chat: whether the target replies in sentences, in which the
        answer may come later. goes_on: whether the target continues after an answer at the beginning.
    """

    answer: SpeculativeAnswer
    found: Contradictions
    strategy: Strategy
    draft_tokens: int
    in_chat: bool
    goes_on: bool

    @property
    def untouched(self) -> bool:
        """Whether every token so far is the target's own."""
        return not self.found.corrections

    async def pieces(self) -> AsyncIterator[list[int]]:
        """The answer's tokens, piece by piece; at most one chunk is held back."""
        if not self.in_chat and (reader := self.found.asking()) is not None:
            async for ids in self._from_the_beginning(reader):
                yield ids
            if not self.goes_on:
                return
        while not self.answer.done:
            first = not self.answer.ids
            chunk = await self._chunk()
            if not chunk:
                return
            kept, due, slot = await self._read(chunk)
            if first and due is None and not self.found.opened and (reader := self.found.asking()) is not None:
                async for ids in self._from_the_beginning(reader):
                    yield ids
                continue
            before = len(self.answer.ids)
            self._take(chunk[:kept])
            if due is not None and slot is not None:
                await self._write(due, slot)
            if len(self.answer.ids) > before:
                yield self.answer.ids[before:]
            elif due is None:
                return

    async def _chunk(self) -> Chunk:
        """The target's next tokens, not yet added to the answer."""
        answer = self.answer
        asked = min(answer.budget - len(answer.ids), CHUNK)
        rows = int(answer.trace.wanted)
        if answer.session is None:
            step = await answer.model.open(answer.prompt_ids, rows, decode=asked, sampling=answer.sampling)
            answer.session = step.session
        else:
            held = len(answer.prompt_ids) + len(answer.ids) - 1
            last = answer.ids[-1:] or answer.prompt_ids[-1:]
            step = await answer.model.extend(answer.session, held, last, rows, decode=asked, sampling=answer.sampling)
        answer.passes += len(step.new_ids)
        return _with_rows(step)

    async def _read(self, chunk: Chunk) -> tuple[int, DueAnswer | None, Slot | None]:
        """How many of a chunk's tokens are kept, and the answer that is due after them."""
        codec = self.answer.codec
        new = [token for token, _, _ in chunk if token not in codec.end_ids]
        text = codec.bytes_of([*self.answer.ids, *new])
        contradiction = await self.found.find(text, ended=len(new) < len(chunk))
        if contradiction is None:
            return len(chunk), None, None
        slot, due = contradiction
        kept, end = 0, len(codec.bytes_of(self.answer.ids))
        for token in new:
            if end + len(codec.surface(token)) > slot.offset:
                break
            end += len(codec.surface(token))
            kept += 1
        lead = text[end : slot.offset]
        if lead:
            due = replace(due, answer=lead + due.answer)
        return kept, due, slot

    async def _from_the_beginning(self, reader: DraftReader) -> AsyncIterator[list[int]]:
        """The direct answer, fused and verified from the first token as in `draft`."""
        answer = self.answer
        await answer.aclose()
        self.found.begin(reader.edits)
        async for ids in answer.fused(reader, self.strategy, reader.weight, self.draft_tokens):
            if self.goes_on and answer.ended:
                answer.ids.pop()
                del answer.trace.chances[len(answer.ids) :]
                ids = ids[:-1]
                self.found.checked = len(answer.codec.bytes_of(answer.ids))
                if ids:
                    yield ids
                return
            yield ids

    def _take(self, chunk: Chunk) -> None:
        for token, row, p in chunk:
            self.answer.ids.append(token)
            if row is not None:
                self.answer.trace.add(token, *row, p)

    async def _write(self, due: DueAnswer, slot: Slot) -> None:
        """Write an answer after the kept tokens: the target reads it in one pass, and each position is fused."""
        answer, codec = self.answer, self.answer.codec
        tokens = list(codec.encode_bytes(due.answer))[: answer.budget - len(answer.ids)]
        self.found.correct(due)
        if not tokens or answer.session is None:
            return
        last = answer.ids[-1:] or answer.prompt_ids[-1:]
        held = len(answer.prompt_ids) + len(answer.ids) - 1
        step = await answer.model.extend(answer.session, held, [*last, *tokens], rows=len(tokens) + 1)
        answer.passes += 1
        answer.drafted += len(tokens)
        lead = len(due.answer) - len(_own(due, self.found.along))
        offset = -lead
        for at, token in enumerate(tokens):
            ids_K, p_K = step.top.row(at)
            chosen = token
            if offset >= 0 and _reaches(due, offset, self.found.along):
                position = read_draft(list(due.tokens), list(due.rows), self.found.along.codec, offset, codec)
                fused = self.strategy.fuse(position, ids_K, p_K, slot.weight)
                chosen = fused.likeliest
                answer.trace.add(chosen, fused.ids_N, fused.p_N)
            else:
                answer.trace.add(chosen, ids_K, p_K)
            answer.ids.append(chosen)
            if chosen != token or answer.done:
                break
            answer.accepted += 1
            offset += len(codec.surface(token))
        self.found.checked = len(codec.bytes_of(answer.ids))


def _own(due: DueAnswer, along: ReadAlong) -> bytes:
    """The part of an answer that the plug-in wrote, without the bytes of a target token that was cut."""
    written = along.codec.bytes_of(token for token in due.tokens if token not in along.codec.end_ids)
    for start in range(len(due.answer)):
        if written.startswith(due.answer[start:]):
            return due.answer[start:]
    return b""


def _reaches(due: DueAnswer, offset: int, along: ReadAlong) -> bool:
    """Whether the draft extends far enough beyond a byte to determine the token there."""
    start = 0
    for index, token in enumerate(due.tokens):
        start += len(along.codec.surface(token))
        if offset < start:
            return index + LOOKAHEAD <= len(due.tokens) or due.tokens[-1] in along.codec.end_ids
    return False


def _with_rows(step: Step) -> Chunk:
    if not len(step.top):
        return [(token, None, None) for token in step.new_ids]
    return [(token, step.top.row(at), step.new_p[at] if step.new_p else None) for at, token in enumerate(step.new_ids)]
