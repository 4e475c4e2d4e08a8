"""The plug-in's side of one request: gate, draft, and what it says at each byte of the answer.

The plug-in reads the question through its own view and writes greedily, ahead of the target. Positions are byte offsets
into the answer, since the two vocabularies share no token boundaries. While the answer follows the draft, the plug-in's
own tokens stay as they are; when it leaves the draft, the answer is encoded anew and only the changed suffix is run.

What is read at a position depends on the answer so far and never on how far ahead was drafted: the target token
proposed at a byte is the first token of re-tokenising the next `LOOKAHEAD` plug-in tokens (algorithm.md §3.4).

Shapes: K entries kept of the plug-in's distribution.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from onceedit_ray.errors import ContextLengthError, ModelError
from onceedit_ray.fusion.reading import Proposal, Reading
from onceedit_ray.models.codec import Codec, common_prefix
from onceedit_ray.models.protocol import LanguageModel, Row, Step

LOOKAHEAD = 4
"""Plug-in tokens looked at to re-tokenise one position; fewer only where the draft ends."""


@dataclass
class Drafter:
    """One request's plug-in session.

    Args:
        model: the plug-in.
        codec: its tokenizer.
        prompt_ids: the question in the plug-in's view.
        lead: bytes an answer starts with for the plug-in and not for the target (the space after the prompt, where the
            target's prompt ends in white space already). Offsets count from after it.
        draft_tokens: plug-in tokens drafted in one call.
    """

    model: LanguageModel
    codec: Codec
    prompt_ids: list[int]
    lead: bytes = b""
    draft_tokens: int = 8
    passes: int = 0
    weight: float = 0.0
    _session: int | None = None
    _fed: int = 0
    _tokens: list[int] = field(default_factory=list)
    _rows: list[Row] = field(default_factory=list)

    async def open(self, threshold: float) -> float:
        """Prefill the question; the gate weight w = σ(l_W(x)). Drafts at once if w reaches `threshold`."""
        step = await self.model.open(self.prompt_ids, rows=1, decode=max(self.draft_tokens, 1), threshold=threshold)
        self._session = step.session
        if step.weight is None:
            raise ModelError("the plug-in has no [WEIGHT] token: it has never been edited; run `onceedit edit` first")
        self.weight = step.weight
        self._take(step)
        return self.weight

    async def aclose(self) -> None:
        """Free the plug-in's session."""
        if self._session is not None:
            await self.model.close(self._session)
            self._session = None

    async def follow(self, answer: bytes) -> None:
        """Make the answer written so far the draft's beginning; a draft that begins with it is left as it is."""
        answer = self.lead + answer
        while not self._ended() and len(self._text()) < len(answer) and answer.startswith(self._text()):
            await self._draft()
        if not self._text().startswith(answer):
            await self._restart(answer)

    async def boundary(self, answer: bytes) -> Reading:
        """The plug-in's distribution after the answer so far, encoded by itself: a token's start."""
        tokens = list(self.codec.encode_bytes(self.lead + answer))
        if tokens != self._tokens[: len(tokens)] or len(self._rows) <= len(tokens):
            await self._rewrite(tokens, decode=0)
        ids_K, p_K = self._rows[len(tokens)]
        return Reading(ids_K, p_K)

    async def read(self, offset: int, target: Codec) -> Reading:
        """The plug-in's distribution at a byte of its draft, and the target token proposed there.

        The draft is run on as far as the position needs. `offset` must not lie beyond the draft's end.
        """
        offset += len(self.lead)
        while not self._decided(offset):
            await self._draft()
        return self._read(offset, target)

    def ready(self, offset: int) -> bool:
        """Whether `read(offset)` needs no further drafting."""
        return self._decided(offset + len(self.lead))

    # --- the draft ---------------------------------------------------------------------------------------------------

    async def _draft(self) -> None:
        """Run the draft on by `draft_tokens`."""
        assert self._session is not None
        ids = self._tokens[self._fed :]
        if not ids:
            raise ContextLengthError("question and answer fill the plug-in's context; ask a shorter question")
        step = await self.model.extend(
            self._session, len(self.prompt_ids) + self._fed, ids, rows=len(ids), decode=max(self.draft_tokens, 1)
        )
        self._fed += len(ids)
        self._take(step)

    async def _restart(self, answer: bytes) -> None:
        await self._rewrite(list(self.codec.encode_bytes(answer)), decode=max(self.draft_tokens, 1))

    async def _rewrite(self, tokens: list[int], decode: int) -> None:
        """Make `tokens` the answer; what they share with what was fed stays in the cache."""
        assert self._session is not None
        keep = min(common_prefix(tokens, self._tokens), self._fed, max(len(tokens) - 1, 0))
        if not tokens:
            self._tokens, self._rows = [], self._rows[:1]
            return
        self._tokens, self._rows, self._fed = tokens, self._rows[: keep + 1], len(tokens)
        step = await self.model.extend(
            self._session, len(self.prompt_ids) + keep, tokens[keep:], rows=len(tokens) - keep, decode=decode
        )
        self._take(step)

    def _take(self, step: Step) -> None:
        """Append what a call gave: one row for each position, and the tokens drafted after them."""
        self._rows += [step.top.row(i) for i in range(len(step.top))]
        self._fed += max(len(step.new_ids) - 1, 0)
        self._tokens += step.new_ids
        self.passes += 1 + max(len(step.new_ids) - 1, 0)

    def _ended(self) -> bool:
        return bool(self._tokens) and self._tokens[-1] in self.codec.end_ids

    def _text(self) -> bytes:
        return self.codec.bytes_of(self._tokens)

    # --- reading -----------------------------------------------------------------------------------------------------

    def _index(self, offset: int) -> tuple[int, int]:
        """The plug-in token that a byte lies in, and how many of its bytes come before."""
        start = 0
        for index, token in enumerate(self._tokens):
            length = len(self.codec.surface(token))
            if offset < start + length or token in self.codec.end_ids:
                return index, offset - start
            start += length
        return len(self._tokens), offset - start

    def _decided(self, offset: int) -> bool:
        index, _ = self._index(offset)
        return self._ended() or index + LOOKAHEAD <= len(self._tokens)

    def _read(self, offset: int, target: Codec) -> Reading:
        index, inside = self._index(offset)
        written = self.codec.surface(self._tokens[index])[:inside]
        ids_K, p_K, suffixes = self._given(index, written)
        window = self._tokens[index : index + LOOKAHEAD]
        if window[0] in self.codec.end_ids:
            mass = {int(t): float(p) for t, p in zip(ids_K, p_K, strict=True) if int(t) in self.codec.end_ids}
            return Reading(ids_K, p_K, suffixes, Proposal(target.end_id, sum(mass.values()), mass))
        token = target.encode_bytes(self.codec.bytes_of(window)[inside:])[0]
        proposal = self._cover(index, inside, target.surface(token), token, ids_K, p_K)
        return Reading(ids_K, p_K, suffixes, proposal)

    def _given(self, index: int, written: bytes) -> tuple[np.ndarray, np.ndarray, tuple[bytes, ...] | None]:
        """The distribution at token `index`, given that the token begins with the bytes already written of it."""
        ids_K, p_K = self._rows[index]
        if not written:
            return ids_K, p_K, None
        surfaces = [self.codec.surface(token) for token in ids_K]
        fits_K = np.array([len(s) > len(written) and s.startswith(written) for s in surfaces])
        suffixes = tuple(s[len(written) :] for s, fits in zip(surfaces, fits_K, strict=True) if fits)
        return ids_K[fits_K], p_K[fits_K] / p_K[fits_K].sum(), suffixes

    def _cover(
        self, index: int, inside: int, wanted: bytes, token: int, ids_K: np.ndarray, p_K: np.ndarray
    ) -> Proposal:
        """The probability that the plug-in writes `wanted` from here, along its draft."""
        probability = 1.0
        covered: dict[int, float] = {}
        at = index
        while True:
            surface = self.codec.surface(self._tokens[at])[inside:]
            if len(wanted) >= len(surface):
                step = {self._tokens[at]: _probability(ids_K, p_K, self._tokens[at])}
            else:
                step = {
                    int(t): float(p)
                    for t, p in zip(ids_K, p_K, strict=True)
                    if self.codec.surface(t)[inside:].startswith(wanted)
                }
            if at == index:
                covered = step
            probability *= sum(step.values())
            wanted = wanted[len(surface) :]
            if not wanted:
                break
            at, inside = at + 1, 0
            ids_K, p_K = self._rows[at]
        if at > index:  # a longer path: the first token gives no more than what reaches the end of it
            covered = {self._tokens[index]: probability}
        return Proposal(token, probability, covered)


def _probability(ids_K: np.ndarray, p_K: np.ndarray, token: int) -> float:
    hit = np.flatnonzero(ids_K == token)
    return float(p_K[hit[0]]) if len(hit) else 0.0
