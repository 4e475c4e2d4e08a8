"""The route of a request: given as text or as a prompt, screened, gated, and ended by the caller."""

from __future__ import annotations

import contextlib
from dataclasses import replace

import pytest

from onceedit_ray.fusion.decoder import UNEDITED, FusedDecoder
from onceedit_ray.fusion.outputs import Generation
from onceedit_ray.fusion.screen import Screen
from onceedit_ray.knowledge.edit import Edit
from tests.small_decoding import BEGUN, BUDGET, decoder_of, open_sessions
from tests.small_system import TaughtModels

TARGET = "qwen2"
PROMPT = BEGUN[0]
ELSEWHERE = Screen([Edit(prompt="Zebra", target_new="x")])


@pytest.mark.parametrize(
    ("strategy", "weight", "screen", "expected"),
    [
        (UNEDITED, 0.6, None, (None, True, False)),
        (None, 0.6, ELSEWHERE, (0.0, True, False)),
        (None, 0.4, None, (0.4, True, True)),
        (None, 0.6, None, (0.6, False, True)),
        ("gac", 0.4, ELSEWHERE, (0.4, False, True)),
    ],
    ids=["unedited", "screened out", "below the threshold", "above it", "a strategy without a gate"],
)
async def test_an_answer_and_a_score_go_the_same_way(
    models: TaughtModels,
    strategy: str | None,
    weight: float,
    screen: Screen | None,
    expected: tuple[float | None, bool, bool],
) -> None:
    decoder = decoder_of(models, weight, threshold=0.5)
    decoder.plugin.screen = screen

    answer = await decoder.generate(TARGET, PROMPT, strategy)
    score = await decoder.score(TARGET, PROMPT, answer.token_ids, strategy)
    assert (answer.weight, answer.alone, answer.plugin_passes > 0) == expected
    assert (score.weight, score.alone, score.plugin_passes > 0) == expected
    assert score.predicted == answer.token_ids, "the answer's own tokens are those that are predicted"
    assert open_sessions(models) == 0


@pytest.mark.parametrize("beside", [True, False])
@pytest.mark.parametrize("weight", [0.4, 0.6])
async def test_whoever_asks_may_end_an_answer(models: TaughtModels, weight: float, beside: bool) -> None:
    decoder = decoder_of(models, weight, threshold=0.5, max_new_tokens=24, draft_tokens=2)
    decoder.members = {TARGET: replace(decoder.members[TARGET], beside=beside)}
    written: list[int] = []

    async def ask() -> Generation:
        pieces = decoder.stream(TARGET, PROMPT, stride=1, stop=lambda: len(written) >= 2)
        async with contextlib.aclosing(pieces):
            async for piece in pieces:
                if isinstance(piece, Generation):
                    return piece
                written.extend(piece)
        raise AssertionError("an answer ends with a Generation")

    whole = await decoder.generate(TARGET, PROMPT)
    ended = await ask()
    assert 2 <= len(written) < len(whole.token_ids)
    assert ended.token_ids == tuple(written) == whole.token_ids[: len(written)]
    assert (ended.weight, ended.alone, ended.ended) == (whole.weight, whole.alone, False)
    assert open_sessions(models) == 0


async def test_a_text_and_the_prompt_made_of_it_are_one_request(decoder: FusedDecoder) -> None:
    codec = decoder.members[TARGET].codec
    text = codec.render(PROMPT, "chat")

    for prompt in (codec.prompt(text), codec.chat_prompt([{"role": "user", "content": PROMPT}])):
        assert await decoder.generate(TARGET, prompt) == await decoder.generate(TARGET, text)
        gold = codec.encode_answer(text, "Rome")
        assert await decoder.score(TARGET, prompt, gold) == await decoder.score(TARGET, text, gold)
        assert await decoder.gate(prompt) == await decoder.gate(text)
        assert await decoder.mentioned(prompt) == await decoder.mentioned(text)


async def test_the_plug_in_reads_a_question_as_text(models: TaughtModels) -> None:
    """A question that spells the plug-in's [WEIGHT] token does not put that token before it."""
    decoder = decoder_of(models, 0.6)
    seen: list[list[int]] = []
    opened = decoder.plugin.model.open

    async def recording(ids: list[int], *arguments: object, **options: object) -> object:
        seen.append(list(ids))
        return await opened(ids, *arguments, **options)  # type: ignore[arg-type]

    decoder.plugin.model.open = recording  # type: ignore[method-assign]
    answer = await decoder.generate(TARGET, f"{PROMPT} [WEIGHT]", max_new_tokens=BUDGET)
    assert answer.plugin_passes and seen and models.plugin_codec.weight_id not in seen[0]
