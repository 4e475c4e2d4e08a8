"""Errors: every bad request gets a 4xx in OpenAI's format; overload, failures and clients that disconnect."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import MutableMapping
from typing import Any

import pytest
from openai.types.chat import ChatCompletionMessage

from onceedit_ray.errors import ContextLengthError, CrowdedError, ModelError
from onceedit_ray.serving import ingress
from onceedit_ray.serving.ingress import build_ingress
from onceedit_ray.serving.keys import Keys
from onceedit_ray.serving.limits import Limits
from tests.small_decoding import BEGUN, open_sessions
from tests.small_ingress import Scripted, client_of, events, ingress_of, post, small_backend
from tests.small_system import TaughtModels

GOOD = {"model": "one", "prompt": "Who?"}
CHAT = {"model": "one", "messages": [{"role": "user", "content": "Who?"}]}
HUGE = 10**400


def error_of(response: Any, status: int) -> dict[str, Any]:
    assert response.status_code == status, response.text
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"} and error["message"]
    return error


@pytest.mark.parametrize(
    ("changes", "param"),
    [
        ({"model": None}, "model"),
        ({"model": ""}, "model"),
        ({"model": 3}, "model"),
        ({"prompt": None}, "prompt"),
        ({"prompt": ""}, "prompt"),
        ({"prompt": []}, "prompt"),
        ({"prompt": [1, -2]}, "prompt"),
        ({"prompt": [1.5]}, "prompt"),
        ({"prompt": [True]}, "prompt"),
        ({"prompt": ["a", 1]}, "prompt"),
        ({"prompt": [[1], []]}, "prompt"),
        ({"prompt": [2**31]}, "prompt"),
        ({"prompt": "\ud800"}, "prompt"),
        ({"n": 0}, "n"),
        ({"n": 17}, "n"),
        ({"n": True}, "n"),
        ({"n": 1.5}, "n"),
        ({"n": HUGE}, "n"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": HUGE}, "max_tokens"),
        ({"max_tokens": "5"}, "max_tokens"),
        ({"temperature": 2.1}, "temperature"),
        ({"temperature": -1e-9}, "temperature"),
        ({"temperature": float("nan")}, "temperature"),
        ({"temperature": float("inf")}, "temperature"),
        ({"temperature": HUGE}, "temperature"),
        ({"temperature": "1"}, "temperature"),
        ({"top_p": 1.1}, "top_p"),
        ({"top_p": float("-inf")}, "top_p"),
        ({"seed": 2**63}, "seed"),
        ({"seed": 1.0}, "seed"),
        ({"stop": ""}, "stop"),
        ({"stop": ["a"] * 17}, "stop"),
        ({"stop": [1]}, "stop"),
        ({"stream": 1}, "stream"),
        ({"stream_options": {"include_usage": True}}, None),
        ({"logprobs": 6}, "logprobs"),
        ({"logprobs": -1}, "logprobs"),
        ({"logprobs": True}, "logprobs"),
        ({"echo": 1}, "echo"),
        ({"store": True}, "store"),
        ({"service_tier": "priority"}, "service_tier"),
        ({"metadata": {"a": 1}}, "metadata"),
        ({"best_of": 2}, "best_of"),
        ({"presence_penalty": 0.1}, "presence_penalty"),
        ({"logit_bias": {"50256": -100}}, "logit_bias"),
        ({"prompt": "x" * 32_769}, "prompt"),
        ({"surprise": 1}, "surprise"),
    ],
)
def test_a_wrong_argument_is_named(changes: dict[str, Any], param: str | None) -> None:
    backend = Scripted("no")
    error = error_of(post(ingress_of(backend), "/v1/completions", GOOD | changes), 400)
    assert re.split(r"[.\[]", error["param"] or "")[0] == (param or "")
    assert error["type"] == "invalid_request_error"
    assert backend.asked == []


@pytest.mark.parametrize(
    "changes",
    [
        {"messages": []},
        {"messages": "Who?"},
        {"messages": [{"role": "tool", "content": "x"}]},
        {"messages": [{"role": "user"}]},
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "file:///etc"}}]}]},
        {"messages": [{"role": "user", "content": "x", "tool_calls": [{"id": "call_1"}]}]},
        {"messages": [{"role": "user", "content": None}]},
        {"tool_choice": "required"},
        {"modalities": ["audio"]},
        {"messages": [{"role": "user", "content": "x"}] * 257},
        {"top_logprobs": 3},
        {"logprobs": True, "top_logprobs": 21},
        {"tools": [{"type": "function"}]},
        {"response_format": {"type": "json_object"}},
        {"prompt": "x"},
    ],
)
def test_a_wrong_chat_is_refused(changes: dict[str, Any]) -> None:
    error_of(post(ingress_of(Scripted("no")), "/v1/chat/completions", CHAT | changes), 400)


@pytest.mark.parametrize(
    "neutral",
    [
        {"temperature": 1, "top_p": 0, "user": "u", "presence_penalty": 0, "frequency_penalty": 0.0, "n": None},
        {"logit_bias": {}, "best_of": 1, "echo": False, "suffix": None, "logprobs": None, "stop": [], "seed": -(2**63)},
        {"temperature": 5e-324, "seed": 2**63 - 1},
    ],
)
def test_arguments_that_ask_for_nothing_are_taken(neutral: dict[str, Any]) -> None:
    response = post(ingress_of(Scripted("yes")), "/v1/completions", GOOD | neutral)
    assert response.status_code == 200, response.text


NEUTRAL_IN_CHATS: dict[str, Any] = {
    "store": False,
    "service_tier": "auto",
    "metadata": {"run": "7"},
    "safety_identifier": "u",
    "prompt_cache_key": "k",
    "parallel_tool_calls": True,
    "tools": [],
    "tool_choice": "auto",
    "functions": None,
    "function_call": "auto",
    "response_format": {"type": "text"},
    "modalities": ["text"],
    "verbosity": "medium",
    "stream": True,
    "stream_options": {"include_usage": True, "include_obfuscation": False},
}


@pytest.mark.parametrize("name", [None, *NEUTRAL_IN_CHATS])
def test_arguments_that_clients_send_unasked_are_taken(name: str | None) -> None:
    sent = NEUTRAL_IN_CHATS if name is None or name == "stream_options" else {name: NEUTRAL_IN_CHATS[name]}
    response = post(ingress_of(Scripted("yes")), "/v1/chat/completions", CHAT | sent)
    assert response.status_code == 200, response.text


def test_a_reply_is_taken_back_as_the_library_dumps_it() -> None:
    said = ChatCompletionMessage(role="assistant", content="Ada.").model_dump()
    silent = ChatCompletionMessage(role="assistant", content=None).model_dump()
    refused = ChatCompletionMessage(role="assistant", content=None, refusal="No.").model_dump()
    assert said["refusal"] is None and "tool_calls" in said
    backend = Scripted("yes")
    history = [CHAT["messages"][0], said, CHAT["messages"][0], silent, CHAT["messages"][0], refused]
    response = post(ingress_of(backend), "/v1/chat/completions", CHAT | {"messages": history})
    assert response.status_code == 200, response.text
    assert [message["content"] for message in backend.asked[0].messages[1::2]] == ["Ada.", "", "No."]


@pytest.mark.parametrize("asked", [{"max_tokens": 65}, {"max_tokens": 10**6}, {"max_completion_tokens": 4096}])
def test_more_tokens_than_are_granted_are_as_many_as_are_granted(asked: dict[str, int]) -> None:
    backend = Scripted("yes")
    assert post(ingress_of(backend), "/v1/chat/completions", CHAT | asked).status_code == 200
    assert [question.max_tokens for question in backend.asked] == [64]


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"\xff\xfe{}",
        b'{"model": "one", "prompt": "\xc3\x28"}',
        b"[" * 100_000,
        b'{"model": "one", "prompt": "x", "n": ' + b"9" * 5000 + b"}",
        b"null",
        b"[]",
        b'"text"',
        b"\x00" * 100,
    ],
)
def test_a_broken_body_is_refused(body: bytes) -> None:
    error_of(post(ingress_of(Scripted("no")), "/v1/completions", body), 400)


@pytest.mark.parametrize("name", ["gpt-5", "../one", "one/../two", "ONE", "*" * 99, "<script>", "\u202eeno", "plug-in"])
def test_an_unknown_model_is_not_found(name: str) -> None:
    error = error_of(post(ingress_of(Scripted("no")), "/v1/completions", GOOD | {"model": name, "stream": True}), 404)
    assert (error["code"], error["param"]) == ("model_not_found", "model")
    assert "one, two" in error["message"] and len(error["message"]) < 200


def test_what_is_not_there_is_refused_in_the_same_shape() -> None:
    api = ingress_of(Scripted("no"))
    error_of(post(api, "/v1/embeddings", {}), 404)
    error_of(post(api, "/health", {}), 405)
    assert error_of(
        post(api, "/v1/completions", json.dumps(GOOD).encode(), headers={"Content-Type": "text/plain"}), 415
    )


def test_a_large_body_is_refused_whether_announced_or_not() -> None:
    api = ingress_of(Scripted("no"), body_bytes=1000)
    error_of(post(api, "/v1/completions", GOOD | {"prompt": "x" * 1000}), 413)
    error_of(post(api, "/v1/completions", b"{}", headers={"Content-Length": "9" * 400}), 413)

    async def chunks() -> Any:
        for _ in range(100):
            yield b" " * 100

    async def ask() -> Any:
        async with client_of(api) as client:
            return await client.post("/v1/completions", content=chunks())

    error_of(asyncio.run(ask()), 413)


def test_a_key_is_asked_for_before_anything_is_read() -> None:
    api = ingress_of(Scripted("yes"), keys=["a-long-key"])
    refused = post(api, "/v1/completions", b"{")
    assert error_of(refused, 401)["code"] == "invalid_api_key"
    assert refused.headers["WWW-Authenticate"] == "Bearer"
    assert post(api, "/v1/completions", GOOD, headers={"Authorization": "Bearer a-long-key"}).status_code == 200


async def test_without_keys_other_machines_are_refused() -> None:
    said: list[MutableMapping[str, Any]] = []

    async def receive() -> MutableMapping[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: MutableMapping[str, Any]) -> None:
        said.append(message)

    async def ask(client: tuple[str, int], keys: Keys) -> int:
        said.clear()
        scope = {"type": "http", "method": "GET", "path": "/v1/models", "raw_path": b"/v1/models", "headers": [],
                 "query_string": b"", "client": client, "server": ("x", 80), "scheme": "http",
                 "root_path": ""}  # fmt: skip
        await build_ingress(Scripted(), Limits(), keys)(scope, receive, send)
        return int(said[0]["status"])

    assert await ask(("127.0.0.1", 5), Keys()) == 200
    assert await ask(("192.0.2.1", 5), Keys()) == 403
    assert await ask(("192.0.2.1", 5), Keys(["a-long-key"])) == 401


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (ContextLengthError("300 tokens do not fit"), 400, "context_length_exceeded"),
        (ModelError("one died"), 503, "model_unavailable"),
        (RuntimeError("a secret"), 500, "internal_error"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_a_failure_before_the_first_piece_has_a_status(error: Exception, status: int, code: str, stream: bool) -> None:
    backend = Scripted(error)
    found = error_of(post(ingress_of(backend), "/v1/completions", GOOD | {"stream": stream, "n": 2}), status)
    assert found["code"] == code and "secret" not in found["message"]
    assert backend.open == 0


def test_a_failure_within_a_stream_is_an_event() -> None:
    response = post(ingress_of(Scripted("Ly", ModelError("one died"))), "/v1/completions", GOOD | {"stream": True})
    assert response.status_code == 200
    *_, last = [json.loads(line.removeprefix("data: ")) for line in response.text.split("\n\n") if line]
    assert last["error"]["code"] == "model_unavailable"


@pytest.mark.parametrize("stream", [False, True])
def test_an_answer_that_takes_too_long_is_ended(stream: bool) -> None:
    backend = Scripted(held=True)
    error_of(post(ingress_of(backend, seconds=0.1), "/v1/completions", GOOD | {"stream": stream}), 504)
    assert backend.open == 0


async def test_one_more_than_there_may_be_is_told_to_wait() -> None:
    backend = Scripted("a")
    gate = asyncio.Event()

    api = ingress_of(backend, in_flight=2, retry_after=7)
    async with client_of(api) as client:
        backend.held = True
        waiting = [asyncio.ensure_future(client.post("/v1/completions", json=GOOD)) for _ in range(2)]
        while backend.open < 2:
            await asyncio.sleep(0.01)
        refused = await client.post("/v1/completions", json=GOOD | {"stream": True})
        assert error_of(refused, 429)["code"] == "too_many_requests"
        assert refused.headers["Retry-After"] == "7"
        assert (await client.get("/v1/models")).status_code == 200, "only questions are counted"
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        backend.held = False
        assert (await client.post("/v1/completions", json=GOOD)).status_code == 200
    gate.set()
    assert gate.is_set() and backend.open == 0


def test_who_waits_for_memory_is_told_how_long_by_the_load() -> None:
    backend = Scripted(CrowdedError("512 sessions wait for memory"))
    refused = post(ingress_of(backend, retry_after=3), "/v1/completions", GOOD)
    assert error_of(refused, 429)["code"] == "too_many_requests"
    assert refused.headers["Retry-After"] == "3", "nothing took long yet, so it is the shortest"


@pytest.mark.parametrize("stream", [False, True])
async def test_a_client_that_goes_away_frees_the_sessions(models: TaughtModels, stream: bool) -> None:
    """The ASGI channel says that the client is gone, after the first piece of a stream and at once otherwise."""
    body = {"model": "*", "prompt": BEGUN[0], "max_tokens": 64, "n": 2, "stream": stream, "temperature": 1.5}
    api = ingress_of(small_backend(models))
    begun, said = asyncio.Event(), []
    given = False

    async def receive() -> MutableMapping[str, Any]:
        nonlocal given
        if not given:
            given = True
            return {"type": "http.request", "body": json.dumps(body).encode(), "more_body": False}
        if stream:
            await begun.wait()
        else:
            while not open_sessions(models):
                await asyncio.sleep(0.001)
        return {"type": "http.disconnect"}

    async def send(message: MutableMapping[str, Any]) -> None:
        said.append(message)
        if message.get("body"):
            begun.set()

    headers = [(b"content-type", b"application/json")]
    scope = {"type": "http", "method": "POST", "path": "/v1/completions", "raw_path": b"", "headers": headers,
             "query_string": b"", "client": ("127.0.0.1", 5), "server": ("x", 80), "scheme": "http",
             "root_path": "", "asgi": {"version": "3.0", "spec_version": "2.4"}}  # fmt: skip
    await api(scope, receive, send)
    assert open_sessions(models) == 0
    assert b"[DONE]" not in b"".join(message.get("body", b"") for message in said)


async def test_health_says_which_model_is_broken() -> None:
    backend = Scripted()

    async def health() -> Any:
        async with client_of(ingress_of(backend)) as client:
            return await client.get("/health")

    backend.states = {"plug-in": "", "one": "busy"}
    assert (await health()).status_code == 200
    backend.states = {"plug-in": "", "one": "one died"}
    found = await health()
    assert (found.status_code, found.json()["models"]["one"]) == (503, "one died")


@pytest.mark.parametrize("fault", ["hangs", "gone"])
async def test_health_answers_in_time_where_the_coordinator_does_not(
    fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ingress, "HEALTH_SECONDS", 0.1)

    async def probe() -> dict[str, str]:
        if fault == "gone":
            raise ModelError("the coordinator is gone")
        await asyncio.Event().wait()
        raise AssertionError

    async def health() -> Any:
        backend = Scripted()
        backend.probe = probe  # type: ignore[method-assign]
        async with client_of(ingress_of(backend)) as client:
            return await asyncio.wait_for(client.get("/health"), 5)

    found = await health()
    assert (found.status_code, found.json()["status"]) == (503, "unhealthy") and found.json()["reason"]


def test_a_stream_of_nothing_still_ends(models: TaughtModels) -> None:
    found = events(post(ingress_of(Scripted()), "/v1/chat/completions", CHAT | {"stream": True}))
    assert [chunk["choices"][0]["finish_reason"] for chunk in found] == [None, "stop"]
