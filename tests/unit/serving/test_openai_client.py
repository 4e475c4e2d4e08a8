"""The official client with all arguments that it, and libraries built on it, send by default."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import openai
import pytest

from tests.small_decoding import BEGUN, open_sessions
from tests.small_ingress import TARGETS, client_of, ingress_of, small_backend
from tests.small_system import TaughtModels

PROMPT = BEGUN[0]
TURN: Any = {"role": "user", "content": PROMPT}


def talk(models: TaughtModels, talking: Callable[[openai.AsyncOpenAI], Awaitable[None]]) -> None:
    async def run() -> None:
        async with client_of(ingress_of(small_backend(models))) as http:
            base = "http://127.0.0.1/v1"
            await talking(openai.AsyncOpenAI(api_key="none", base_url=base, http_client=http, max_retries=0))

    asyncio.run(run())
    assert open_sessions(models) == 0


def test_a_history_is_sent_back_as_it_came(models: TaughtModels) -> None:
    async def talking(client: openai.AsyncOpenAI) -> None:
        first = (await client.chat.completions.create(model="qwen2", messages=[TURN])).choices[0].message
        for reply in (first, first.model_dump(), {"role": "assistant", "content": None}):
            again = await client.chat.completions.create(model="qwen2", messages=[TURN, reply, TURN])
            assert again.usage is not None and again.usage.prompt_tokens > 2

    talk(models, talking)


def test_what_changes_nothing_may_be_sent(models: TaughtModels) -> None:
    async def talking(client: openai.AsyncOpenAI) -> None:
        plain = await client.chat.completions.create(model="qwen2", messages=[TURN], temperature=0)
        told = await client.chat.completions.create(
            model="qwen2", messages=[TURN], temperature=0, store=False, service_tier="auto", metadata={"a": "b"},
            parallel_tool_calls=True, tool_choice="auto", prompt_cache_key="k", safety_identifier="s",
            modalities=["text"], verbosity="medium",
        )  # fmt: skip
        assert told.choices[0].message == plain.choices[0].message
        stream = await client.chat.completions.create(
            model="qwen2", messages=[TURN], temperature=0, stream=True,
            stream_options={"include_usage": True, "include_obfuscation": False},
        )  # fmt: skip
        chunks = [chunk async for chunk in stream]
        assert chunks[-1].usage == plain.usage

    talk(models, talking)


@pytest.mark.parametrize("wanted", [65, 100_000])
def test_an_answer_ends_where_the_server_grants_no_more(models: TaughtModels, wanted: int) -> None:
    async def talking(client: openai.AsyncOpenAI) -> None:
        granted, more = [
            await client.completions.create(model="mistral", prompt=PROMPT, max_tokens=tokens, temperature=0)
            for tokens in (64, wanted)
        ]
        assert more.choices == granted.choices

    talk(models, talking)


def test_prompts_as_tokens_and_their_echo(models: TaughtModels) -> None:
    ids = list(models.members["mistral"].codec.text_prompt(PROMPT).ids)

    async def talking(client: openai.AsyncOpenAI) -> None:
        text, tokens = [
            await client.completions.create(model="mistral", prompt=prompt, max_tokens=4, temperature=0)
            for prompt in (PROMPT, ids)
        ]
        assert tokens.choices == text.choices
        echo = await client.completions.create(model="mistral", prompt=ids, max_tokens=1, logprobs=1, echo=True)
        found = echo.choices[0].logprobs
        assert found is not None and found.token_logprobs is not None
        assert len(found.token_logprobs) == len(ids) + 1 and found.token_logprobs[0] is None

    talk(models, talking)


def test_every_name_that_is_answered_is_found(models: TaughtModels) -> None:
    async def talking(client: openai.AsyncOpenAI) -> None:
        assert [(await client.models.retrieve(name)).id for name in (*TARGETS, "*")] == [*TARGETS, "*"]
        with pytest.raises(openai.NotFoundError):
            await client.models.retrieve("**")

    talk(models, talking)
