"""A server whose tokens are known: what is about no edit passes through to it, the rest is fused here."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from fastapi import FastAPI

from onceedit_ray.config import AlignmentConfig, FusionConfig, ModelConfig
from onceedit_ray.fusion.decoder import FusedDecoder
from onceedit_ray.fusion.system import open_tokens
from onceedit_ray.models.assembly import open_codec, open_model
from onceedit_ray.models.engines.openai_tokens import OpenAITokensEngine
from onceedit_ray.serving.in_process import InProcess
from onceedit_ray.serving.ingress import build_ingress
from onceedit_ray.serving.keys import Keys
from tests.small_decoding import BEGUN, decoder_of
from tests.small_ingress import LIMITS, events, post
from tests.small_system import CPU, TaughtModels
from tests.stand_in_server import serving
from tests.token_server import TokenServer

TARGET, PATH = "llama", "/v1/completions"


@dataclass
class Served:
    api: FastAPI
    decoder: FusedDecoder
    server: TokenServer


@pytest.fixture(scope="module")
def served(models: TaughtModels) -> Iterator[Served]:
    folder = models.folders["gpt2"]
    codec = open_codec(folder)
    server = TokenServer(open_model(folder, CPU, codec, 20, "server"), codec)
    decoder = decoder_of(models, weight=0.6)
    with serving(server.app()) as url:
        config = ModelConfig(model="auto", engine="openai_tokens", url=url, tokenizer=str(folder))
        engine = OpenAITokensEngine(TARGET, config)
        opening = (models.base, open_codec(models.base.path), FusionConfig(top_k=20), AlignmentConfig())
        decoder.servers[TARGET], decoder.members[TARGET] = engine, open_tokens(engine, *opening)
        yield Served(build_ingress(InProcess(decoder), LIMITS, Keys()), decoder, server)
        asyncio.run(engine.aclose())


def body(**more: Any) -> dict[str, Any]:
    return {"model": TARGET, "prompt": BEGUN[0], "max_tokens": 8, "temperature": 0, **more}


def test_it_is_one_target(served: Served) -> None:
    assert asyncio.run(InProcess(served.decoder).targets()).count(TARGET) == 1
    assert list(asyncio.run(InProcess(served.decoder).served())) == [TARGET]


def test_what_is_about_no_edit_passes_through(served: Served) -> None:
    given = body(onceedit={"unedited": True}, unknown_field=3)
    answer = post(served.api, PATH, given)
    assert answer.status_code == 200
    (asked,) = [each for each in served.server.asked if each.get("unknown_field") == 3]
    assert asked["prompt"] == BEGUN[0] and "onceedit" not in asked
    (choice,) = answer.json()["choices"]
    assert choice["onceedit"]["alone"] and choice["onceedit"]["weight"] is None


def test_what_is_about_an_edit_is_fused(served: Served) -> None:
    expected = asyncio.run(served.decoder.generate(TARGET, BEGUN[0], max_new_tokens=8))
    (choice,) = post(served.api, PATH, body(logprobs=2)).json()["choices"]
    assert choice["text"] == expected.text and not choice["onceedit"]["alone"]
    assert choice["logprobs"]["tokens"]
    streamed = events(post(served.api, PATH, body(stream=True)))
    assert "".join(each["choices"][0]["text"] for each in streamed if each.get("choices")) == expected.text
