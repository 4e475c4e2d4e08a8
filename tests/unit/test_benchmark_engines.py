"""The benchmarks of engines: what counts as right, as one clear error, and as neither; what the load client reads."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from benchmarks.engine_kills import ERROR, RIGHT, TOKENS, WRONG, verdict
from benchmarks.http_load import asked_by
from benchmarks.pass_through import screened
from benchmarks.stand_in_engine import WORD, running
from onceedit_ray.knowledge.edit import Edit
from onceedit_ray.knowledge.facts_at import FactsAt
from onceedit_ray.knowledge.revision import StoredEdit

DEAD = {"error": {"message": "the server of 'engine' cannot answer now; try again"}}


def whole(text: str, finish: str | None = "length") -> str:
    return json.dumps({"choices": [{"message": {"content": text}, "finish_reason": finish}]})


def stream(*items: Any) -> str:
    return "".join(f"data: {json.dumps(item)}\n\n" for item in items)


def piece(text: str, finish: str | None = None) -> dict[str, Any]:
    return {"choices": [{"delta": {"content": text}, "finish_reason": finish}]}


@pytest.mark.parametrize(
    ("status", "text", "streamed", "expected"),
    [
        (200, whole(WORD * TOKENS), False, RIGHT),
        (200, whole(WORD * (TOKENS - 1)), False, WRONG),
        (503, json.dumps(DEAD), False, ERROR),
        (200, json.dumps(DEAD), False, WRONG),
        (200, stream(piece(WORD * TOKENS, "length")) + "data: [DONE]\n\n", True, RIGHT),
        (200, stream(piece(WORD * TOKENS)) + "data: [DONE]\n\n", True, WRONG),
        (200, stream(piece(WORD), DEAD), True, ERROR),
        (200, stream(DEAD, piece(WORD)), True, WRONG),
        (200, stream(piece(WORD), DEAD, DEAD), True, WRONG),
        (200, "data: {", True, WRONG),
        (503, json.dumps(DEAD), True, ERROR),
    ],
)
def test_what_came_of_a_request(status: int, text: str, streamed: bool, expected: str) -> None:
    assert verdict(status, text, streamed) == expected


def test_the_load_client_counts_what_the_stand_in_writes() -> None:
    body = {"messages": [{"role": "user", "content": "Which river?"}], "max_tokens": 5}
    with running(200.0, delay=0.05) as (url, _):
        path = "/v1/chat/completions"
        streams, _ = asyncio.run(asked_by(url, path, 2, [{**body, "stream": True}] * 4))
        wholes, _ = asyncio.run(asked_by(url, path, 2, [body] * 4))
    assert [answer.events for answer in streams] == [5] * 4
    assert all(0.0 < answer.first <= answer.whole for answer in streams)
    assert [answer.events for answer in wholes] == [1] * 4


def test_prompts_that_name_an_edit_are_left_out() -> None:
    edit = Edit(prompt="What is the capital of Australia?", target_new="Perth", subject="Australia")
    facts = FactsAt.of([StoredEdit("edit_1", edit, 1)])
    passed, rate = screened(facts, ["Where is Australia?", "Where is Lyon?"] * 10)
    assert passed == ["Where is Lyon?"] * 10 and rate > 0
