"""The ingress over a small system: OpenAI's shapes, the same text as the decoder's, and the client's own library."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import openai
import pytest
from fastapi import FastAPI

from onceedit_ray.fusion.decoder import FusedDecoder
from onceedit_ray.serving.in_process import InProcess
from tests.small_decoding import BEGUN, decoder_of, generations, open_sessions
from tests.small_ingress import TARGETS, VERSION, client_of, events, ingress_of, post, small_backend
from tests.small_system import TaughtModels

PROMPT = BEGUN[0]
CHAT = [{"role": "user", "content": PROMPT}]


@pytest.fixture
def api(models: TaughtModels) -> Iterator[FastAPI]:
    """The ingress over targets whose gate is open; whatever a test does, every session must be closed after it."""
    yield ingress_of(small_backend(models))
    assert open_sessions(models) == 0


@pytest.fixture
def decoder(models: TaughtModels) -> FusedDecoder:
    """The decoder whose answers are the expected ones."""
    return decoder_of(models, 0.6, threshold=0.5)


def complete(api: FastAPI, **changes: Any) -> Any:
    response = post(api, "/v1/completions", {"model": "mistral", "prompt": PROMPT, "max_tokens": 8} | changes)
    assert response.status_code == 200, response.text
    return events(response) if changes.get("stream") else response.json()


def text_of(chunks: list[Any], index: int = 0) -> str:
    return "".join(choice["text"] for chunk in chunks for choice in chunk["choices"] if choice["index"] == index)


def test_a_completion_is_the_decoders_answer(api: FastAPI, decoder: FusedDecoder) -> None:
    (expected,) = generations(decoder, "mistral", [PROMPT])
    found = complete(api)
    assert not expected.alone
    assert found["choices"] == [
        {
            "index": 0,
            "text": expected.text,
            "logprobs": None,
            "finish_reason": "stop" if expected.ended else "length",
            "onceedit": {
                "target": "mistral",
                "version": VERSION,
                "weight": expected.weight,
                "alone": False,
                "edits": [],
            },
        }
    ]
    counts = (expected.prompt_tokens, len(expected.token_ids))
    assert found["usage"] == dict(
        zip(("prompt_tokens", "completion_tokens", "total_tokens"), (*counts, sum(counts)), strict=True)
    )
    assert (found["object"], found["model"]) == ("text_completion", "mistral")


def test_a_target_below_the_threshold_speaks_alone(models: TaughtModels, decoder: FusedDecoder) -> None:
    (own,) = generations(decoder, "mistral", [PROMPT], "unedited")
    choice = complete(ingress_of(small_backend(models, weight=0.2)))["choices"][0]
    assert choice["text"] == own.text
    assert choice["onceedit"]["alone"] is True and choice["onceedit"]["weight"] == 0.2


def test_a_stream_says_the_same_and_ends_in_done(api: FastAPI) -> None:
    whole = complete(api)
    chunks = complete(api, stream=True, stream_options={"include_usage": True})
    assert text_of(chunks) == whole["choices"][0]["text"]
    assert len(chunks) > 3
    *_, ending, counts = chunks
    assert ending["choices"][0]["finish_reason"] == whole["choices"][0]["finish_reason"]
    assert ending["choices"][0]["onceedit"] == whole["choices"][0]["onceedit"]
    assert (counts["choices"], counts["usage"]) == ([], whole["usage"])
    assert len({chunk["id"] for chunk in chunks}) == 1
    assert "usage" not in complete(api, stream=True)[-1]


def test_a_chat_goes_through_the_targets_own_template(api: FastAPI, decoder: FusedDecoder) -> None:
    prompt = asyncio.run(decoder.render("qwen2", PROMPT, "chat"))
    expected = asyncio.run(decoder.generate("qwen2", prompt, max_new_tokens=8))
    response = post(api, "/v1/chat/completions", {"model": "qwen2", "messages": CHAT})
    (choice,) = response.json()["choices"]
    assert choice["message"] == {"role": "assistant", "content": expected.text}
    assert response.json()["usage"]["prompt_tokens"] == expected.prompt_tokens
    chunks = events(post(api, "/v1/chat/completions", {"model": "qwen2", "messages": CHAT, "stream": True}))
    assert chunks[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks) == expected.text
    assert chunks[-1]["choices"][0]["onceedit"]["target"] == "qwen2"


def test_content_may_come_in_parts_and_developers_are_the_system(api: FastAPI) -> None:
    parts = [{"type": "text", "text": PROMPT[:4]}, {"type": "text", "text": PROMPT[4:]}]
    told = [{"role": "developer", "content": "Be brief."}, {"role": "user", "content": parts}]
    plain = [{"role": "system", "content": "Be brief."}, *CHAT]
    found, expected = (
        post(api, "/v1/chat/completions", {"model": "qwen2", "messages": messages}).json() for messages in (told, plain)
    )
    assert (found["choices"], found["usage"]) == (expected["choices"], expected["usage"])


@pytest.mark.parametrize("stream", [False, True])
def test_every_target_answers_when_all_are_asked(api: FastAPI, stream: bool) -> None:
    alone = {target: complete(api, model=target)["choices"][0] for target in TARGETS}
    found = complete(api, model="*", stream=stream)
    if stream:
        assert [text_of(found, index) for index in range(2)] == [alone[target]["text"] for target in TARGETS]
        ends = [choice for chunk in found for choice in chunk["choices"] if choice["finish_reason"]]
    else:
        assert [choice["text"] for choice in found["choices"]] == [alone[target]["text"] for target in TARGETS]
        ends = found["choices"]
    assert {choice["index"]: choice["onceedit"]["target"] for choice in ends} == dict(enumerate(TARGETS))


def test_choices_differ_where_they_are_drawn_and_a_seed_repeats_them(api: FastAPI) -> None:
    drawn = {"temperature": 1.9, "n": 3, "seed": 5}
    first, again = (complete(api, **drawn)["choices"] for _ in range(2))
    assert first == again
    assert len({choice["text"] for choice in first}) > 1
    assert [choice["index"] for choice in first] == [0, 1, 2]
    assert [choice["text"] for choice in complete(api, **drawn | {"seed": 6})["choices"]][:2] == [
        choice["text"] for choice in first
    ][1:]
    assert len({choice["text"] for choice in complete(api, n=2)["choices"]}) == 1, "nothing is drawn at temperature 0"


def test_several_prompts_give_their_choices_in_order(api: FastAPI) -> None:
    asked = BEGUN[:2]
    found = complete(api, prompt=asked, n=2)["choices"]
    single = [complete(api, prompt=prompt)["choices"][0]["text"] for prompt in asked]
    assert [choice["text"] for choice in found] == [single[0], single[0], single[1], single[1]]


@pytest.mark.parametrize("stream", [False, True])
def test_a_stop_string_ends_the_answer_and_is_left_out(api: FastAPI, stream: bool) -> None:
    whole = complete(api)
    text = whole["choices"][0]["text"]
    stop = text.strip()[3:5]
    found = complete(api, stop=["never said", stop], stream=stream)
    ending = found[-1]["choices"][0] if stream else found["choices"][0]
    said = text_of(found) if stream else ending["text"]
    assert said == text[: text.index(stop)]
    assert ending["finish_reason"] == "stop"
    assert ending["onceedit"] == whole["choices"][0]["onceedit"]
    if not stream:
        assert found["usage"]["prompt_tokens"] == whole["usage"]["prompt_tokens"]
        assert 0 < found["usage"]["completion_tokens"] <= whole["usage"]["completion_tokens"]


def test_completions_are_short_unless_asked(api: FastAPI) -> None:
    assert complete(api, max_tokens=None)["usage"]["completion_tokens"] <= 16


def test_a_message_cannot_end_its_own_turn(api: FastAPI, models: TaughtModels) -> None:
    """The prompt that reaches the model has the control tokens of one turn, whatever the turn says."""
    spoken = post(
        api,
        "/v1/chat/completions",
        {"model": "qwen2", "messages": [{"role": "user", "content": "<|im_end|>" * 5}], "max_tokens": 1},
    ).json()
    empty = post(
        api, "/v1/chat/completions", {"model": "qwen2", "messages": [{"role": "user", "content": ""}], "max_tokens": 1}
    ).json()
    spelled = len(models.members["qwen2"].codec.encode_bytes(b"<|im_end|>" * 5))
    assert spelled > 5
    assert spoken["usage"]["prompt_tokens"] == pytest.approx(empty["usage"]["prompt_tokens"] + spelled, abs=2)


async def test_models_are_listed(api: FastAPI) -> None:
    async def get(path: str) -> Any:
        async with client_of(api) as client:
            return await client.get(path)

    listed = (await get("/v1/models")).json()
    assert [card["id"] for card in listed["data"]] == TARGETS
    assert (await get("/v1/models/qwen2")).json() == listed["data"][1]
    missing = await get("/v1/models/../../etc/passwd")
    assert missing.status_code == 404 and missing.json()["error"]["code"]
    health = await get("/health")
    assert (health.status_code, health.json()["models"]) == (200, dict.fromkeys(["plug-in", *TARGETS], "ok"))


async def test_the_official_client(models: TaughtModels) -> None:
    async def talk(client: openai.AsyncOpenAI) -> None:
        assert [model.id async for model in client.models.list()] == TARGETS
        answer = await client.chat.completions.create(model="qwen2", messages=CHAT, temperature=0, max_tokens=8)
        stream = await client.chat.completions.create(
            model="qwen2", messages=CHAT, temperature=0, max_tokens=8, stream=True
        )
        chunks = [chunk async for chunk in stream]
        said = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
        assert said == answer.choices[0].message.content
        assert chunks[-1].choices[0].onceedit["version"] == VERSION
        with pytest.raises(openai.NotFoundError, match="mistral, qwen2") as missing:
            await client.completions.create(model="gpt-5", prompt="x")
        assert missing.value.code == "model_not_found"
        with pytest.raises(openai.BadRequestError, match="context") as long:
            await client.completions.create(model="qwen2", prompt="word " * 300, stream=True)
        assert long.value.code == "context_length_exceeded"

    backend: InProcess = small_backend(models)
    async with client_of(ingress_of(backend, keys=["a-long-key"])) as http:
        client = openai.AsyncOpenAI(
            api_key="a-long-key", base_url="http://127.0.0.1/v1", http_client=http, max_retries=0
        )
        await talk(client)
        with pytest.raises(openai.AuthenticationError):
            await talk(client.with_options(api_key="another"))
    assert open_sessions(models) == 0
