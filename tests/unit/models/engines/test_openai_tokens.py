"""A server's model with sessions gives what the same model gives when it is loaded here."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from onceedit_ray.config import ModelConfig
from onceedit_ray.errors import ContextLengthError, EngineError, SessionLostError
from onceedit_ray.models.assembly import open_codec, open_model
from onceedit_ray.models.codec import Codec
from onceedit_ray.models.engines.openai_tokens import OpenAITokensEngine, ServerModel
from onceedit_ray.models.local_model import LocalModel
from onceedit_ray.models.protocol import Step
from onceedit_ray.models.sampling import Sampling
from tests.families import build_family
from tests.small_system import CPU
from tests.stand_in_server import StandIn, running, serving
from tests.token_server import TokenServer

TOP_K = 8
Use = Callable[[ServerModel], Awaitable[Any]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_family("qwen2", tmp_path_factory.mktemp("tokens") / "qwen2", seed=3)


@pytest.fixture(scope="module")
def codec(folder: Path) -> Codec:
    return open_codec(folder)


@pytest.fixture(scope="module")
def local(folder: Path, codec: Codec) -> LocalModel:
    return open_model(folder, CPU, codec, TOP_K, "qwen2")


def engine_at(url: str, tokenizer: Path, **more: Any) -> OpenAITokensEngine:
    return OpenAITokensEngine("llama", ModelConfig(
        model="auto", engine="openai_tokens", url=url, tokenizer=str(tokenizer), **more,
    ))  # fmt: skip


def through(server: TokenServer, folder: Path, use: Use, **more: Any) -> Any:
    """What `use` returns of the server's model."""

    async def go(url: str) -> Any:
        engine = engine_at(url, folder, **more)
        try:
            await engine.check()
            return await use(engine.language_model(server.codec, TOP_K))
        finally:
            await engine.aclose()

    with serving(server.app()) as url:
        return asyncio.run(go(url))


def assert_same(found: Step, expected: Step) -> None:
    assert found.new_ids == expected.new_ids
    np.testing.assert_array_equal(found.top.ids_NK, expected.top.ids_NK)
    np.testing.assert_allclose(found.top.p_NK, expected.top.p_NK, atol=1e-5)
    assert found.weight is None and found.weights == ()


@pytest.mark.parametrize("form", ["vllm", "llamacpp"])
def test_a_session_gives_the_rows_and_tokens_of_the_loaded_model(
    form: Any, folder: Path, codec: Codec, local: LocalModel
) -> None:
    ids = list(codec.encode_prompt("The capital of France is"))

    async def use(model: Any) -> list[Step]:
        opened = await model.open(ids, rows=2)
        decoded = await model.extend(opened.session, len(ids), [5], rows=1, decode=4)
        other = await model.fork(opened.session)
        checked = await model.extend(opened.session, len(ids) + 1, [7, 8, 9], rows=3)
        cut = await model.extend(other, 2, [11], rows=1)
        unseen = await model.extend(other, 3, [12], rows=0, decode=2)
        for session in (opened.session, other, other):
            await model.close(session)
        return [opened, decoded, checked, cut, unseen]

    server = TokenServer(local, codec, form)
    found = through(server, folder, use)
    for step, expected in zip(found, asyncio.run(use(local)), strict=True):
        assert_same(step, expected)
    verified = next(body for body in server.asked if isinstance(body["prompt"], list) and len(body["prompt"]) == 3)
    assert [len(prompt) for prompt in verified["prompt"]] == [len(ids) + 2, len(ids) + 3, len(ids) + 4]
    assert verified["max_tokens"] == 1 and verified["temperature"] == 0


def test_a_text_is_scored_by_an_echo(folder: Path, codec: Codec, local: LocalModel) -> None:
    ids = list(codec.encode_prompt("The capital of France is Paris."))
    found = through(TokenServer(local, codec), folder, lambda model: model.score(ids))
    expected = asyncio.run(local.score(ids))
    np.testing.assert_allclose(found.p_N, expected.p_N, rtol=1e-4)
    np.testing.assert_array_equal(found.top.ids_NK, expected.top.ids_NK)
    with pytest.raises(EngineError, match="leave echo out") as raised:
        through(TokenServer(local, codec, echoes=False), folder, lambda model: model.score(ids))
    assert raised.value.status == 400


@pytest.mark.parametrize("ends", [True, False])
def test_an_answer_stops_at_an_end_of_text_whether_or_not_the_server_tells_it(
    ends: bool, folder: Path, codec: Codec, local: LocalModel
) -> None:
    ids = list(codec.encode_prompt("The"))
    told = asyncio.run(local.open(ids, rows=1, decode=6)).new_ids
    ending = Codec(codec.tokenizer, [told[2]])
    server = TokenServer(LocalModel(local.network, ending.end_ids, top_k=TOP_K), ending, ends=ends)
    step = through(server, folder, lambda model: model.open(ids, rows=1, decode=6))
    first = told.index(told[2]) + 1
    assert step.new_ids == told[:first] and len(step.top) == first
    assert step.top.ids_NK[:, 0].tolist() == list(told[:first])
    assert all(len(set(row.tolist())) == len(row) for row in step.top.ids_NK), "no token twice"


def test_sampled_tokens_are_the_servers_with_their_probabilities(folder: Path, codec: Codec, local: LocalModel) -> None:
    ids, sampling = list(codec.encode_prompt("The")), Sampling(1.3, 0.9, 5)
    server = TokenServer(local, codec)
    step = through(server, folder, lambda model: model.open(ids, decode=5, sampling=sampling))
    again = through(server, folder, lambda model: model.open(ids, decode=5, sampling=sampling))
    assert step.new_ids == again.new_ids and len(step.new_p) == 5
    asked = server.asked[-1]
    assert (asked["temperature"], asked["top_p"]) == (1.3, 0.9)


def test_it_keeps_as_many_tokens_as_the_server_tells(folder: Path, codec: Codec, local: LocalModel) -> None:
    step = through(TokenServer(local, codec, most=5), folder, lambda model: model.open([1, 2], rows=2))
    assert step.top.ids_NK.shape == (2, 5)


def test_what_does_not_fit_and_what_is_closed(folder: Path, codec: Codec, local: LocalModel) -> None:
    async def use(model: ServerModel) -> None:
        opened = await model.open([1, 2, 3], decode=40)
        assert len(opened.new_ids) == 13, "the window holds 16"
        with pytest.raises(ContextLengthError, match="context of 16 tokens of llama; shorten"):
            await model.open(list(range(16)))
        with pytest.raises(ValueError, match="impossible"):
            await model.extend(opened.session, 99, [1])
        await model.close(opened.session)
        with pytest.raises(SessionLostError, match="open one again"):
            await model.extend(opened.session, 1, [1])
        with pytest.raises(SessionLostError):
            await model.fork(opened.session)
        assert model.open_sessions == 0

    through(TokenServer(local, codec), folder, use, context=16)


def test_a_server_without_token_ids_is_refused_in_one_line(folder: Path, codec: Codec, local: LocalModel) -> None:
    async def check(url: str) -> None:
        engine = engine_at(url, folder)
        try:
            await engine.check()
            await engine.language_model(codec, TOP_K).open([1, 2])
        finally:
            await engine.aclose()

    with running(StandIn(lambda text: " one two", count=lambda text: len(codec.encode_prompt(text)))) as url:
        with pytest.raises(EngineError, match=r"openai_tokens needs token ids .* use openai$") as raised:
            asyncio.run(check(url))
        assert raised.value.lasting
    server = TokenServer(local, codec, ids=False)
    with serving(server.app()) as url, pytest.raises(EngineError, match=r"without token ids; use openai$"):
        asyncio.run(check(url))


def test_a_run_file_must_name_the_tokenizer() -> None:
    with pytest.raises(ValueError, match="needs the model's own 'tokenizer'"):
        ModelConfig(model="auto", engine="openai_tokens", url="http://127.0.0.1:1/v1")
