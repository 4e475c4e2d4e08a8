"""`selective`: the target writes its own answer, and is fused with the plug-in only where a fact's answer is due.

    the target writes a chunk alone → the plug-in reads along → no slot contradicts it: the chunk is the target's own
    → a slot contradicts it: the text is cut there, eq. 8 fuses the answer's tokens, the target continues after it

Slots and contradictions are found in the text (`fusion.contradictions`); this module is about the target's tokens. If
the request asks for a fact (the gate at its end), a completion has a slot at its beginning; a reply has one there if
its first chunk neither states nor contradicts the fact. The answer is then written at the beginning, as in `draft`. The
reply to a yes/no question about a fact begins with yes or no, the reply to a reversed question with the fact's subject
(`fusion.opening`). Without a contradiction every token is the target's own, bit for bit.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from onceedit_ray.fusion.contradictions import ASKED_SURE, CHUNK, MOST_GROWN, Contradiction, Contradictions
from onceedit_ray.fusion.drafter import DraftReader
from onceedit_ray.fusion.opening import Opening
from onceedit_ray.fusion.read_along import DueAnswer, ReadAlong
from onceedit_ray.fusion.retokenise import LOOKAHEAD, read_draft
from onceedit_ray.fusion.slots import REACH, Undecided
from onceedit_ray.fusion.speculative import SpeculativeAnswer
from onceedit_ray.fusion.strategies import Fused, Strategy
from onceedit_ray.models.prompt import first_stop
from onceedit_ray.models.protocol import Row, Step

FIRST_CHUNK = 4
"""The first chunk, so that a stream begins early; chunks double up to `CHUNK`."""

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
    _size: int = field(default_factory=lambda: FIRST_CHUNK)

    @property
    def untouched(self) -> bool:
        """Whether every token so far is the target's own."""
        return not self.found.corrections

    async def pieces(self) -> AsyncIterator[list[int]]:
        """The answer's tokens, piece by piece; a chunk is held back, and a little more if it ends at a slot."""
        if not self.in_chat and (reader := self.found.asking()) is not None:
            async for ids in self._from_the_beginning(reader):
                yield ids
            if not self.goes_on:
                return
            if ids := await self._begin_a_word():
                yield ids
        if self.in_chat and self.found.opening is not None:
            yield await self._open_with(self.found.opening)
        while not self.answer.done:
            first = not self.answer.ids
            chunk = await self._chunk()
            if not chunk:
                return
            chunk, found = await self._read(chunk)
            reader = self.found.asking(ASKED_SURE) if first and found is None and not self.found.stated else None
            if reader is not None:
                async for ids in self._from_the_beginning(reader):
                    yield ids
                if ids := await self._begin_a_word():
                    yield ids
                continue
            before = len(self.answer.ids)
            if found is None:
                self._take(chunk)
            else:
                await self._write(chunk, found)
                if found.due is not None:
                    await self._begin_a_word()
            if len(self.answer.ids) > before:
                yield self.answer.ids[before:]
            elif found is None:
                return

    async def _chunk(self) -> Chunk:
        """The target's next tokens, not yet added to the answer.

        If the request asks for a fact, the first chunk is a whole one: it decides whether the answer begins anew.
        """
        size = CHUNK if self.found.is_asked else self._size
        self._size = min(2 * self._size, CHUNK)
        return await self._go_on(size)

    async def _go_on(self, tokens: int, after: Sequence[int] = ()) -> Chunk:
        answer = self.answer
        asked = min(answer.budget - len(answer.ids) - len(after), tokens)
        if asked <= 0:
            return []
        return self._until_a_stop(_with_rows(await answer.go_on(asked, int(answer.trace.wanted), after)), after)

    def _until_a_stop(self, chunk: Chunk, after: Sequence[int]) -> Chunk:
        """The chunk up to the end of a stop string of a chat, closed by an end token.

        A model without a chat template would go on with the next question, and might be corrected only there.
        """
        codec = self.answer.codec
        stops = codec.chat_stops if self.in_chat and codec.end_ids else ()
        written = [*self.answer.ids, *after]
        whole = [*written, *(token for token, _, _ in chunk)]
        if not stops or first_stop(codec.text_of(whole), stops) is None:
            return chunk
        for number, (token, row, p) in enumerate(chunk):
            written.append(token)
            if first_stop(codec.text_of(written), stops) is not None:
                return [*chunk[: number + 1], (min(codec.end_ids), row, p)]
        return chunk

    async def _read(self, chunk: Chunk) -> tuple[Chunk, Contradiction | None]:
        """The chunk, grown until it is decided whether it contradicts a fact, and the first contradiction in it."""
        codec = self.answer.codec
        for grown in range(MOST_GROWN + 1):
            new = [token for token, _, _ in chunk if token not in codec.end_ids]
            text = codec.bytes_of([*self.answer.ids, *new])
            found = await self.found.find(text, len(new) < len(chunk), waits=grown < MOST_GROWN)
            if not isinstance(found, Undecided):
                return chunk, found
            more = await self._go_on(REACH, [token for token, _, _ in chunk])
            if not more:
                break
            chunk = [*chunk, *more]
        found = await self.found.find(text, ended=False, waits=False)
        assert not isinstance(found, Undecided), "it does not wait"
        return chunk, found

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

    async def _open_with(self, opening: Opening) -> list[int]:
        """Begin a reply with yes or no and the fact, or with the fact's subject."""
        answer = self.answer
        self.found.open(opening)
        await answer.next_row()  # reads the prompt
        tokens = list(answer.codec.encode_bytes(opening.text.encode()))[: answer.budget]
        await self._fuse(tokens)
        self.found.checked = len(answer.codec.bytes_of(answer.ids))
        await self._begin_a_word()
        return list(answer.ids)

    def _take(self, chunk: Chunk) -> None:
        for token, row, p in chunk:
            self.answer.ids.append(token)
            if row is not None:
                self.answer.trace.add(token, *row, p)

    async def _write(self, chunk: Chunk, found: Contradiction) -> None:
        """Keep a chunk up to a contradiction, and write the answer there.

        The target reads the answer in one pass, and each position is fused. The part of a token of the chunk that ends
        before the contradiction is written again.
        """
        answer, codec, due = self.answer, self.answer.codec, found.due
        self.found.correct(found)
        start = len(codec.bytes_of(answer.ids))
        new = [token for token, _, _ in chunk if token not in codec.end_ids]
        kept = codec.tokens_within(new, found.place - start)
        self._take(chunk[:kept])
        if due is None:
            await self._avoid(found.replaced)
            return
        lead = codec.bytes_of(new)[len(codec.bytes_of(new[:kept])) : found.place - start]
        tokens = list(codec.encode_bytes(lead + due.answer))[: answer.budget - len(answer.ids)]
        if tokens and answer.session is not None:
            await self._fuse(tokens, due, due.skipped - len(lead), found.weight)
        self.found.checked = len(codec.bytes_of(answer.ids))

    async def _avoid(self, name: str) -> None:
        """Let the target write something else than a name: its most likely token that does not begin the name."""
        answer, codec = self.answer, self.answer.codec
        if not answer.done:
            ids_K, p_K = await answer.next_row()
            begins_K = np.array([_begins(codec.surface(int(token)).decode(errors="ignore"), name) for token in ids_K])
            kept_K = ~begins_K if not begins_K.all() else begins_K
            answer.take(Fused(ids_K[kept_K], p_K[kept_K]))
        self.found.checked = len(codec.bytes_of(answer.ids))

    async def _begin_a_word(self) -> list[int]:
        """Let the target continue with another word where its own next token would lengthen the answer's last word.

        "poet" stays "poet", although the target's next token is "ically". Returns the token, if one was written.
        """
        answer, codec = self.answer, self.answer.codec
        if answer.done or not _is_cased(codec.text_of(answer.ids)[-1:]):
            return []
        ids_K, p_K = await answer.next_row()
        lengthens_K = np.array([_is_cased(codec.surface(int(token)).decode(errors="ignore")[:1]) for token in ids_K])
        if lengthens_K.all() or not lengthens_K[ids_K == answer.chosen(Fused(ids_K, p_K))].any():
            return []
        answer.take(Fused(ids_K[~lengthens_K], p_K[~lengthens_K]))
        return answer.ids[-1:]

    async def _fuse(
        self, tokens: Sequence[int], due: DueAnswer | None = None, offset: int = 0, weight: float = 0.0
    ) -> None:
        """Write tokens after the answer so far, fused where the plug-in has a distribution.

        offset: of the first token in the bytes of the plug-in's draft; below 0 the bytes are not the draft's.
        """
        answer, codec, plugin = self.answer, self.answer.codec, self.found.along.codec
        last = answer.ids[-1:] or answer.prompt_ids[-1:]
        held = len(answer.prompt_ids) + len(answer.ids) - 1
        step = await answer.model.extend(answer.session or 0, held, [*last, *tokens], rows=len(tokens) + 1)
        answer.passes += 1
        answer.drafted += len(tokens)
        for at, token in enumerate(tokens):
            ids_K, p_K = step.top.row(at)
            chosen = token
            if due is not None and offset >= 0 and _reaches(due, offset, self.found.along):
                position = read_draft(list(due.tokens), list(due.rows), plugin, offset, codec)
                fused = self.strategy.fuse(position, ids_K, p_K, weight)
                chosen = fused.likeliest
                answer.trace.add(chosen, fused.ids_N, fused.p_N)
            else:
                answer.trace.add(chosen, ids_K, p_K)
            answer.ids.append(chosen)
            if chosen != token or answer.done:
                return
            answer.accepted += 1
            offset += len(codec.surface(token))


def _begins(token: str, name: str) -> bool:
    """Whether a token, or its beginning, begins a name; white space may be followed by it."""
    said, name = re.sub(r"^\W+", "", token).casefold(), name.casefold()
    return not token.strip() or (bool(said) and (name.startswith(said) or said.startswith(name)))


def _is_cased(character: str) -> bool:
    """Whether a character is a digit or a letter of a script with capitals; such scripts put spaces between words."""
    return character.isdigit() or character.lower() != character.upper()


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
