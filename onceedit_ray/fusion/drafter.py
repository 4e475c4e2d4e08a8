"""The plug-in's side of one question: its gate, its drafts, and their readers.

The plug-in reads the question through its own view and writes greedily, ahead of the targets. All targets that get the
same question read the same draft while their answers follow it. If an answer departs from the draft, it is tokenised
again and only the changed suffix is fed; if other answers still read the draft, this happens on a fork of the session.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field

from onceedit_ray.errors import ContextLengthError, ModelError
from onceedit_ray.fusion.retokenise import LOOKAHEAD, DraftPosition, read_draft, token_at
from onceedit_ray.models.codec import Codec, common_prefix
from onceedit_ray.models.protocol import LanguageModel, Row, Step


@dataclass
class _Branch:
    """One draft: its session, the tokens written, the distribution before each, and how many of them were fed.

    begun: the answer from which the draft was last restarted. readers: number of answers that read it.
    """

    session: int
    begun: bytes = b""
    tokens: list[int] = field(default_factory=list)
    rows: list[Row] = field(default_factory=list)
    fed: int = 0
    readers: int = 0
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)

    def take(self, step: Step) -> None:
        """Append the result of a call: one row for each position, and the tokens drafted after them."""
        self.rows += [step.top.row(i) for i in range(len(step.top))]
        self.fed += max(len(step.new_ids) - 1, 0)
        self.tokens += step.new_ids


class Drafter:
    """One question's plug-in sessions.

    Args:
        model: the plug-in.
        codec: its tokenizer.
        prompts: the question in the plug-in's views; the view with the highest gate weight is used for drafting.
        draft_tokens: plug-in tokens drafted at first; 0 for readers that only ask for `DraftReader.boundary`.
        edits: for each view the ids of the edits that it contains.

    joining: number of answers that will read the first draft and have no reader yet. departed: whether the first draft
        was written anew for one answer; an answer that begins now needs another drafter.
    """

    def __init__(
        self,
        model: LanguageModel,
        codec: Codec,
        prompts: Sequence[list[int]],
        draft_tokens: int = 8,
        edits: Sequence[tuple[str, ...]] = (),
    ) -> None:
        self.codec = codec
        self.weight = 0.0
        self.passes = 0
        self.joining = 0
        self.departed = False
        self._model = model
        self._prompts = prompts
        self._prompt_ids = prompts[0]
        self._edits = edits or [()] * len(prompts)
        self.edits = self._edits[0]
        self._draft_tokens = draft_tokens
        self._branches: list[_Branch] = []

    async def open(self, threshold: float) -> float:
        """Prefill the question and return the gate weight w = σ(l_W(x)). Drafts at once if w reaches `threshold`.

        Several views are prefilled in one pass, and the one with the highest w stays open.
        """
        decode = max(self._draft_tokens, 1)
        opened = (self._model.open(ids, rows=1, decode=decode, threshold=threshold) for ids in self._prompts)
        steps = await asyncio.gather(*opened, return_exceptions=True)
        read = [(index, step) for index, step in enumerate(steps) if isinstance(step, Step)]
        failed = next((step for step in steps if isinstance(step, BaseException)), None)
        best, step = max(read, key=lambda pair: pair[1].weight or 0.0, default=(0, None))
        for index, other in read:
            if failed is not None or index != best:
                await self._model.close(other.session)
        if failed is not None or step is None:
            raise failed or ModelError("the plug-in was asked nothing")
        trunk = _Branch(step.session)
        self._branches.append(trunk)
        self._prompt_ids, self.edits = self._prompts[best], self._edits[best]
        if step.weight is None:
            raise ModelError("the plug-in has no [WEIGHT] token: it has never been edited; run `onceedit edit` first")
        self.weight = step.weight
        self.passes += len(read) - 1
        self._take(trunk, step)
        return self.weight

    @property
    def drafted(self) -> list[int]:
        """The tokens of the first draft so far."""
        return list(self._branches[0].tokens)

    def reader(self, lead: bytes = b"") -> DraftReader:
        """A new reader of the first draft.

        lead: bytes with which an answer starts for the plug-in but not for the target (the space after the prompt, if
            the target's prompt already ends in white space). Offsets count from after it.
        """
        return DraftReader(self, self._branches[0], lead)

    async def aclose(self) -> None:
        """Free every session."""
        branches, self._branches = self._branches, []
        for branch in branches:
            await self._model.close(branch.session)

    # --- for readers -------------------------------------------------------------------------------------------------

    async def draft(self, branch: _Branch, tokens: int) -> None:
        """Extend a draft by `tokens`; the caller holds its lock."""
        ids = branch.tokens[branch.fed :]
        if not ids:
            raise ContextLengthError("question and answer fill the plug-in's context; ask a shorter question")
        keep = len(self._prompt_ids) + branch.fed
        step = await self._model.extend(branch.session, keep, ids, rows=len(ids), decode=max(tokens, 1))
        branch.fed += len(ids)
        self._take(branch, step)

    async def begin_anew(self, branch: _Branch, answer: bytes, decode: int) -> _Branch:
        """A draft that begins with the tokens of `answer`: this one, or a fork if others read it.

        Returns the draft that the caller reads from now on. The common prefix with the tokens fed so far stays in the
        cache.
        """
        async with branch.lock:
            is_first = branch is self._branches[0]
            if branch.readers + (self.joining if is_first else 0) > 1:
                for other in self._branches:
                    if other.begun == answer and other is not branch and not other.lock.locked() and decode:
                        return _moved(branch, other)
                fork = _Branch(
                    await self._model.fork(branch.session), answer, list(branch.tokens), list(branch.rows), branch.fed
                )
                self._branches.append(fork)
                branch = _moved(branch, fork)
                async with fork.lock:
                    await self._rewrite(fork, answer, decode)
            else:
                self.departed |= is_first and decode > 0
                await self._rewrite(branch, answer, decode)
        return branch

    async def _rewrite(self, branch: _Branch, answer: bytes, decode: int) -> None:
        tokens = list(self.codec.encode_bytes(answer))
        branch.begun = answer
        if not tokens:
            branch.tokens, branch.rows, branch.fed = [], branch.rows[:1], 0
            return
        keep = min(common_prefix(tokens, branch.tokens), branch.fed, len(tokens) - 1)
        # Keep the draft consistent if the caller is cancelled meanwhile, since another reader may use it.
        branch.tokens, branch.rows, branch.fed = branch.tokens[: keep + 1], branch.rows[: keep + 1], keep
        step = await self._model.extend(
            branch.session, len(self._prompt_ids) + keep, tokens[keep:], rows=len(tokens) - keep, decode=decode
        )
        branch.tokens, branch.fed = tokens, len(tokens)
        self._take(branch, step)

    async def leave(self, branch: _Branch) -> None:
        """Remove one reader; a draft without readers is freed."""
        branch.readers -= 1
        if branch.readers == 0 and branch in self._branches[1:]:
            self._branches.remove(branch)
            await self._model.close(branch.session)

    def _take(self, branch: _Branch, step: Step) -> None:
        branch.take(step)
        self.passes += 1 + max(len(step.new_ids) - 1, 0)


class DraftReader:
    """One answer's position in the drafts. `ahead`: plug-in tokens that one call drafts from now on."""

    def __init__(self, drafter: Drafter, branch: _Branch, lead: bytes) -> None:
        self._drafter = drafter
        self._branch = branch
        self._lead = lead
        self.ahead = 8
        branch.readers += 1

    @property
    def weight(self) -> float:
        """The gate's w."""
        return self._drafter.weight

    @property
    def passes(self) -> int:
        """Plug-in passes of all drafts of the question so far."""
        return self._drafter.passes

    @property
    def edits(self) -> tuple[str, ...]:
        """Ids of the edits that the view contains."""
        return self._drafter.edits

    async def leave(self) -> None:
        """Stop reading."""
        await self._drafter.leave(self._branch)

    async def follow(self, answer: bytes) -> None:
        """Make the draft begin with the answer written so far; a draft that already does is unchanged."""
        answer = self._lead + answer
        branch = self._branch
        while len(self._text()) < len(answer) and answer.startswith(self._text()) and not self._ended():
            async with branch.lock:
                if len(self._text()) < len(answer) and not self._ended():
                    await self._drafter.draft(branch, self.ahead)
        if not self._text().startswith(answer):
            self._branch = await self._drafter.begin_anew(branch, answer, max(self.ahead, 1))

    async def boundary(self, answer: bytes) -> DraftPosition:
        """The plug-in's distribution after the answer so far, tokenised by itself, so at the start of a token."""
        answer = self._lead + answer
        tokens = list(self._drafter.codec.encode_bytes(answer))
        if tokens != self._branch.tokens[: len(tokens)] or len(self._branch.rows) <= len(tokens):
            self._branch = await self._drafter.begin_anew(self._branch, answer, decode=0)
        ids_K, p_K = self._branch.rows[len(tokens)]
        return DraftPosition(ids_K, p_K)

    async def read(self, offset: int, target: Codec) -> DraftPosition:
        """The plug-in's distribution at a byte of its draft, and the target token proposed there.

        The draft is extended as far as the position needs. `offset` must not lie beyond the draft's end.
        """
        while not self.ready(offset):
            async with self._branch.lock:
                if not self.ready(offset):
                    await self._drafter.draft(self._branch, self.ahead)
        branch = self._branch
        return read_draft(branch.tokens, branch.rows, self._drafter.codec, offset + len(self._lead), target)

    async def whole(self, most: int) -> bytes:
        """The direct answer from its beginning to the draft's end; at most `most` plug-in tokens of it."""
        await self.follow(b"")
        while not self._ended() and len(self._branch.tokens) < most:
            async with self._branch.lock:
                if not self._ended():
                    await self._drafter.draft(self._branch, self.ahead)
        return self._drafter.codec.bytes_of(self._branch.tokens[:most])[len(self._lead) :]

    def ready(self, offset: int) -> bool:
        """Whether `read(offset)` needs no further drafting."""
        tokens = self._branch.tokens
        index, _ = token_at(tokens, self._drafter.codec, offset + len(self._lead))
        return self._ended() or index + LOOKAHEAD <= len(tokens)

    def _ended(self) -> bool:
        tokens = self._branch.tokens
        return bool(tokens) and tokens[-1] in self._drafter.codec.end_ids

    def _text(self) -> bytes:
        return self._drafter.codec.bytes_of(self._branch.tokens)


def _moved(branch: _Branch, to: _Branch) -> _Branch:
    branch.readers -= 1
    to.readers += 1
    return to
