"""Requests for a target that a server has: what passes through unchanged, and what the plug-in takes part in."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import httpx2
import pytest
from fastapi import FastAPI
from starlette.responses import HTMLResponse, JSONResponse, Response

from onceedit_ray.fusion.decoder import FusedDecoder
from onceedit_ray.models.assembly import open_codec
from onceedit_ray.models.codec import Codec
from onceedit_ray.serving.in_process import InProcess
from onceedit_ray.serving.ingress import build_ingress
from onceedit_ray.serving.keys import Keys
from onceedit_ray.serving.observing import Account
from tests.families import build_family
from tests.small_ingress import LIMITS, Scripted, events, post
from tests.small_reader import EDITS, QUESTION
from tests.small_server_target import TARGET, decoder_at, served_config
from tests.stand_in_server import MODEL, StandIn, running

CHAT, TEXT = "/v1/chat/completions", "/v1/completions"
OTHER = "Which river flows through Lyon?"
NAMED = "Tell me about Australia."
EDITED = "The capital of Australia is Perth. It is by the sea."


@pytest.fixture(scope="module")
def codec(tmp_path_factory: pytest.TempPathFactory) -> Codec:
    return open_codec(build_family("gpt2", tmp_path_factory.mktemp("passage") / "gpt2"))


class Watching:
    """An observer that keeps the accounts."""

    def __init__(self) -> None:
        self.accounts: list[Account] = []

    def began(self, account: Account) -> None:
        pass

    def ended(self, account: Account) -> None:
        self.accounts.append(account)


def api_of(url: str, codec: Codec, watching: Watching | None = None, **limits: Any) -> FastAPI:
    decoder = decoder_at(url, codec)
    return ingress(decoder, url, watching, **limits)


def ingress(decoder: FusedDecoder, url: str, watching: Watching | None = None, **limits: Any) -> FastAPI:
    return build_ingress(
        InProcess(decoder), LIMITS.model_copy(update=limits), Keys(), observers=[watching] if watching else []
    )


def writes(text: str) -> Callable[[str], str]:
    """A server that says the edited sentence where it must, and else `text`."""

    def goes_on(so_far: str) -> str:
        reply = so_far.rpartition("<assistant>")[2]
        whole = EDITED if "Perth" in so_far else text
        return whole[len(reply) :] if whole.startswith(reply) else ""

    return goes_on


def chat(question: str = OTHER, **more: Any) -> dict[str, Any]:
    return {"model": TARGET, "messages": [{"role": "user", "content": question}], **more}


def directly(url: str, path: str, body: dict[str, Any]) -> httpx2.Response:
    """The answer of the server itself."""
    return httpx2.post(url.removesuffix("/v1") + path, json={**body, "model": MODEL}, trust_env=False)


def without_extension(answer: dict[str, Any]) -> dict[str, Any]:
    """An answer as the server gave it."""
    for choice in answer["choices"]:
        assert choice.pop("onceedit", {"alone": True})["alone"]
    assert answer["model"] == TARGET
    return {**answer, "model": MODEL}


def test_a_request_about_no_edit_passes_through_unchanged(codec: Codec) -> None:
    stand_in = StandIn(writes("The Rhone does."))
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA"}}
    parts = [{"type": "text", "text": OTHER}, image]
    body = {
        "model": TARGET, "messages": [{"role": "user", "content": parts}], "max_tokens": 2, "extra": {"nested": [1]},
        "tools": [{"type": "function"}], "response_format": {"type": "json_object"}, "min_p": 0.1, "temperature": 0.3,
    }  # fmt: skip
    with running(stand_in) as url:
        api = api_of(url, codec)
        answer = post(api, CHAT, body)
        assert answer.status_code == 200
        assert without_extension(answer.json()) == directly(url, CHAT, body).json()
    assert stand_in.asked[0] == stand_in.asked[1] == {**body, "model": MODEL}, "and nothing else was asked"
    assert answer.json()["stand_in"] == {"nested": [1]}, "fields that are not known here come back, too"
    assert answer.json()["choices"][0]["finish_reason"] == "length"


@pytest.mark.parametrize("path", [CHAT, TEXT])
def test_a_stream_about_no_edit_is_the_servers_own(codec: Codec, path: str) -> None:
    watching = Watching()
    body = chat() if path == CHAT else {"model": TARGET, "prompt": OTHER}
    body |= {"stream": True, "stream_options": {"include_usage": True}, "logprobs": True}
    with running(StandIn(writes("The Rhone does."))) as url:
        answer = post(api_of(url, codec, watching), path, body)
        own = events(directly(url, path, body))
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert [without_extension(event) for event in events(answer)] == own
    account = watching.accounts[0]
    assert (account.route, account.model, account.streamed, account.status) == (path, TARGET, True, 200)
    assert account.first is not None
    (ending,) = account.endings
    assert (ending.completion_tokens, ending.alone, ending.weight) == (own[-1]["usage"]["completion_tokens"], True, 0.0)


def test_an_unedited_answer_is_the_servers_own(codec: Codec) -> None:
    body = chat(QUESTION, onceedit={"unedited": True})
    with running(StandIn(writes("It is Canberra."))) as url:
        api = api_of(url, codec)
        answer = post(api, CHAT, body).json()
        assert post(api, CHAT, {**body, "onceedit": {"what": 1}}).status_code == 400
    assert answer["choices"][0]["message"]["content"] == "It is Canberra."
    assert answer["choices"][0]["onceedit"]["weight"] is None


def test_a_request_about_an_edit_is_answered_with_it(codec: Codec) -> None:
    watching = Watching()
    own = "The capital of Australia is Canberra. It is a city."
    with running(StandIn(writes(own))) as url:
        api = api_of(url, codec, watching)
        whole = post(api, CHAT, chat(QUESTION)).json()
        stream = events(post(api, CHAT, chat(QUESTION, stream=True, stream_options={"include_usage": True})))
        bare = events(post(api, CHAT, chat(QUESTION, stream=True)))
    choice = whole["choices"][0]
    assert whole["object"] == "chat.completion" and whole["model"] == TARGET
    assert choice["message"] == {"role": "assistant", "content": EDITED}
    assert choice["finish_reason"] == "stop" and choice["onceedit"]["edits"] == [EDITS[0].prompt]
    assert "".join(part["delta"].get("content") or "" for event in stream for part in event["choices"]) == EDITED
    assert stream[-1]["choices"] == [] and stream[-1]["usage"] == whole["usage"]
    assert all(event["choices"] for event in bare), "no counts that were not asked for"
    assert [account.endings[0].alone for account in watching.accounts] == [False] * 3
    assert watching.accounts[1].first is not None


@pytest.mark.parametrize("system", ["The user asks for the capital of Australia.", "Answer in one word."])
def test_a_fact_that_only_the_system_message_names_is_read_along(codec: Codec, system: str) -> None:
    watching = Watching()
    with running(StandIn(writes("Good day."))) as url:
        body = chat("Go on.")
        body["messages"].insert(0, {"role": "system", "content": system})
        (choice,) = post(api_of(url, codec, watching), CHAT, body).json()["choices"]
    assert (choice["onceedit"]["version"] == "read") == ("Australia" in system)


def test_several_choices_and_prompts_are_numbered(codec: Codec) -> None:
    own = "The capital of Australia is Canberra."
    with running(StandIn(lambda so_far: "Ada" if "Who" in so_far else writes(own)(so_far))) as url:
        api = api_of(url, codec)
        answer = post(api, CHAT, chat(QUESTION, n=2)).json()
        texts = post(api, TEXT, {"model": TARGET, "prompt": [QUESTION, "Who?"]}).json()
        assert post(api, CHAT, chat(QUESTION, n=100)).status_code == 400
    assert [(each["index"], each["message"]["content"]) for each in answer["choices"]] == [(0, EDITED), (1, EDITED)]
    assert [(each["index"], each["text"]) for each in texts["choices"]] == [(0, " Perth"), (1, "Ada")]


def test_the_servers_own_refusal_comes_back(codec: Codec) -> None:
    refusal = {"error": {"message": "max_tokens is too large", "param": "max_tokens", "code": 400}}

    def fault(number: int) -> Response | None:
        return JSONResponse(refusal, 400) if number > 1 else None

    with running(StandIn(writes("x"), fault=fault)) as url:
        answer = post(api_of(url, codec), CHAT, chat(max_tokens=10**9))
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert (error["message"], error["param"], error["type"]) == (
        "max_tokens is too large", "max_tokens", "invalid_request_error",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("fault", "status", "code"),
    [
        (JSONResponse({"error": {"message": "busy"}}, 429, {"retry-after": "3"}), 429, "too_many_requests"),
        (JSONResponse({"error": {"message": "boom at 10.0.0.1"}}, 500), 503, "model_unavailable"),
        (HTMLResponse("<html>Sign in</html>"), 503, "model_unavailable"),
        (JSONResponse({"error": {"message": "Incorrect API key"}}, 401), 503, "model_unavailable"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_a_server_that_fails_gives_one_clear_error(
    codec: Codec, fault: Response, status: int, code: str, stream: bool
) -> None:
    def failing(number: int) -> Response | None:
        return fault if number > 1 else None

    for question in (OTHER, QUESTION):
        with running(StandIn(writes("x"), fault=failing)) as url:
            answer = post(api_of(url, codec), CHAT, chat(question, stream=stream))
        assert answer.status_code == status
        error = answer.json()["error"]
        assert error["code"] == code and TARGET in error["message"] and "10.0.0.1" not in error["message"]
        assert int(answer.headers["retry-after"]) > 0


@pytest.mark.parametrize("question", [OTHER, NAMED])
def test_a_stream_that_breaks_off_ends_with_an_error(codec: Codec, question: str) -> None:
    stand_in = StandIn(writes("word " * 50), breaks=40)
    with running(stand_in) as url:
        answer = post(api_of(url, codec), CHAT, chat(question, stream=True))
    last = [line for line in answer.text.split("\n\n") if line][-1]
    assert json.loads(last.removeprefix("data: "))["error"]["code"] == "model_unavailable"


def test_an_endless_stream_ends_at_the_deadline(codec: Codec) -> None:
    stand_in = StandIn(writes("word " * 5000), pause=0.02)
    with running(stand_in) as url:
        answer = post(api_of(url, codec, seconds=1.0), CHAT, chat(stream=True, max_tokens=4000))
        late = post(api_of(url, codec, seconds=1.0), CHAT, chat(NAMED, stream=False, max_tokens=4000))
    assert json.loads(answer.text.split("\n\n")[-2].removeprefix("data: "))["error"]["code"] == "timeout"
    assert late.status_code == 504


def test_other_targets_go_on_where_one_server_is_down(codec: Codec) -> None:
    with running(StandIn(writes("The Rhone does."))) as url:
        decoder = decoder_at(url, codec)
        dead = decoder_at("http://127.0.0.1:9/v1", codec).servers[TARGET]
        decoder.servers["dead"] = dead
        api = build_ingress(InProcess(decoder), LIMITS, Keys())

        async def ask() -> list[httpx2.Response]:
            transport = httpx2.ASGITransport(api)
            async with httpx2.AsyncClient(transport=transport, base_url="http://127.0.0.1", timeout=60) as client:
                return [
                    await client.post(CHAT, json={**chat(), "model": "dead"}),
                    await client.post(CHAT, json=chat()),
                    await client.post(CHAT, json={**chat(), "model": "*", "max_tokens": 8}),
                    await client.get("/health"),
                    await client.get("/v1/models"),
                ]

        down, up, every, health, listed = asyncio.run(ask())
    assert down.status_code == 503 and "server of 'dead' cannot answer" in down.json()["error"]["message"]
    assert up.json()["choices"][0]["message"]["content"] == "The Rhone does."
    assert [choice["message"]["content"] for choice in every.json()["choices"]] == ["The Rhone does."]
    assert [failed["target"] for failed in every.json()["onceedit"]["failed"]] == ["dead"]
    assert health.status_code == 200 and health.json()["status"] == "degraded"
    assert health.json()["models"]["dead"] == "its server does not answer"
    assert [card["id"] for card in listed.json()["data"]] == [TARGET, "dead"]


def test_a_client_that_leaves_ends_the_servers_work(codec: Codec) -> None:
    stand_in = StandIn(writes("word " * 2000), pause=0.01)

    async def leave(api: FastAPI) -> None:
        sent: list[Any] = []
        gone = asyncio.Event()
        body = json.dumps(chat(stream=True)).encode()
        first = {"type": "http.request", "body": body, "more_body": False}

        async def receive() -> Any:
            nonlocal first
            if first:
                message, first = first, {}
                return message
            await gone.wait()
            return {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            sent.append(message)
            if len(sent) > 5:
                gone.set()

        scope = {
            "type": "http", "method": "POST", "path": CHAT, "raw_path": CHAT.encode(), "query_string": b"",
            "headers": [(b"content-type", b"application/json"), (b"host", b"127.0.0.1")], "scheme": "http",
            "http_version": "1.1", "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 80), "root_path": "",
        }  # fmt: skip
        await asyncio.wait_for(api(scope, receive, send), 20)
        for _ in range(200):
            if stand_in.closed:
                return
            await asyncio.sleep(0.02)

    with running(stand_in) as url:
        asyncio.run(leave(api_of(url, codec)))
    assert stand_in.closed == 1


def test_bodies_that_are_not_for_a_server_go_to_the_routes(codec: Codec) -> None:
    scripted = Scripted("hello")
    scripted.servers = {TARGET: served_config("http://127.0.0.1:9/v1")}
    api = build_ingress(scripted, LIMITS, Keys())
    assert post(api, CHAT, chat() | {"model": "one"}).json()["choices"][0]["message"]["content"] == "hello"
    assert post(api, CHAT, b"{").status_code == 400
    assert post(api, CHAT, b"[]").status_code == 400
    assert post(api, CHAT, chat() | {"model": 7}).status_code == 400
    assert post(api, CHAT, chat() | {"model": "one", "min_p": 0.1}).status_code == 400


@pytest.mark.parametrize(
    "body",
    [
        {"messages": "no list"},
        {"messages": [7]},
        {"messages": [{"role": 5, "content": {"a": 1}}]},
        {"messages": []},
        {"messages": [{"role": "tool", "content": None}, {"role": "user", "content": [{"type": "text", "text": 3}]}]},
    ],
)
def test_what_the_plugin_cannot_read_is_left_to_the_server(codec: Codec, body: dict[str, Any]) -> None:
    def refusing(number: int) -> Response | None:
        return JSONResponse({"error": "no"}, 422) if number > 1 else None

    with running(StandIn(writes("x"), fault=refusing)) as url:
        answer = post(api_of(url, codec), CHAT, {"model": TARGET, **body})
    assert answer.status_code == 422
