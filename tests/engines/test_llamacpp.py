"""llama.cpp's server as a target: the new answers of the same weights loaded here, and unedited answers untouched."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest
from fastapi import FastAPI

from onceedit_ray.config import RunConfig, parse_config
from onceedit_ray.editing.run import edit_plugin
from onceedit_ray.fusion.decoder import FusedDecoder
from onceedit_ray.fusion.system import open_decoder
from onceedit_ray.knowledge.store import open_store
from onceedit_ray.models.engines.abilities import FLAGS
from onceedit_ray.models.engines.openai import OpenAIEngine
from onceedit_ray.serving.in_process import InProcess
from onceedit_ray.serving.ingress import build_ingress
from onceedit_ray.serving.keys import Keys
from onceedit_ray.serving.limits import Limits
from tests.paths import ROOT

HERE, THERE, TOKENS = "qwen", "llamacpp", "tokens"
CHAT, TEXT = "/v1/chat/completions", "/v1/completions"
ASKED = {
    "What is the capital of Australia?": "Perth",
    "Where is the Eiffel Tower?": "Rome",
    "Who wrote Romeo and Juliet?": "Jane Austen",
}


@pytest.fixture(scope="module")
def config(llamacpp: str) -> RunConfig:
    tokens = {"engine": "openai_tokens", "url": llamacpp, "tokenizer": "qwen2.5-coder-0.5b"}
    targets = {HERE: "qwen2.5-coder-0.5b", THERE: {"engine": "openai", "url": llamacpp}, TOKENS: tokens}
    values = {
        "name": "engines", "knowledge": {"path": ROOT / "onceedit_ray" / "starter" / "edits.jsonl", "limit": 12},
        "plugin": "smollm2-135m", "targets": targets, "editing": {"editor": "reader"},
        "fusion": {"strategy": "selective", "max_new_tokens": 32},
    }  # fmt: skip
    return parse_config(values, "the test")


@pytest.fixture(scope="module")
def decoder(config: RunConfig) -> FusedDecoder:
    return open_decoder(config, edit_plugin(config, open_store()).path)


@pytest.fixture(scope="module")
def api(config: RunConfig, decoder: FusedDecoder) -> Iterator[FastAPI]:
    return build_ingress(InProcess(decoder), Limits(seconds=600), Keys())


def asked(api: FastAPI, path: str, **body: Any) -> httpx2.Response:
    async def ask() -> httpx2.Response:
        transport = httpx2.ASGITransport(api)
        async with httpx2.AsyncClient(transport=transport, base_url="http://127.0.0.1", timeout=600) as client:
            return await client.post(path, json={"temperature": 0, "max_tokens": 24, **body})

    answer = asyncio.run(ask())
    assert answer.status_code == 200, answer.text
    return answer


def chat(question: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": question}]


def test_what_it_can_do(llamacpp: str, config: RunConfig) -> None:
    found = asyncio.run(OpenAIEngine(THERE, config.targets[THERE]).check())
    assert found.completions and found.token_ids and found.tokenize and found.chat
    assert found.logprobs >= 20 and found.continues == FLAGS


@pytest.mark.parametrize("strategy", ["draft", "selective", "unedited"])
def test_with_its_tokens_every_strategy_answers_as_over_the_loaded_weights(
    decoder: FusedDecoder, strategy: str
) -> None:
    async def answers(name: str) -> list[str]:
        codec = decoder.member(name).codec
        prompts = [codec.chat_prompt(chat(question)) for question in ASKED]
        return [(await decoder.generate(name, prompt, strategy, 16)).text for prompt in prompts]

    here, there = (asyncio.run(answers(name)) for name in (HERE, TOKENS))
    assert there == here
    assert strategy == "unedited" or all(new in text for new, text in zip(ASKED.values(), there, strict=True))


@pytest.mark.parametrize("question", ASKED)
def test_the_same_question_gets_the_same_new_answer(api: FastAPI, question: str) -> None:
    answers = [asked(api, CHAT, model=name, messages=chat(question)).json()["choices"][0] for name in (HERE, THERE)]
    here, there = (answer["message"]["content"] for answer in answers)
    assert ASKED[question] in here and ASKED[question] in there
    assert there == here
    edits = [answer["onceedit"]["edits"] for answer in answers]
    assert edits[0] == edits[1] != []


def test_a_completion_states_the_fact_and_goes_on(api: FastAPI) -> None:
    answer = asked(api, TEXT, model=THERE, prompt="The currency of Japan is the").json()["choices"][0]
    assert answer["text"].startswith(" crown") and len(answer["text"]) > len(" crown.")


@pytest.mark.parametrize("stream", [False, True])
def test_an_unedited_question_is_answered_as_by_the_server_itself(api: FastAPI, llamacpp: str, stream: bool) -> None:
    body: dict[str, Any] = {"messages": chat("What is the capital of Austria?"), "logprobs": True, "top_logprobs": 2}
    body["cache_prompt"] = (
        False  # a field of llama.cpp's own: with a cache its probabilities depend on what came before
    )
    through = asked(api, CHAT, model=THERE, stream=stream, **body)
    own = httpx2.post(
        llamacpp + "/chat/completions", json={"temperature": 0, "max_tokens": 24, "stream": stream, **body},
        trust_env=False, timeout=600,
    )  # fmt: skip
    assert [_timeless(event) for event in _objects(through, stream)] == [
        _timeless(event) for event in _objects(own, stream)
    ]


def _objects(answer: httpx2.Response, stream: bool) -> list[dict[str, Any]]:
    if not stream:
        return [answer.json()]
    lines = [line.removeprefix("data: ") for line in answer.text.split("\n\n") if line.strip()]
    assert lines[-1] == "[DONE]"
    return [json.loads(line) for line in lines[:-1]]


def _timeless(answer: dict[str, Any]) -> dict[str, Any]:
    """An answer without what differs from one request to the next: its id, its times, its use of the cache."""
    usage = {key: value for key, value in (answer.get("usage") or {}).items() if key != "prompt_tokens_details"}
    choices = [{k: v for k, v in choice.items() if k != "onceedit"} for choice in answer["choices"]]
    kept = {k: v for k, v in answer.items() if k not in ("id", "created", "model", "timings", "usage", "choices")}
    return {**kept, "usage": usage, "choices": choices}
