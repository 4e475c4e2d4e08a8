"""Targets that are added and removed while the system serves: who may, what is refused, and what is under way."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import httpx2
import pytest
from fastapi import FastAPI
from starlette.responses import HTMLResponse, JSONResponse

from onceedit_ray.fusion.decoder import FusedDecoder
from onceedit_ray.models.assembly import open_codec
from onceedit_ray.models.codec import Codec
from onceedit_ray.serving.engine_keys import EngineKeys
from onceedit_ray.serving.in_process import InProcess
from onceedit_ray.serving.ingress import build_ingress
from onceedit_ray.serving.keys import Keys
from tests.families import build_family
from tests.small_ingress import LIMITS, Scripted, client_of, events, post
from tests.small_server_target import TARGET, decoder_at
from tests.stand_in_server import StandIn, running

CHAT, MODELS = "/v1/chat/completions", "/v1/models"
ASKING, EDITING, ADMIN = "a-key-that-may-ask", "a-key-that-may-edit", "a-key-that-may-manage"
NOWHERE = "http://127.0.0.1:9/v1"


@pytest.fixture(scope="module")
def codec(tmp_path_factory: pytest.TempPathFactory) -> Codec:
    return open_codec(build_family("gpt2", tmp_path_factory.mktemp("models") / "gpt2"))


def says(text: str, **more: Any) -> StandIn:
    return StandIn(lambda so_far: text, **more)


def asked(model: str, **more: Any) -> dict[str, Any]:
    return {"model": model, "messages": [{"role": "user", "content": "Which river flows through Lyon?"}], **more}


def api_of(decoder: FusedDecoder, engine_keys: Sequence[str] = ()) -> FastAPI:
    return build_ingress(InProcess(decoder), LIMITS, Keys(), engine_keys=EngineKeys(engine_keys))


def names(decoder: FusedDecoder) -> list[str]:
    return list(decoder.servers)


def test_a_target_is_added_answers_and_is_removed(codec: Codec) -> None:
    with running(says("One.")) as first, running(says("Two.")) as second:
        decoder = decoder_at(first, codec)

        async def run() -> None:
            async with client_of(api_of(decoder), timeout=60) as client:
                assert (await client.post(CHAT, json=asked("qwen"))).status_code == 404
                added = await client.post(MODELS, json={"name": "qwen", "url": second})
                assert added.status_code == 201, added.text
                assert added.json()["id"] == "qwen"
                assert added.json()["about"].startswith("org/stand-in-7b: completions")
                answer = await client.post(CHAT, json=asked("qwen"))
                assert answer.json()["choices"][0]["message"]["content"] == "Two."
                listed = await client.get(MODELS)
                assert [card["id"] for card in listed.json()["data"]] == [TARGET, "qwen"]
                removed = await client.delete(f"{MODELS}/qwen")
                assert removed.json() == {"id": "qwen", "object": "model", "deleted": True}
                gone = await client.post(CHAT, json=asked("qwen"))
                assert gone.status_code == 404 and gone.json()["error"]["code"] == "model_not_found"
                assert (await client.delete(f"{MODELS}/qwen")).status_code == 404
                other = await client.post(CHAT, json=asked(TARGET))
                assert other.json()["choices"][0]["message"]["content"] == "One."
                again = await client.post(MODELS, json={"name": "qwen", "url": first})
                assert again.status_code == 201
                answer = await client.post(CHAT, json=asked("qwen"))
                assert answer.json()["choices"][0]["message"]["content"] == "One.", "of its new server"

        asyncio.run(run())


def test_an_answer_under_way_goes_on_to_its_end_after_its_target_is_removed(codec: Codec) -> None:
    stand_in = says("word " * 40, pause=0.02)
    with running(stand_in) as url:
        decoder = decoder_at(url, codec)

        async def run() -> httpx2.Response:
            async with client_of(api_of(decoder), timeout=60) as client:
                answer = asyncio.ensure_future(client.post(CHAT, json=asked(TARGET, stream=True, max_tokens=40)))
                while not stand_in.asked:
                    await asyncio.sleep(0.01)
                assert (await client.delete(f"{MODELS}/{TARGET}")).status_code == 200
                assert not answer.done()
                assert (await client.post(CHAT, json=asked(TARGET))).status_code == 404
                return await answer

        told = events(asyncio.run(run()))
    text = "".join(event["choices"][0]["delta"].get("content") or "" for event in told)
    assert text.split() == ["word"] * 40
    assert told[-1]["choices"][0]["finish_reason"] == "stop"


@pytest.mark.parametrize(
    ("settings", "status", "said"),
    [
        ({"url": NOWHERE}, 400, "no connection"),
        ({"url": "ftp://127.0.0.1/v1"}, 400, "http:// or https://"),
        ({"url": "http://u:p@127.0.0.1/v1"}, 400, "without a user"),
        ({"model": "gpt-none"}, 400, "it has no model 'gpt-none', but org/stand-in-7b"),
        ({"key_env": "HOME"}, 400, "key_env 'HOME' is not allowed"),
        ({"name": TARGET}, 409, "there is a model 'llama' already"),
        ({"name": "plug-in"}, 400, "cannot be called 'plug-in'"),
        ({"name": "*"}, 400, "name"),
        ({"name": "a b"}, 400, "name"),
        ({"name": None}, 400, "name"),
        ({"tokenizer": "/etc"}, 400, "unrecognized request argument: 'tokenizer'"),
    ],
)
def test_what_is_wrong_is_one_line_and_nothing_is_added(
    codec: Codec, settings: dict[str, Any], status: int, said: str
) -> None:
    with running(says("x")) as url:
        decoder = decoder_at(url, codec)
        found = post(api_of(decoder), MODELS, {"name": "qwen", "url": url, **settings})
    message = found.json()["error"]["message"]
    assert found.status_code == status, message
    assert said in message and "\n" not in message
    assert names(decoder) == [TARGET]


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (HTMLResponse("<html>nginx</html>"), "it answers HTML"),
        (JSONResponse({"error": {"message": "overloaded"}}, 500), "it answers 500: overloaded"),
        (JSONResponse({"data": []}), "it has no model"),
    ],
)
def test_a_server_that_cannot_be_used_is_not_added(codec: Codec, fault: Any, said: str) -> None:
    with running(says("x")) as url, running(says("x", fault=lambda number: fault)) as broken:
        decoder = decoder_at(url, codec)
        found = post(api_of(decoder), MODELS, {"name": "qwen", "url": broken})
    assert found.status_code == 400 and said in found.json()["error"]["message"]
    assert names(decoder) == [TARGET]


def test_a_secret_is_sent_where_the_operator_allows_it(codec: Codec, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLM_KEY", "the-right-key")
    with running(says("x")) as url, running(says("Keyed.", key="the-right-key")) as guarded:
        decoder = decoder_at(url, codec)
        allowed = api_of(decoder, [f"LLM_KEY={guarded}"])
        body = {"name": "qwen", "url": guarded}
        without = post(allowed, MODELS, body)
        assert without.status_code == 400 and "a request without a key" in without.json()["error"]["message"]
        assert post(allowed, MODELS, {**body, "url": url, "key_env": "LLM_KEY"}).status_code == 400
        assert post(allowed, MODELS, {**body, "key_env": "LLM_KEY"}).status_code == 201
        answer = post(allowed, CHAT, asked("qwen"))
        assert answer.json()["choices"][0]["message"]["content"] == "Keyed."
        monkeypatch.setenv("LLM_KEY", "another-key")
        decoder.servers.pop("qwen")
        wrong = post(allowed, MODELS, {**body, "key_env": "LLM_KEY"})
    message = wrong.json()["error"]["message"]
    assert wrong.status_code == 400 and "it refuses the key of $LLM_KEY" in message and "another-key" not in message


@pytest.mark.parametrize(
    ("keys", "edit_keys", "admin_keys", "given", "status"),
    [
        ((), (), (), None, 501),
        ((), (), (ADMIN,), None, 401),
        ((), (), (ADMIN,), ADMIN, 501),
        ((ASKING,), (), (), ASKING, 403),
        ((ASKING,), (EDITING,), (), EDITING, 403),
        ((ASKING,), (EDITING,), (ADMIN,), ASKING, 403),
        ((ASKING,), (EDITING,), (ADMIN,), EDITING, 403),
        ((ASKING,), (EDITING,), (ADMIN,), None, 401),
        ((ASKING,), (EDITING,), (ADMIN,), "a-key-that-is-wrong", 401),
        ((ASKING,), (EDITING,), (ADMIN,), ADMIN, 501),
        ((), (EDITING,), (), EDITING, 403),
    ],
)
def test_only_administrators_may(
    keys: Sequence[str], edit_keys: Sequence[str], admin_keys: Sequence[str], given: str | None, status: int
) -> None:
    api = build_ingress(Scripted("x"), LIMITS, Keys(keys), Keys(edit_keys), admin_keys=Keys(admin_keys))

    async def run() -> list[httpx2.Response]:
        headers = {"Authorization": f"Bearer {given}"} if given else {}
        async with client_of(api, headers=headers) as client:
            added = await client.post(MODELS, json={"name": "qwen", "url": "http://127.0.0.1:9/v1"})
            return [added, await client.delete(f"{MODELS}/qwen")]

    allowed = [501, 404]  # the scripted answers have no servers
    assert [found.status_code for found in asyncio.run(run())] == (allowed if status == 501 else [status, status])


def test_an_administrators_key_can_neither_ask_nor_edit() -> None:
    api = build_ingress(Scripted("x"), LIMITS, Keys([ASKING]), Keys([EDITING]), admin_keys=Keys([ADMIN]))
    headers = {"Authorization": f"Bearer {ADMIN}"}
    assert post(api, CHAT, asked("one"), headers=headers).status_code == 401
    assert post(api, "/v1/edits", {}, headers=headers).status_code == 401
