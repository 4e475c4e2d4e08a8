"""Requests of one question share drafts while they run; none of them may change another one's answer."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence

from onceedit_ray.fusion.decoder import FusedDecoder
from onceedit_ray.fusion.outputs import Generation
from onceedit_ray.models.sampling import GREEDY, Sampling
from tests.small_decoding import BEGUN, decoder_of, open_sessions
from tests.small_system import TaughtModels

WAYS = [Sampling(1.5, 1.0, seed) for seed in range(6)] + [GREEDY]


async def staggered(decoder: FusedDecoder, target: str, prompt: str, ways: Sequence[Sampling]) -> list[Generation]:
    """One answer in each way; each begins when the one before it has written two pieces, and goes on beside it."""

    async def written(at: int) -> list[Generation]:
        found: list[Generation] = []
        later: asyncio.Task[list[Generation]] | None = None
        pieces = 0
        async with contextlib.aclosing(decoder.stream(target, prompt, None, 12, ways[at], stride=1)) as stream:
            async for piece in stream:
                pieces += 1
                if isinstance(piece, Generation):
                    found.append(piece)
                if later is None and at + 1 < len(ways) and (pieces == 2 or found):
                    later = asyncio.ensure_future(written(at + 1))
                    await asyncio.sleep(0.01)
        return found + (await later if later is not None else [])

    return await written(0)


def test_a_request_that_joins_reads_the_plugins_own_draft(models: TaughtModels) -> None:
    """The first one's answer may have left the draft by then; its session was written anew for that answer."""
    for target in list(models.members)[:2]:
        for prompt in BEGUN[:2]:
            decoder = decoder_of(models, 0.6)

            async def alone(decoder: FusedDecoder = decoder, target: str = target, prompt: str = prompt) -> list[str]:
                return [(await decoder.generate(target, prompt, None, 12, way)).text for way in WAYS]

            beside = asyncio.run(staggered(decoder, target, prompt, WAYS))
            one = asyncio.run(alone())
            bad = [
                (target, prompt, i, a.text, b) for i, (a, b) in enumerate(zip(beside, one, strict=True)) if a.text != b
            ]
            assert bad == []
            assert open_sessions(models) == 0
