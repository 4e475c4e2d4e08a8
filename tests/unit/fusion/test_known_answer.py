"""An answer that is made again with its beginning known: the same tokens whatever is known, in fewer passes."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace

import pytest

from onceedit_ray.fusion.decoder import UNEDITED, FusedDecoder
from onceedit_ray.fusion.known_answer import KnownAnswer
from onceedit_ray.fusion.outputs import Generation
from onceedit_ray.models.local_model import LocalModel
from onceedit_ray.models.sampling import GREEDY, Sampling
from tests.small_decoding import BEGUN, open_sessions
from tests.small_system import TaughtModels

BUDGET = 24


def streamed(
    decoder: FusedDecoder, target: str, text: str, strategy: str | None, known: Sequence[int], sampling: Sampling
) -> tuple[list[list[int]], Generation]:
    prompt = replace(decoder.member(target).codec.prompt(text), known=tuple(known))

    async def ask() -> tuple[list[list[int]], Generation]:
        pieces: list[list[int]] = []
        async for piece in decoder.stream(target, prompt, strategy, BUDGET, sampling):
            if isinstance(piece, Generation):
                return pieces, piece
            pieces.append(piece)
        raise AssertionError("an answer ends with a Generation")

    return asyncio.run(ask())


@pytest.mark.parametrize("strategy", [UNEDITED, "draft", "onceedit"])
@pytest.mark.parametrize("sampling", [GREEDY, Sampling(0.8, 0.9, 3)])
def test_what_is_known_changes_no_token_and_no_piece(decoder: FusedDecoder, strategy: str, sampling: Sampling) -> None:
    # Both go the same way for every target: half of them show the one, half the other.
    for target in list(decoder.members)[0 if sampling is GREEDY else 1 :: 2]:
        pieces, whole = streamed(decoder, target, BEGUN[0], strategy, (), sampling)
        ids = whole.token_ids
        wrong = [*ids[:5], (ids[min(5, len(ids) - 1)] + 1) % 50, *ids[6:]]
        for known in (ids, ids[:7], wrong, [*ids, *ids, *ids]):
            again, found = streamed(decoder, target, BEGUN[0], strategy, known, sampling)
            assert (again, found.token_ids, found.ended) == (pieces, ids, whole.ended), (target, known)


def test_known_tokens_are_read_in_few_passes(models: TaughtModels) -> None:
    for member in models.members.values():
        model = member.model
        assert isinstance(model, LocalModel)
        prompt = member.codec.encode_prompt("The river Nile flows")

        async def decoded(known: Sequence[int], model: LocalModel = model, prompt: Sequence[int] = prompt):  # type: ignore[no-untyped-def]
            begun = model.passes
            answer = KnownAnswer(model, len(prompt), known, frozenset())
            step = await answer.open(prompt, rows=0, decode=12)
            more = await answer.extend(step.session, len(prompt) + 11, step.new_ids[-1:], rows=0, decode=12)
            await answer.close(step.session)
            return [*step.new_ids, *more.new_ids], model.passes - begun

        # No end of the text is told, so that each model writes 24 tokens.
        model_ends, model._end_ids = model._end_ids, frozenset()
        try:
            plain, passes = asyncio.run(decoded(()))
            assert (len(plain), passes) == (24, 24)
            assert asyncio.run(decoded(plain)) == (plain, 2)
            again, passes = asyncio.run(decoded(plain[:14]))
            assert again == plain and passes == 1 + 1 + 9, "one for each piece, then token by token"
        finally:
            model._end_ids = model_ends
    assert open_sessions(models) == 0
