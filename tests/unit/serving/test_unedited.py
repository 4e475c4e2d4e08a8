"""The request field `onceedit`: an unedited answer, in every kind of request."""

from __future__ import annotations

from typing import Any

import openai
import pytest

from tests.small_decoding import BEGUN, decoder_of, generations, open_sessions
from tests.small_ingress import VERSION, Scripted, client_of, events, ingress_of, post, small_backend
from tests.small_system import TaughtModels

PROMPT = BEGUN[0]
UNEDITED = {"onceedit": {"unedited": True}}
ALONE = {"version": "", "weight": None, "alone": True, "edits": []}


def complete(models: TaughtModels, **changes: Any) -> tuple[str, dict[str, Any]]:
    """Text and ending of one completion."""
    body = {"model": "mistral", "prompt": PROMPT, "max_tokens": 8} | changes
    response = post(ingress_of(small_backend(models)), "/v1/completions", body)
    assert response.status_code == 200, response.text
    if not changes.get("stream"):
        (choice,) = response.json()["choices"]
        return choice["text"], choice
    chunks = [choice for chunk in events(response) for choice in chunk["choices"]]
    return "".join(choice["text"] for choice in chunks), chunks[-1]


@pytest.mark.parametrize("stream", [False, True])
def test_the_target_answers_as_it_did_before_any_edit(models: TaughtModels, stream: bool) -> None:
    (own,) = generations(decoder_of(models, 0.6, threshold=0.5), "mistral", [PROMPT], "unedited")
    text, ending = complete(models, stream=stream, **UNEDITED)
    assert text == own.text
    assert ending["onceedit"] == {"target": "mistral"} | ALONE
    edited, edited_ending = complete(models, stream=stream, onceedit={"unedited": False})
    assert edited_ending["onceedit"]["version"] == VERSION and edited_ending["onceedit"]["weight"] == 0.6
    assert edited != text
    assert open_sessions(models) == 0


@pytest.mark.parametrize("stream", [False, True])
def test_a_stop_string_ends_it_too(models: TaughtModels, stream: bool) -> None:
    whole, _ = complete(models, **UNEDITED)
    stop = whole.strip()[3:5]
    text, ending = complete(models, stream=stream, stop=stop, **UNEDITED)
    assert text == whole[: whole.index(stop)]
    assert (ending["finish_reason"], ending["onceedit"]) == ("stop", {"target": "mistral"} | ALONE)


async def test_the_official_client_asks_before_and_after(models: TaughtModels) -> None:
    async def ask() -> list[Any]:
        async with client_of(ingress_of(small_backend(models))) as http:
            client = openai.AsyncOpenAI(api_key="none", base_url="http://127.0.0.1/v1", http_client=http)
            asked: dict[str, Any] = {"model": "qwen2", "messages": [{"role": "user", "content": PROMPT}]}
            return [
                (await client.chat.completions.create(**asked, temperature=0, extra_body=body)).choices[0]
                for body in (UNEDITED, None)
            ]

    before, after = await ask()
    assert before.onceedit == {"target": "qwen2"} | ALONE
    assert after.onceedit["alone"] is False
    assert before.message.content != after.message.content


@pytest.mark.parametrize(
    ("given", "param"),
    [
        (True, "onceedit"),
        ("unedited", "onceedit"),
        ([], "onceedit"),
        ({"unedited": 1}, "onceedit.unedited"),
        ({"unedited": "true"}, "onceedit.unedited"),
        ({"unedited": None}, "onceedit.unedited"),
        ({"strategy": "unedited"}, "onceedit.strategy"),
    ],
)
@pytest.mark.parametrize("path", ["/v1/completions", "/v1/chat/completions"])
def test_anything_else_in_the_field_is_refused(path: str, given: Any, param: str) -> None:
    backend = Scripted("no")
    asked = {"prompt": "Who?"} if path == "/v1/completions" else {"messages": [{"role": "user", "content": "Who?"}]}
    response = post(ingress_of(backend), path, {"model": "one", "onceedit": given} | asked)
    assert response.status_code == 400, response.text
    assert response.json()["error"]["param"] == param
    assert backend.asked == []


@pytest.mark.parametrize("given", [None, {}])
def test_an_empty_field_asks_for_nothing(given: Any) -> None:
    backend = Scripted("yes")
    assert post(
        ingress_of(backend), "/v1/completions", {"model": "one", "prompt": "Who?", "onceedit": given}
    ).is_success
    assert [asked.unedited for asked in backend.asked] == [False]
