"""Answers of a target that reads edits in its own prompt (strategies of the kind `InPrompt`); the plug-in is not used.

request → edits that it may be about: none → the target alone, bit-identical
        → some → the target answers the request with a note that states them before it
        → a strategy that contrasts → it answers with and without the note, token by token, and both are fused
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, replace

from onceedit_ray.errors import ContextLengthError
from onceedit_ray.fusion.retokenise import DraftPosition
from onceedit_ray.fusion.speculative import SpeculativeAnswer
from onceedit_ray.fusion.strategies import InPrompt
from onceedit_ray.knowledge.edit import Edit
from onceedit_ray.models.protocol import Step

NOTE = "These facts hold now, whatever you learnt before. Use them where the request is about them:"


def note_of(edits: Sequence[Edit]) -> str:
    """The note that states edits, one a line, each as its question with its answer."""
    return "\n".join([NOTE, *(" ".join(f"- {edit.question} {edit.target_new}".split()) for edit in edits)])


@dataclass
class InPromptAnswer:
    """One target's answer.

    answer: the target with the edits in its prompt. plain_ids: the prompt without them. strategy: fuses the two.
    edits: ids of the edits in the prompt.
    """

    answer: SpeculativeAnswer
    plain_ids: list[int]
    strategy: InPrompt
    edits: tuple[str, ...]

    async def pieces(self) -> AsyncIterator[list[int]]:
        """The answer's tokens, piece by piece."""
        if not self.strategy.contrasts:
            async for ids in self.answer.alone():
                yield ids
            return
        answer = self.answer
        plain = replace(answer, prompt_ids=self.plain_ids, session=None)  # shares the answer's list of tokens
        async with contextlib.aclosing(plain):
            while not answer.done:
                try:
                    told, own = await asyncio.gather(answer.next_row(), plain.next_row())
                except ContextLengthError:
                    if not answer.ids:
                        raise
                    return
                answer.passes += 2
                answer.take(self.strategy.fuse(DraftPosition(*told), *own, 1.0))
                yield answer.ids[-1:]

    async def predicted(self, gold: Sequence[int]) -> tuple[int, ...]:
        """Teacher-forced: the token chosen at each position of `gold`, given the gold tokens before it."""

        async def read(prompt_ids: list[int]) -> Step:
            step = await self.answer.model.open([*prompt_ids, *gold[:-1]], rows=len(gold))
            await self.answer.model.close(step.session)
            return step

        told = await read(self.answer.prompt_ids)
        own = await read(self.plain_ids) if self.strategy.contrasts else told
        fused = (self.strategy.fuse(DraftPosition(*told.top.row(at)), *own.top.row(at), 1.0) for at in range(len(gold)))
        return tuple(each.likeliest for each in fused)
