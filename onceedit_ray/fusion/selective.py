"""`selective`: the target writes its own answer, and is fused with the plug-in only where a fact's answer is due.

    the target writes a chunk alone → the plug-in reads along → no slot contradicts it: the chunk is the target's own
    → a slot contradicts it: the text is cut there, eq. 8 fuses the answer's tokens, the target continues after it

A slot is a position at which the gate, evaluated along the text, reaches the threshold. The text contradicts a slot if
it continues differently than the plug-in would (`slots`), and the plug-in writes a fact's answer there. A sentence that
begins with a name and says afterwards whose or what it is has its slot at the name (`names_first`). If the request asks
for a fact (the gate at its end), a completion has a slot at its beginning; a reply has one there if its first chunk
shows none. The answer is then written at the beginning, as in `draft`.
Without a contradiction every token is the target's own, bit for bit.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field, replace

from onceedit_ray.fusion.drafter import DraftReader
from onceedit_ray.fusion.names_first import NameFirst, names_first
from onceedit_ray.fusion.read_along import DueAnswer, ReadAlong
from onceedit_ray.fusion.retokenise import LOOKAHEAD, read_draft
from onceedit_ray.fusion.slots import REACH, Slot, Undecided, first_contradiction, is_left_alone
from onceedit_ray.fusion.speculative import SpeculativeAnswer
from onceedit_ray.fusion.strategies import Strategy
from onceedit_ray.models.protocol import Row, Step

CHUNK = 16
"""Number of target tokens that are held back until the plug-in has read them."""
FIRST_CHUNK = 4
"""The first chunk, so that a stream begins early; it doubles up to `CHUNK`."""
MOST_GROWN = 5
"""How often a chunk grows by `REACH` tokens if it ends too near to a slot, or in a sentence that began with a name."""
SURE = 0.9
"""Lowest gate weight for a name that was written before its fact: the rest of a sentence is no request."""
MOST_CORRECTIONS = 64


@dataclass(frozen=True)
class Correction:
    """An answer that is due after the first `kept` tokens of a chunk. weight: the gate's w there."""

    kept: int
    due: DueAnswer
    weight: float


Chunk = list[tuple[int, Row | None, float | None]]
"""Tokens of a chunk, each with its distribution and probability if a trace keeps them."""


@dataclass
class SelectiveAnswer:
    """One target's answer.

    answer: the target's side. along: the plug-in's. strategy: fuses at a slot. threshold: of the gate. reader: of the
        direct answer; None if the request names no fact. draft_tokens: of the direct answer's drafts. in_chat: whether
        the target replies in sentences, in which the answer may come later. goes_on: whether the target continues after
        an answer at the beginning. weight: the highest gate weight.
    """

    answer: SpeculativeAnswer
    along: ReadAlong
    strategy: Strategy
    threshold: float
    reader: DraftReader | None
    draft_tokens: int
    in_chat: bool
    goes_on: bool
    weight: float = 0.0
    _told: dict[str, None] = field(default_factory=dict)
    _corrections: int = 0
    _checked: int = 0
    _begun: bool = False
    _placed: bool = False
    _size: int = field(default_factory=lambda: FIRST_CHUNK)
    _left_alone: set[int] = field(default_factory=set)

    @property
    def untouched(self) -> bool:
        """Whether every token so far is the target's own."""
        return not self._corrections

    @property
    def edits(self) -> tuple[str, ...]:
        """Ids of the facts that were written into the answer."""
        return tuple(self._told)

    @property
    def is_asked(self) -> bool:
        """Whether the request asks for a fact."""
        return self.reader is not None and self.reader.weight >= self.threshold

    async def pieces(self) -> AsyncIterator[list[int]]:
        """The answer's tokens, piece by piece; a chunk is held back, and a little more if it ends at a slot."""
        if not self.in_chat and (reader := self._asking()) is not None:
            async for ids in self._from_the_beginning(reader):
                yield ids
            if not self.goes_on:
                return
        while not self.answer.done:
            first = not self.answer.ids
            chunk = await self._chunk()
            if not chunk:
                return
            correction = await self._read(chunk)
            if first and correction is None and not self._placed and (reader := self._asking()) is not None:
                async for ids in self._from_the_beginning(reader):
                    yield ids
                continue
            before = len(self.answer.ids)
            self._take(chunk[: correction.kept if correction else len(chunk)])
            if correction is not None:
                await self._write(correction.due, correction.weight)
            if len(self.answer.ids) > before:
                yield self.answer.ids[before:]
            elif correction is None:
                return

    async def _chunk(self) -> Chunk:
        """The target's next tokens, not yet added to the answer.

        If the request asks for a fact, the first chunk is a whole one: it decides whether the answer begins anew.
        """
        size = CHUNK if self.is_asked else self._size
        self._size = min(2 * self._size, CHUNK)
        return await self._go_on(size)

    async def _go_on(self, tokens: int, after: Sequence[int] = ()) -> Chunk:
        answer = self.answer
        asked = min(answer.budget - len(answer.ids) - len(after), tokens)
        return _with_rows(await answer.go_on(asked, int(answer.trace.wanted), after)) if asked > 0 else []

    async def _read(self, chunk: Chunk) -> Correction | None:
        """Read a chunk, which may grow, and return the first correction in it."""
        grown = 0
        while True:
            new = [token for token, _, _ in chunk if token not in self.answer.codec.end_ids]
            text = self.answer.codec.bytes_of([*self.answer.ids, *new])
            is_known = self.along.look(text.decode("utf-8", errors="ignore"))
            slots = await self.along.read(text, self._checked) if is_known else []
            is_complete = len(new) < len(chunk)
            found = first_contradiction(slots, self.threshold, is_complete or grown == MOST_GROWN, self._left_alone)
            names = self._names(text, is_complete) if is_known else []
            if self._corrections >= MOST_CORRECTIONS:
                found, names = None, []
            waits = found is Undecided.YET or (found is None and any(not each.is_complete for each in names))
            if waits and grown < MOST_GROWN:
                more = await self._go_on(REACH, [token for token, _, _ in chunk])
                grown = grown + 1 if more else MOST_GROWN
                chunk += more
                continue
            slot = found if isinstance(found, Slot) else None
            due = await self._due(slot, names, text)
            if due is not None:
                return self._cut(new, text, *due)
            if slot is None:
                self._checked = max(self._checked, len(text))
                self._see(slots)
                return None

    def _names(self, text: bytes, ended: bool) -> list[NameFirst]:
        """The names at the beginning of sentences that have not been sent and were not checked yet."""
        written = text.decode("utf-8", errors="ignore")
        start = len(self.answer.codec.text_of(self.answer.ids))
        request = self.along.question.casefold()
        return [
            each
            for each in names_first(written, start, ended)
            if len(written[: each.start].encode()) not in self._left_alone
            and (self.is_asked or each.name.casefold() not in request)
            and self.along.may_be_answer(each.name)
        ]

    def _see(self, slots: list[Slot]) -> None:
        """Note whether a chunk has slots: if the text agrees there, or is left alone, the reply does not begin anew."""
        found = [slot for slot in slots if slot.weight >= self.threshold]
        self._placed = self._placed or bool(found)
        self.weight = max([self.weight, *(slot.weight for slot in found if slot.agrees)])

    async def _due(self, slot: Slot | None, names: list[NameFirst], text: bytes) -> tuple[DueAnswer, int, float] | None:
        """The first answer to be written, its place in bytes, and the gate's w; None if all places are left alone."""
        written = text.decode("utf-8", errors="ignore")
        for each in names:
            place = len(written[: each.start].encode())
            if slot is not None and place > slot.offset:
                break
            self._left_alone.add(place)
            late = await self.along.due_before(each.name, each.rest, max(self.threshold, SURE))
            if late is not None and not self._is_left_alone(text, place, late[1]):
                return late[1], place, late[0]
        if slot is None:
            return None
        due = await self.along.due(slot)
        if due is not None and not self._is_left_alone(text, slot.offset, due):
            return due, slot.offset, slot.weight
        self._left_alone.add(slot.offset)
        return None

    def _is_left_alone(self, text: bytes, place: int, due: DueAnswer) -> bool:
        before, after = (part.decode("utf-8", errors="ignore") for part in (text[:place], text[place:]))
        return is_left_alone(before, after, due.stated, self.along.question, self.is_asked)

    def _cut(self, new: list[int], text: bytes, due: DueAnswer, place: int, weight: float) -> Correction:
        """Keep the tokens before a place; the part of a token that ends before it is written again."""
        codec = self.answer.codec
        kept, end = 0, len(codec.bytes_of(self.answer.ids))
        for token in new:
            if end + len(codec.surface(token)) > place:
                break
            end += len(codec.surface(token))
            kept += 1
        self.weight = max(self.weight, weight)
        self._left_alone = {checked for checked in self._left_alone if checked < place}
        return Correction(kept, replace(due, lead=text[end:place]), weight)

    def _asking(self) -> DraftReader | None:
        """The direct answer's reader, if the request asks for a fact."""
        if self.reader is None or not self.is_asked or self._begun:
            return None
        self.weight = max(self.weight, self.reader.weight)
        return self.reader

    async def _from_the_beginning(self, reader: DraftReader) -> AsyncIterator[list[int]]:
        """The direct answer, fused and verified from the first token as in `draft`."""
        answer = self.answer
        await answer.aclose()
        self._begun = True
        self._corrections += 1
        self._told.update(dict.fromkeys(reader.edits))
        async for ids in answer.fused(reader, self.strategy, reader.weight, self.draft_tokens):
            if self.goes_on and answer.ended:
                answer.ids.pop()
                del answer.trace.chances[len(answer.ids) :]
                ids = ids[:-1]
                self._checked = len(answer.codec.bytes_of(answer.ids))
                if ids:
                    yield ids
                return
            yield ids

    def _take(self, chunk: Chunk) -> None:
        for token, row, p in chunk:
            self.answer.ids.append(token)
            if row is not None:
                self.answer.trace.add(token, *row, p)

    async def _write(self, due: DueAnswer, weight: float) -> None:
        """Write an answer after the kept tokens: the target reads it in one pass, and each position is fused."""
        answer, codec = self.answer, self.answer.codec
        tokens = list(codec.encode_bytes(due.lead + due.answer))[: answer.budget - len(answer.ids)]
        self._corrections += 1
        self._told[due.edit] = None
        if not tokens or answer.session is None:
            return
        last = answer.ids[-1:] or answer.prompt_ids[-1:]
        held = len(answer.prompt_ids) + len(answer.ids) - 1
        step = await answer.model.extend(answer.session, held, [*last, *tokens], rows=len(tokens) + 1)
        answer.passes += 1
        answer.drafted += len(tokens)
        offset = due.skipped - len(due.lead)
        for at, token in enumerate(tokens):
            ids_K, p_K = step.top.row(at)
            chosen = token
            if offset >= 0 and _reaches(due, offset, self.along):
                position = read_draft(list(due.tokens), list(due.rows), self.along.codec, offset, codec)
                fused = self.strategy.fuse(position, ids_K, p_K, weight)
                chosen = fused.likeliest
                answer.trace.add(chosen, fused.ids_N, fused.p_N)
            else:
                answer.trace.add(chosen, ids_K, p_K)
            answer.ids.append(chosen)
            if chosen != token or answer.done:
                break
            answer.accepted += 1
            offset += len(codec.surface(token))
        self._checked = len(codec.bytes_of(answer.ids))


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
