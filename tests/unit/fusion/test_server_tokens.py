"""A target whose server gives token ids and log probabilities answers as the same weights loaded here, per strategy."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from onceedit_ray.config import AlignmentConfig, FusionConfig, ModelConfig
from onceedit_ray.fusion.decoder import UNEDITED, FusedDecoder
from onceedit_ray.fusion.system import open_tokens
from onceedit_ray.models.assembly import open_codec, open_model
from onceedit_ray.models.engines.openai_tokens import OpenAITokensEngine
from onceedit_ray.models.sources import resolve
from tests.small_decoding import BEGUN, decoder_of, generations
from tests.small_system import CPU, TaughtModels, small_member
from tests.stand_in_server import serving
from tests.token_server import TokenServer

HERE, THERE = "here", "there"
FUSION = FusionConfig(top_k=20)
PROMPTS = BEGUN[:6]


@dataclass
class Both:
    """One decoder with the same weights loaded here and at a server."""

    decoder: FusedDecoder
    server: TokenServer


@pytest.fixture(scope="module", params=["gpt2", "mistral"])
def both(request: pytest.FixtureRequest, models: TaughtModels) -> Iterator[Both]:
    folder = models.folders[request.param]
    codec = open_codec(folder)
    server = TokenServer(open_model(folder, CPU, codec, FUSION.top_k, "server"), codec)
    decoder = decoder_of(models, weight=0.6)
    decoder.members[HERE] = small_member(HERE, resolve(f"local:{folder}"), models.base, FUSION)
    with serving(server.app()) as url:
        config = ModelConfig(model="auto", engine="openai_tokens", url=url, tokenizer=str(folder))
        engine = OpenAITokensEngine(THERE, config)
        base_codec = open_codec(models.base.path)
        decoder.members[THERE] = open_tokens(engine, models.base, base_codec, FUSION, AlignmentConfig())
        yield Both(decoder, server)
        asyncio.run(engine.aclose())


@pytest.mark.parametrize("strategy", ["draft", "onceedit", "calibrated", "unite", UNEDITED])
def test_answers_are_those_of_the_loaded_model(both: Both, strategy: str) -> None:
    here, there = (generations(both.decoder, name, PROMPTS, strategy) for name in (HERE, THERE))
    assert [answer.text for answer in there] == [answer.text for answer in here]
    assert [answer.token_ids for answer in there] == [answer.token_ids for answer in here]
    assert [answer.ended for answer in there] == [answer.ended for answer in here]


def test_a_draft_is_verified_by_one_request_with_its_prefixes(both: Both) -> None:
    begun = len(both.server.asked)
    answers = generations(both.decoder, THERE, PROMPTS, "draft")
    several = [body for body in both.server.asked[begun:] if len(body["prompt"]) > 1]
    assert several and any(answer.weight for answer in answers)
    for body in several:
        shortest, *longer = body["prompt"]
        assert body["max_tokens"] == 1
        assert all(each[: len(shortest)] == shortest for each in longer)
        assert [len(each) for each in longer] == [len(shortest) + n for n in range(1, len(longer) + 1)]


def test_scores_are_those_of_the_loaded_model(both: Both) -> None:
    async def scores(name: str) -> list[object]:
        found = []
        for prompt in PROMPTS[:3]:
            gold = await both.decoder.gold(name, prompt, "Paris and Rome")
            found.append(await both.decoder.score(name, prompt, gold, "draft"))
        return found

    assert asyncio.run(scores(THERE)) == asyncio.run(scores(HERE))
