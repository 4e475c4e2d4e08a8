"""Requests written by hand to do harm: paths, bytes, depths and control tokens get 4xx or are plain text."""

from __future__ import annotations

import asyncio
import json
from collections.abc import MutableMapping
from typing import Any

import pytest
from fastapi import FastAPI

from tests.small_decoding import open_sessions
from tests.small_ingress import Scripted, ingress_of, post, small_backend
from tests.small_system import TaughtModels

GOOD = {"model": "one", "prompt": "Who?"}
DEEP = 50_000


def status_of(api: FastAPI, path: str, method: str = "GET", query: bytes = b"", headers: Any = ()) -> int:
    """The status of a request whose path is sent without normalisation."""
    said: list[MutableMapping[str, Any]] = []

    async def receive() -> MutableMapping[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: MutableMapping[str, Any]) -> None:
        said.append(message)

    scope = {"type": "http", "method": method, "path": path, "raw_path": path.encode("utf-8", "surrogateescape"),
             "headers": list(headers), "query_string": query, "client": ("127.0.0.1", 5), "server": ("x", 80),
             "scheme": "http", "root_path": ""}  # fmt: skip
    asyncio.run(api(scope, receive, send))
    return int(said[0]["status"])


@pytest.mark.parametrize(
    "path",
    [
        "/v1/models/../../etc/passwd",
        "/v1/models/..",
        "/v1/models//etc/passwd",
        "/v1//models",
        "//v1/models",
        "/v1/models/\x00",
        "/v1/models/one\x00",
        "/v1/models/\udcff\udcfe",
        "/v1/models/" + "a" * 100_000,
        "/v1/models/%2e%2e%2f",
        "/v1/models/one/../two",
        "/V1/MODELS",
        "/v1/models/\u202eeno",
        "/../v1/models",
        "/v1/chat/completions/../../models",
    ],
)
def test_no_path_leads_elsewhere(path: str) -> None:
    api = ingress_of(Scripted("no"))
    for method in ("GET", "POST", "DELETE", "PATCH", "OPTIONS", "TRACE", "\x00"):
        assert 300 <= status_of(api, path, method) < 500
    assert status_of(api, "/v1/models") == status_of(api, "/v1/models/one") == 200


def test_headers_and_queries_that_are_no_text_do_no_harm() -> None:
    api = ingress_of(Scripted("no"))
    headers = [
        (b"authorization", b"Bearer \xff\x00"),
        (b"x-request-id", b"\xff\n\r\x00" * 99),
        (b"accept", b"\xfe" * 9),
    ]
    assert status_of(api, "/v1/models", query=b"limit=\xff&%00=%zz", headers=headers) == 200
    assert status_of(ingress_of(Scripted("no"), keys=["a-long-key"]), "/v1/models", headers=headers) == 401


@pytest.mark.parametrize(
    "body",
    [
        b'{"model":' * DEEP + b"1" + b"}" * DEEP,
        b'{"model": "one", "prompt": ' + b"[" * DEEP + b"]" * DEEP + b"}",
        b'{"model": "one", "prompt": "x", "logit_bias": ' + b'{"a":' * DEEP + b"1" + b"}" * DEEP + b"}",
        b'{"model": "one", "prompt": "x", "stop": [' + b"[]," * DEEP + b"[]]}",
        b'{"model": "one", "prompt": "x", "temperature": 1e999}',
        b'{"model": "one", "prompt": "x", "temperature": -Infinity}',
        b'{"model": "one", "prompt": "x", "seed": ' + b"1" * DEEP + b"}",
        b'{"model": "one", "prompt": "x", "temperature": 0.' + b"1" * DEEP + b'e-99999999, "n": -0}',
        b'{"model": "one", "prompt": "\xed\xa0\x80"}',
        b'{"model": "one", "prompt": "\xf4\x90\x80\x80"}',
        b'{"model": "one", "prompt": "\\udc80"}',
        b'\xef\xbb\xbf{"model": "one", "prompt": 3}',
        b'{"model": "one", "prompt": "x", "__proto__": {"n": 5}, "constructor": 1}',
        b'{"model": "one", "prompt": "x"}{"model": "two"}',
    ],
    ids=range(14),
)
def test_a_body_that_is_a_trap_is_refused(body: bytes) -> None:
    backend = Scripted("no")
    response = post(ingress_of(backend), "/v1/completions", body)
    assert 400 <= response.status_code < 500 and response.json()["error"]["message"]
    assert backend.asked == []


@pytest.mark.parametrize("stream", [False, True])
def test_a_prompt_of_nothing_but_control_tokens_is_text(models: TaughtModels, stream: bool) -> None:
    """Every name that the tokenizer has for a control token, and their halves, asked of every target."""
    codecs = [member.codec for name, member in models.members.items() if name in ("mistral", "qwen2")]
    names = sorted({name for codec in codecs for name in codec.special_tokens})
    api = ingress_of(small_backend(models))
    for prompt in (
        "".join(names),
        " ".join(names * 2),
        "".join(name[: len(name) // 2] for name in names),
        "\x00<s>\x00",
    ):
        for path, asked in (
            ("/v1/completions", {"prompt": prompt}),
            ("/v1/chat/completions", {"messages": [{"role": "user", "content": prompt}] * 2}),
        ):
            found = post(api, path, {"model": "*", "max_tokens": 3, "stream": stream, **asked})
            assert found.status_code == 200 or found.json()["error"]["code"] == "context_length_exceeded", found.text
    assert open_sessions(models) == 0


def test_a_key_given_twice_counts_as_json_counts_it() -> None:
    backend = Scripted("yes")
    body = json.dumps(GOOD)[:-1] + ', "model": "two"}'
    assert post(ingress_of(backend), "/v1/completions", body.encode()).status_code == 200
    assert [asked.target for asked in backend.asked] == ["two"]
