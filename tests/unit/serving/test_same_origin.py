"""Requests that another site's page makes a browser send are refused by a server without keys."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx2
import pytest
from fastapi import FastAPI

from tests.small_ingress import Scripted, client_of, ingress_of

ASKED = b'{"model": "one", "prompt": "Who?"}'
EDIT = b'{"prompt": "Who?", "target_new": "Ada"}'
CHANGING = [
    ("POST", "/v1/completions", ASKED),
    ("POST", "/v1/chat/completions", b'{"model": "one", "messages": [{"role": "user", "content": "Who?"}]}'),
    ("POST", "/v1/edits", EDIT),
    ("DELETE", "/v1/edits/edit_1", b""),
    ("POST", "/v1/versions/v1/activate", b""),
    ("DELETE", "/v1/versions/v1", b""),
    ("POST", "/v1/models", b'{"name": "two", "url": "http://127.0.0.1:1/v1"}'),
    ("DELETE", "/v1/models/one", b""),
]
KEY = "a-long-key"


class Unreachable:
    """Knowledge that must not be asked."""

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(f"{name} was reached")


def guarded(**options: Any) -> tuple[FastAPI, Scripted]:
    backend = Scripted("no")
    backend.knowledge = Unreachable()
    return ingress_of(backend, **options), backend


def ask(api: FastAPI, method: str, path: str, body: bytes = b"", **headers: str) -> httpx2.Response:
    async def go() -> httpx2.Response:
        async with client_of(api) as client:
            named = {name.replace("_", "-"): value for name, value in headers.items()}
            return await client.request(method, path, content=body, headers=named)

    return asyncio.run(go())


@pytest.mark.parametrize(("method", "path", "body"), CHANGING)
@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "https://evil.example", "content_type": "text/plain"},
        {"origin": "https://evil.example", "content_type": "application/json"},
        {"origin": "http://127.0.0.1:9999", "content_type": "application/json"},
        {"origin": "http://127.0.0.1.evil.example", "content_type": "application/json"},
        {"origin": "null", "content_type": "application/json"},
        {"origin": "", "content_type": "application/json"},
        {"host": "evil.example", "content_type": "application/json"},
        {"host": "evil.example", "origin": "http://evil.example", "content_type": "application/json"},
        {"host": "localhost.evil.example:80", "content_type": "application/json"},
        {"host": "user@evil.example", "content_type": "application/json"},
        {"host": "[::1", "content_type": "application/json"},
    ],
    ids=lambda headers: "-".join(headers.values()),
)
def test_a_page_of_another_site_changes_nothing(method: str, path: str, body: bytes, headers: dict[str, str]) -> None:
    api, backend = guarded()
    refused = ask(api, method, path, body, **headers)
    assert refused.status_code == 403
    assert refused.json()["error"]["code"] in ("host_not_allowed", "origin_not_allowed")
    assert backend.asked == []


@pytest.mark.parametrize("path", ["/", "/health", "/v1/models", "/v1/edits", "/openapi.json", "/static/index.html"])
def test_a_rebound_name_reads_nothing(path: str) -> None:
    assert ask(guarded()[0], "GET", path, host="evil.example:8000").status_code == 403


@pytest.mark.parametrize(("method", "path", "body"), [each for each in CHANGING if each[2]])
@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x"])
@pytest.mark.parametrize("key", [None, KEY])
def test_a_body_that_a_form_can_send_is_refused(
    method: str, path: str, body: bytes, kind: str, key: str | None
) -> None:
    given = [key] if key else []
    admin = [f"admin-{key}"] if key else []
    api, backend = guarded(keys=given, edit_keys=given, admin_keys=admin)
    used = admin if path == "/v1/models" else given
    authorization = {"authorization": f"Bearer {used[0]}"} if key else {}
    refused = ask(api, method, path, body, content_type=kind, **authorization)
    assert (refused.status_code, refused.json()["error"]["code"]) == (415, "unsupported_media_type")
    assert ask(api, method, path, body, **authorization).status_code == 415, "a body of no kind"
    assert backend.asked == []


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "127.0.0.1:8000", "localhost:8000", "LOCALHOST", "[::1]:8000", "127.3.2.1"]
)
def test_this_machines_own_page_is_served(host: str) -> None:
    for origin in ({}, {"origin": f"http://{host}"}, {"origin": f"https://{host}".lower()}):
        api, backend = guarded()
        found = ask(
            api, "POST", "/v1/completions", ASKED, host=host, content_type="Application/JSON; charset=utf-8", **origin
        )
        assert found.status_code == 200, found.text
        assert len(backend.asked) == 1
    assert ask(guarded()[0], "POST", "/v1/completions", ASKED, host="localhost:80", origin="http://localhost",
               content_type="application/json").status_code == 200  # fmt: skip


def test_a_server_with_keys_may_have_any_name() -> None:
    """Another site's page does not have the server's keys."""
    api, _ = guarded(keys=[KEY])
    named = {"host": "llm.example", "origin": "https://pages.example", "content_type": "application/json"}
    assert ask(api, "POST", "/v1/completions", ASKED, authorization=f"Bearer {KEY}", **named).status_code == 200
    assert ask(api, "POST", "/v1/completions", ASKED, **named).status_code == 401
