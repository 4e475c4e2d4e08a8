"""Decodes an answer again if its beginning is known: the target checks many known tokens in one pass.

A process that dies loses its sessions, but the client has the text so far. The tokens of that text are only a guess:
each is kept only if the target would choose it too, so a guess can make the answer faster and cannot change it.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Sequence
from dataclasses import replace

from onceedit_ray.errors import ContextLengthError
from onceedit_ray.models.protocol import LanguageModel, Reading, Step
from onceedit_ray.models.sampling import GREEDY, Sampling


class KnownAnswer:
    """A `LanguageModel` for one answer, over the model that gives it.

    Args:
        model: the target. prompt_tokens: the length of its prompt. known: the tokens that probably follow.
        end_ids: tokens that end an answer.
    """

    def __init__(
        self, model: LanguageModel, prompt_tokens: int, known: Sequence[int], end_ids: Collection[int]
    ) -> None:
        self._model = model
        self._prompt_tokens = prompt_tokens
        self._known = tuple(itertools.takewhile(lambda token: token not in end_ids, known))
        self._end_ids = end_ids

    async def open(
        self, ids: Sequence[int], rows: int = 1, decode: int = 0, threshold: float = 0.0, sampling: Sampling = GREEDY
    ) -> Step:
        """As `LanguageModel.open`."""
        guess = self._guess(len(ids), rows, decode, sampling) if not threshold else []
        if guess:
            try:
                step = await self._model.open([*ids, *guess], rows=len(guess) + 1)
                return await self._checked(step, len(ids), guess, decode)
            except ContextLengthError:
                self._known = ()
        return await self._model.open(ids, rows, decode, threshold, sampling)

    async def extend(
        self,
        session: int,
        keep: int,
        ids: Sequence[int],
        rows: int = 1,
        decode: int = 0,
        sampling: Sampling = GREEDY,
    ) -> Step:
        """As `LanguageModel.extend`."""
        guess = self._guess(keep + len(ids), rows, decode, sampling)
        if guess:
            try:
                step = await self._model.extend(session, keep, [*ids, *guess], rows=len(guess) + 1)
                return await self._checked(step, keep + len(ids), guess, decode)
            except ContextLengthError:
                self._known = ()
        return await self._model.extend(session, keep, ids, rows, decode, sampling)

    async def score(self, ids: Sequence[int]) -> Reading:
        """As `LanguageModel.score`."""
        return await self._model.score(ids)

    async def fork(self, session: int) -> int:
        """As `LanguageModel.fork`."""
        return await self._model.fork(session)

    async def close(self, session: int) -> None:
        """As `LanguageModel.close`."""
        await self._model.close(session)

    def _guess(self, at: int, rows: int, decode: int, sampling: Sampling) -> list[int]:
        """The known tokens that may be checked in place of decoding; the last token is always the target's choice.

        A sampled token depends on the whole distribution, of which a pass returns only the largest entries.
        """
        if rows or not sampling.greedy or at < self._prompt_tokens:
            return []
        start = at - self._prompt_tokens
        return list(self._known[start : start + max(decode - 1, 0)])

    async def _checked(self, step: Step, fed: int, guess: Sequence[int], decode: int) -> Step:
        """Keep the guess as far as it is the target's choice, and decode the rest.

        fed: tokens of the session before the guess.
        """
        choices = [int(token) for token in step.top.ids_NK[:, 0]]
        right = next((at for at, token in enumerate(guess) if choices[at] != token), len(guess))
        if right < len(guess):
            self._known = ()  # the tokens after it were known as the continuation of another token
        new = choices[: right + 1]
        if len(new) >= decode or new[-1] in self._end_ids:
            return replace(step, new_ids=tuple(new))
        rest = await self._model.extend(step.session, fed + right, new[-1:], 0, decode - len(new))
        return replace(rest, new_ids=(*new, *rest.new_ids), weight=step.weight)
