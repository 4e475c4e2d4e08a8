"""If every target is asked, a failed target does not affect the answers of the others."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

import pytest

from onceedit_ray.errors import ModelError
from onceedit_ray.serving.generation_request import GenerationRequest
from onceedit_ray.serving.logprobs import Piece
from tests.small_ingress import Scripted, events, ingress_of, post

GOOD = {"model": "one", "prompt": "Who?"}


class Halved(Scripted):
    """A backend whose target "two" fails: before it has said anything, or after a word."""

    def __init__(self, after: bool, dead: tuple[str, ...] = ("two",)) -> None:
        super().__init__("a")
        self.after, self.dead = after, dead

    async def speak(self, asked: GenerationRequest) -> AsyncGenerator[Any]:
        if asked.target not in self.dead:
            async for piece in super().speak(asked):
                yield piece
            return
        if self.after:
            yield Piece("b")
        raise ModelError(f"{asked.target} died")


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("stream", [False, True])
def test_where_every_target_is_asked_those_that_live_answer_and_the_others_are_named(after: bool, stream: bool) -> None:
    found = post(ingress_of(Halved(after)), "/v1/completions", GOOD | {"model": "*", "n": 2, "stream": stream})
    assert found.status_code == 200, found.text
    chunks = events(found) if stream else [found.json()]
    choices = [choice for chunk in chunks for choice in chunk["choices"] if choice["finish_reason"]]
    assert {(choice["index"], choice["onceedit"]["target"]) for choice in choices} == {(0, "one"), (1, "one")}
    failed = chunks[-1]["onceedit"]["failed"]
    assert [each["target"] for each in failed] == ["two", "two"]
    assert {each["error"]["code"] for each in failed} == {"model_unavailable"}
    whole = post(ingress_of(Scripted("a")), "/v1/completions", GOOD | {"model": "*"}).json()
    assert "onceedit" not in whole


@pytest.mark.parametrize("stream", [False, True])
def test_where_no_target_answers_the_request_fails(stream: bool) -> None:
    for dead, model in ((("one", "two"), "*"), (("two",), "two")):
        found = post(ingress_of(Halved(False, dead)), "/v1/completions", GOOD | {"model": model, "stream": stream})
        assert (found.status_code, found.json()["error"]["code"]) == (503, "model_unavailable")


def test_a_target_that_takes_too_long_is_named_too() -> None:
    class Slow(Scripted):
        async def answer(self, asked: GenerationRequest) -> Any:
            if asked.target == "two":
                await asyncio.Event().wait()
            return await super().answer(asked)

    found = post(ingress_of(Slow("a"), seconds=0.3), "/v1/completions", GOOD | {"model": "*"}).json()
    assert [choice["onceedit"]["target"] for choice in found["choices"]] == ["one"]
    assert [(each["target"], each["error"]["code"]) for each in found["onceedit"]["failed"]] == [("two", "timeout")]
