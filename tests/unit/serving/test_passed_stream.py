"""A stream that passes through: the server's own events, but for the target's name and the field `onceedit`."""

from __future__ import annotations

import json
from typing import Any

import pytest

from onceedit_ray.models.engines.events import LARGEST
from onceedit_ray.serving.passed_stream import PassedStream

NAME, EXTENSION = "llama", {"target": "llama", "alone": True}
VLLM = {"id": "c-1", "object": "chat.completion.chunk", "created": 1, "model": 'org/"big" 7b'}
"""The fields before the choices, as vLLM orders them."""


def stream() -> PassedStream:
    return PassedStream(NAME, EXTENSION)


def choice(text: str, finish: str | None = None, **more: Any) -> dict[str, Any]:
    return {"index": 0, "delta": {"content": text}, "logprobs": None, "finish_reason": finish, **more}


def block(item: dict[str, Any], **form: Any) -> bytes:
    return b"data: " + json.dumps(item, **form).encode() + b"\n\n"


def objects(told: bytes) -> list[Any]:
    return [json.loads(part[6:]) for part in told.split(b"\n\n") if part and part != b"data: [DONE]"]


def passed(*blocks: bytes) -> tuple[PassedStream, bytes]:
    found = stream()
    return found, b"".join(map(found.feed, blocks)) + found.end()


FORMS: list[dict[str, Any]] = [{}, {"separators": (",", ":")}, {"sort_keys": True}, {"ensure_ascii": False}]


@pytest.mark.parametrize("form", FORMS)
def test_only_the_name_differs(form: dict[str, Any]) -> None:
    texts = ["One", " two", ' "finish_reason":"stop" ', '"model":"org"', "], ", "é東", "\\", ""]
    items = [{**VLLM, "choices": [choice(text)], "system_fingerprint": "fp"} for text in texts]
    found, told = passed(*(block(item, **form) for item in items), b"data: [DONE]\n\n")
    assert objects(told) == [{**item, "model": NAME} for item in items]
    assert (found.events, found.complete, found.finish) == (len(texts), True, "")
    assert told.endswith(b"data: [DONE]\n\n")


def test_what_is_not_parsed_keeps_every_byte() -> None:
    second = block({**VLLM, "choices": [choice("x\u2028", marks=[1.0, 1e-07, 3])]})
    _, told = passed(block({**VLLM, "choices": [choice("a")]}), second)
    name = json.dumps(VLLM["model"]).encode()
    assert told.split(b"\n\n")[1] + b"\n\n" == second.replace(b": " + name, b': "llama"')


def test_the_end_of_an_answer_is_seen() -> None:
    usage = {"prompt_tokens": 3, "completion_tokens": 9}
    found, told = passed(
        block({**VLLM, "choices": [choice("a")]}),
        block({**VLLM, "choices": [choice("b", "length")]}),
        block({**VLLM, "choices": [], "usage": usage}),
    )
    assert (found.finish, found.usage, found.events, found.complete) == ("length", usage, 2, True)
    assert [each.get("onceedit") for item in objects(told) for each in item["choices"]] == [None, EXTENSION]


def test_counts_in_every_event_are_read() -> None:
    items = [{**VLLM, "choices": [choice("a")], "usage": {"completion_tokens": number}} for number in range(1, 4)]
    found, told = passed(*map(block, items))
    assert found.usage == {"completion_tokens": 3}
    assert objects(told) == [{**item, "model": NAME} for item in items]


def test_several_choices_and_another_head() -> None:
    one = {**VLLM, "choices": [choice("a"), {**choice("b"), "index": 1}]}
    other = {**VLLM, "id": "c-2", "choices": [choice("c")]}
    ends = {**VLLM, "choices": [choice("d"), {**choice("e", "stop"), "index": 1}]}
    found, told = passed(*map(block, (one, one, other, ends)))
    assert [item["id"] for item in objects(told)] == ["c-1", "c-1", "c-2", "c-1"]
    assert {item["model"] for item in objects(told)} == {NAME}
    assert found.finish == "stop"


@pytest.mark.parametrize("size", [1, 2, 7, 100])
def test_bytes_arrive_in_any_portions(size: int) -> None:
    items = [{**VLLM, "choices": [choice(text)]} for text in ("One", " two", " three")]
    told = b"".join(map(block, items)).replace(b"\n", b"\r\n")
    _, found = passed(*(told[at : at + size] for at in range(0, len(told), size)))
    assert objects(found) == [{**item, "model": NAME} for item in items]


def test_what_is_no_object_passes_as_it_is() -> None:
    odd = [b": a comment\n\n", b"event: ping\ndata: {}\n\n", b"data: [1]\n\n", b"data: {broken\n\n"]
    first = block({**VLLM, "choices": [choice("a")]})
    _, told = passed(first, *odd)
    assert told.endswith(odd[0] + b"data: {}\n\n" + odd[2] + odd[3])
    found, told = passed(b"data: {}")
    assert told == b"data: {}\n\n" and not found.complete


def test_a_server_that_names_no_model() -> None:
    items = [{"choices": [choice("a")]}, {"choices": [choice("b")]}]
    _, told = passed(*map(block, items))
    assert objects(told) == items


def test_an_event_without_an_end() -> None:
    found = stream()
    with pytest.raises(ValueError, match="an event of more than"):
        found.feed(b"x" * (LARGEST + 1))
