"""Errors about a wrong body name the keys of the body."""

from __future__ import annotations

import re
from typing import Any

import pytest

from tests.small_ingress import Scripted, ingress_of, post

GOOD = {"model": "one", "prompt": "Who?"}
GOOD_CHAT = {"model": "one", "messages": [{"role": "user", "content": "Who?"}]}


@pytest.mark.parametrize(
    ("path", "body", "message"),
    [
        ("completions", {"model": "one"}, "'prompt': field required"),
        (
            "completions",
            GOOD | {"prompt": 5},
            "'prompt': input should be a valid string, or input should be a valid list",
        ),
        ("completions", GOOD | {"stop": ["a", 1]}, "'stop[1]': input should be a valid string"),
        ("completions", [], "input should be an object"),
        (
            "chat/completions",
            {"model": "one", "messages": [{"role": "user", "content": [{"type": "image"}]}]},
            "'messages[0].content[0].type': input should be 'text'",
        ),
        ("chat/completions", {"model": "one", "messages": [{"content": "x"}]}, "'messages[0]': missing key 'role'"),
        ("chat/completions", {"model": "one", "messages": []}, "'messages': list should have at least 1 item, not 0"),
        (
            "chat/completions",
            {"model": "one", "messages": [{"role": "king", "content": "x"}]},
            "'messages[0]': 'role' should be one of 'system', 'developer', 'user', 'assistant'",
        ),
        ("chat/completions", GOOD_CHAT | {"response_format": 3}, "'response_format': input should be an object"),
        (
            "edits",
            {"prompt": "Who?", "target_new": "I", "rephrasings": 5},
            "'rephrasings': input should be a valid list",
        ),
        ("edits", {"prompt": "Who?"}, "'target_new': field required"),
        ("edits", {"edits": [{"prompt": "Who?"}]}, "'edits[0].target_new': field required"),
        ("edits", {"edits": [{"prompt": "Who?", "target_new": "I", "one": 1}]}, "unrecognized request argument: "),
    ],
)
def test_a_message_names_the_keys_that_were_sent(path: str, body: Any, message: str) -> None:
    """And not pydantic's names for the branches of a union: `one`, `constrained-str`, `list[constrained-str]`."""
    response = post(ingress_of(Scripted("no")), f"/v1/{path}", body)
    assert response.status_code == 400
    error = response.json()["error"]
    assert error["message"].startswith(message)
    assert not re.search(r"(one|constrained-str|int|str)\.|\[constrained|tuple|dict|\btags?\b", error["message"])
