"""A plug-in without a KV cache, for comparison: every call reads the prompt and the answer so far again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from onceedit_ray.models.protocol import LanguageModel, Reading, Step
from onceedit_ray.models.sampling import GREEDY, Sampling


class Reprefilling:
    """`LanguageModel` as DEEPEN's released code uses its helpers: re-tokenised and prefilled again for every token."""

    def __init__(self, model: LanguageModel) -> None:
        self._model = model
        self._held: dict[int, list[int]] = {}

    async def open(
        self,
        ids: Sequence[int],
        rows: int = 1,
        decode: int = 0,
        threshold: float = 0.0,
        sampling: Sampling = GREEDY,
    ) -> Step:
        step = await self._model.open(ids, rows, decode, threshold, sampling)
        await self._model.close(step.session)
        self._held[step.session] = [*ids, *step.new_ids[:-1]]
        return step

    async def extend(
        self,
        session: int,
        keep: int,
        ids: Sequence[int],
        rows: int = 1,
        decode: int = 0,
        sampling: Sampling = GREEDY,
    ) -> Step:
        step = await self.open([*self._held[session][:keep], *ids], rows, decode, 0.0, sampling)
        self._held[session] = self._held.pop(step.session)
        return replace(step, session=session)

    async def score(self, ids: Sequence[int]) -> Reading:
        return await self._model.score(ids)

    async def fork(self, session: int) -> int:
        fork = max(self._held) + 1
        self._held[fork] = list(self._held[session])
        return fork

    async def close(self, session: int) -> None:
        self._held.pop(session, None)
