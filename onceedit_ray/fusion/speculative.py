"""One target's answer to one request: by the target alone, or by draft and verify (algorithm.md §4).

By construction the greedy output equals that of token-by-token fusion, and a sampled output equals that of
token-by-token sampling: the choice at each position depends on the fused distribution, the seed and the position, and a
drafted token is accepted only if it is that choice.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field

from onceedit_ray.errors import ContextLengthError, UnwritableError
from onceedit_ray.fusion.drafter import DraftReader
from onceedit_ray.fusion.outputs import Trace
from onceedit_ray.fusion.retokenise import LOOKAHEAD, DraftPosition
from onceedit_ray.fusion.strategies import Fused, Strategy
from onceedit_ray.models.codec import Codec
from onceedit_ray.models.protocol import LanguageModel, Row, Step
from onceedit_ray.models.sampling import Sampling, draw

LONGEST_STRIDE = 16
MOST_AHEAD = 4
"""A draft that is fully accepted grows, up to this many times its configured length."""


@dataclass
class SpeculativeAnswer:
    """An answer that is being generated.

    model, codec: the target's. prompt_ids: its prompt. budget: maximum number of tokens. stride: tokens of the second
        piece when the target answers alone, later pieces are longer; 0 gives all tokens in one piece. trace: receives
        the probabilities. drafted, accepted: numbers of plug-in tokens that were verified, and of those that were
        accepted.
    """

    model: LanguageModel
    codec: Codec
    prompt_ids: list[int]
    budget: int
    sampling: Sampling
    stride: int = 0
    trace: Trace = field(default_factory=Trace)
    ids: list[int] = field(default_factory=list)
    passes: int = 0
    drafted: int = 0
    accepted: int = 0
    session: int | None = None

    @property
    def ended(self) -> bool:
        """Whether the answer has ended with an end-of-text token."""
        return bool(self.ids) and self.ids[-1] in self.codec.end_ids

    @property
    def done(self) -> bool:
        """Whether the answer is complete."""
        return self.ended or len(self.ids) >= self.budget

    async def prefill(self) -> Step:
        """Prefill the prompt while the gate is evaluated: its row for fusion, and the target's own first token."""
        return self._opened(await self.model.open(self.prompt_ids, rows=1, decode=1, sampling=self.sampling))

    async def aclose(self) -> None:
        """Free the target's session."""
        if self.session is not None:
            session, self.session = self.session, None
            await self.model.close(session)

    async def alone(self, first: Step | None = None) -> AsyncIterator[list[int]]:
        """The target's own answer, in pieces, as `transformers` generates it. first: result of `prefill`, if called."""
        stride = self.stride
        if first is not None:
            self.passes += 1
            yield self._add(first)
        while not self.done:
            asked = min(self.budget - len(self.ids), stride or self.budget)
            if self.session is None:
                asked = 1 if stride else asked  # send the first token early
            else:
                stride = min(2 * stride, LONGEST_STRIDE)
            step = await self.go_on(asked, int(self.trace.wanted))
            yield self._add(step)
            if len(step.new_ids) < asked and not self.ended:
                return  # the context is full

    async def go_on(self, decode: int, rows: int, after: Sequence[int] = ()) -> Step:
        """Up to `decode` tokens that the target writes after the answer so far; they are not added to the answer.

        after: tokens that it has written beyond the answer.
        """
        held = [*self.prompt_ids, *self.ids, *after]
        if self.session is None:
            step = self._opened(await self.model.open(held, rows, decode=decode, sampling=self.sampling))
        else:
            step = await self.model.extend(
                self.session, len(held) - 1, held[-1:], rows, decode=decode, sampling=self.sampling
            )
        self.passes += len(step.new_ids)
        return step

    async def next_row(self) -> Row:
        """The target's distribution after the answer so far."""
        return (await self.go_on(0, rows=1)).top.row(0)

    def take(self, fused: Fused) -> None:
        """Add the token that a fused distribution gives: the most likely one, or the one drawn."""
        self.ids.append(self.chosen(fused))
        self.trace.add(self.ids[-1], fused.ids_N, fused.p_N)

    async def fused(
        self, reader: DraftReader, strategy: Strategy, weight: float, draft_tokens: int, first: Step | None = None
    ) -> AsyncIterator[list[int]]:
        """The fused answer, in pieces; each piece is one round of draft and verify. `draft_tokens` 0 fuses token by
        token.

        first: the result of `prefill`, if it was called; otherwise the prompt is read together with the first draft.
        Where one of the two vocabularies cannot write the other's text, the target continues alone.
        """
        fed = 0 if first is None else len(self.prompt_ids)
        row: Row | None = None if first is None else first.top.row(0)
        self.passes += first is not None
        pending = self.prompt_ids if first is None else []
        reader.ahead = max(draft_tokens, 1)
        while not self.done:
            readings = await self._readings(reader, strategy, draft_tokens > 0)
            if not readings:
                self.passes -= first is not None and not self.ids
                async for ids in self.alone(None if self.ids else first):
                    yield ids
                return
            proposed = [r.proposal.token for r in readings if r.proposal] if draft_tokens else []
            try:
                verified = await self._verify(fed, pending, proposed)
            except ContextLengthError:
                proposed = []  # the draft no longer fits the context, but the next token may
                verified = await self._verify(fed, pending, proposed)
            rows = verified if row is None else [row, *verified]
            before = len(self.ids)
            accepted = self._accept(readings, rows, proposed, strategy, weight)
            fed += len(pending) + accepted
            self.drafted += len(proposed)
            self.accepted += accepted
            whole = bool(proposed) and accepted == len(proposed)
            pending, row = ([], rows[accepted]) if whole and not self.done else (self.ids[-1:], None)
            if draft_tokens:
                most = MOST_AHEAD * draft_tokens
                reader.ahead = min(2 * reader.ahead, most) if whole else min(max(LOOKAHEAD, accepted + 2), most)
            yield self.ids[before:]

    def _opened(self, step: Step) -> Step:
        self.session = step.session
        return step

    def _add(self, step: Step) -> list[int]:
        """Add the target's own tokens."""
        self.ids += step.new_ids
        if self.trace.wanted:
            for at, token in enumerate(step.new_ids):
                self.trace.add(token, *step.top.row(at), step.new_p[at] if step.new_p else None)
        return list(step.new_ids)

    async def _verify(self, fed: int, pending: list[int], proposed: list[int]) -> list[Row]:
        """Feed the uncached tokens and the draft in one pass; returns a row for each position to be chosen."""
        drafted = [token for token in proposed if token not in self.codec.end_ids]
        feed = pending + drafted
        if not feed:
            return []
        self.passes += 1
        if self.session is None:
            step = self._opened(await self.model.open(feed, rows=len(drafted) + 1))
        else:
            step = await self.model.extend(self.session, fed, feed, rows=len(drafted) + bool(pending))
        return [step.top.row(i) for i in range(len(step.top))]

    async def _readings(self, reader: DraftReader, strategy: Strategy, speculative: bool) -> list[DraftPosition]:
        """The plug-in's distributions at the next positions, as far as its draft reaches.

        There are none where one of the two vocabularies cannot write the other's text.
        """
        first = await read(reader, strategy, self.codec, self.codec.bytes_of(self.ids))
        if first is None:
            return []
        readings = [first]
        offset = len(self.codec.bytes_of(self.ids))
        left = self.budget - len(self.ids)
        while speculative and len(readings) < left and (proposal := readings[-1].proposal) is not None:
            offset += len(self.codec.surface(proposal.token))
            if proposal.token in self.codec.end_ids or not reader.ready(offset):
                break
            following = await reader.read(offset, self.codec)
            if following.proposal is None:
                break
            readings.append(following)
        return readings

    def _accept(
        self, readings: list[DraftPosition], rows: list[Row], proposed: list[int], strategy: Strategy, weight: float
    ) -> int:
        """Fuse position by position while the choice is the drafted token; returns the number of accepted tokens."""
        for position, (reading, row) in enumerate(zip(readings, rows, strict=False)):
            self.take(strategy.fuse(reading, *row, weight))
            if position >= len(proposed) or self.ids[-1] != proposed[position] or self.ended:
                return position
        return len(proposed)

    def chosen(self, fused: Fused) -> int:
        """The token that a distribution gives next: the most likely one, or the one drawn."""
        if self.sampling.greedy:
            return fused.likeliest
        return draw(fused.ids_N, fused.p_N, self.sampling, len(self.prompt_ids) + len(self.ids))


async def read(reader: DraftReader, strategy: Strategy, codec: Codec, answer: bytes) -> DraftPosition | None:
    """The plug-in's distribution after an answer, in the form that the strategy needs.

    None where the plug-in's vocabulary cannot write the answer, or the target's what the plug-in drafts after it.
    """
    try:
        if not strategy.drafts:
            return await reader.boundary(answer)
        await reader.follow(answer)
    except UnwritableError:
        return None
    position = await reader.read(len(answer), codec)
    return None if position.proposal is None else position
