"""The record of a request: an id and numbers but no prompt, whatever the outcome of the request."""

from __future__ import annotations

import io
import json
from typing import Any

import pytest

from onceedit_ray.errors import ModelError
from onceedit_ray.serving.ingress import build_ingress
from onceedit_ray.serving.keys import Keys
from onceedit_ray.serving.observing import NO_ROUTE, Account
from onceedit_ray.serving.request_log import RequestLog
from tests.small_ingress import LIMITS, Scripted, post

SECRET = "Who is Danielle?"
GOOD = {"model": "one", "prompt": SECRET}
CHAT = {"model": "*", "messages": [{"role": "user", "content": SECRET}]}


class Watching:
    """An observer that keeps what it is told."""

    def __init__(self) -> None:
        self.begun = 0
        self.accounts: list[Account] = []

    def began(self, account: Account) -> None:
        self.begun += 1

    def ended(self, account: Account) -> None:
        self.accounts.append(account)


def ask(backend: Any, path: str, body: Any, keep: bool = False, **options: Any) -> tuple[Any, Account, dict[str, Any]]:
    """A response, its account, and its line of the log."""
    watching, written = Watching(), io.StringIO()
    limits = LIMITS.model_copy(update={"keep_prompts": keep})
    api = build_ingress(backend, limits, Keys(options.pop("keys", ())), None, [watching, RequestLog(written)])
    response = post(api, path, body, **options)
    (account,) = watching.accounts
    assert watching.begun == 1
    (line,) = written.getvalue().splitlines()
    return response, account, json.loads(line)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("path", "body"), [("/v1/completions", GOOD), ("/v1/chat/completions", CHAT)])
def test_a_request_is_a_line_without_its_prompt(path: str, body: dict[str, Any], stream: bool) -> None:
    response, account, line = ask(Scripted("Marie", " Curie"), path, body | {"stream": stream})
    answers = 2 if body["model"] == "*" else 1
    assert (line["route"], line["status"], line["model"], line["stream"]) == (path, 200, body["model"], stream)
    assert (line["prompt_tokens"], line["completion_tokens"]) == (3 * answers, 2 * answers)
    assert line["answers"][0] == {"target": "one", "version": "v", "weight": 0.9, "alone": False}
    assert line["request_id"] == response.headers["x-request-id"] == account.id
    assert ("first_token_seconds" in line) is stream
    assert 0 <= (account.first or 0.0) <= account.last <= account.seconds
    assert "Danielle" not in json.dumps(line) and "Curie" not in json.dumps(line)


def test_prompts_are_shown_where_they_are_to_be_kept() -> None:
    assert ask(Scripted("x"), "/v1/completions", GOOD, keep=True)[2]["prompts"] == [SECRET]
    assert ask(Scripted("x"), "/v1/chat/completions", CHAT, keep=True)[2]["prompts"] == CHAT["messages"]


@pytest.mark.parametrize(
    ("given", "kept"), [("mine-1", True), ("a b", False), ("x" * 129, False), ("", False), ("é", False)]
)
def test_a_plain_id_of_the_clients_own_is_kept(given: str, kept: bool) -> None:
    headers = {"x-request-id": given.encode()}
    found = ask(Scripted("x"), "/v1/completions", GOOD, headers=headers)[0].headers["x-request-id"]
    assert (found == given) is kept and found.isascii() and found


@pytest.mark.parametrize(
    ("backend", "path", "body", "status", "error", "route"),
    [
        (Scripted(ModelError("died")), "/v1/completions", GOOD, 503, "model_unavailable", "/v1/completions"),
        (Scripted(RuntimeError("bug")), "/v1/completions", GOOD, 500, "internal_error", "/v1/completions"),
        (Scripted("x"), "/v1/completions", GOOD | {"model": SECRET}, 404, "model_not_found", "/v1/completions"),
        (Scripted("x"), f"/v1/{SECRET}", GOOD, 404, None, NO_ROUTE),
        (Scripted("x", ModelError("died")), "/v1/completions", GOOD | {"stream": True}, 200, "model_unavailable", None),
    ],
)
def test_what_fails_is_written_too(
    backend: Any, path: str, body: Any, status: int, error: str | None, route: str | None
) -> None:
    response, account, line = ask(backend, path, body)
    assert (response.status_code, line["status"], account.error) == (status, status, error)
    assert route in (None, line["route"]) and "Danielle" not in json.dumps(line)
    assert response.headers["x-request-id"] == line["request_id"]


def test_what_breaks_outside_of_a_request_has_the_same_shape(caplog: pytest.LogCaptureFixture) -> None:
    backend = Scripted("x")
    backend.targets = None  # type: ignore[assignment, method-assign]
    response, _, line = ask(backend, "/v1/completions", GOOD)
    assert (response.status_code, line["status"]) == (500, 500)
    assert response.json()["error"]["code"] == "internal_error"


def test_who_is_turned_away_is_counted() -> None:
    response, account, line = ask(Scripted("x"), "/v1/completions", GOOD, keys=["a-long-key"])
    assert (response.status_code, line["status"], account.model) == (401, 401, "")
