"""Answers of a server that the plug-in reads along: where text is cut, how it is continued, and what is left alone."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from onceedit_ray.fusion.engine_answer import text_of
from onceedit_ray.models.assembly import open_codec
from onceedit_ray.models.codec import Codec
from onceedit_ray.serving.any_target import relay
from onceedit_ray.serving.engine_requests import EngineRequest
from onceedit_ray.serving.generation_request import GenerationEnd
from tests.families import build_family
from tests.scripted_model import ScriptedModel
from tests.small_reader import EDITS, QUESTION
from tests.small_server_target import TARGET, decoder_at
from tests.stand_in_server import StandIn, running

OWN = "The capital of Australia is Canberra. It is a city of about half a million people in the south."
EDITED = "The capital of Australia is Perth. It is by the sea."
PROBES = ["Write a letter.", "a", [[1], [1, 2]]]


@pytest.fixture(scope="module")
def codec(tmp_path_factory: pytest.TempPathFactory) -> Codec:
    return open_codec(build_family("gpt2", tmp_path_factory.mktemp("engine-answer") / "gpt2"))


def writes(*script: tuple[str, str]) -> Callable[[str], str]:
    """A server that writes the text of the first pair whose key stands in what it has read."""

    def goes_on(text: str) -> str:
        reply = text.rpartition("<assistant>")[2] if "<assistant>" in text else text.rpartition("|")[2]
        for key, whole in script:
            if key in text and whole.startswith(reply) and whole != reply:
                return whole[len(reply) :]
        return ""

    return goes_on


def chat(question: str, **more: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": question}], **more}


def answered(
    stand_in: StandIn, codec: Codec, body: dict[str, Any], unedited: bool = False
) -> tuple[list[dict[str, Any]], GenerationEnd]:
    """The events of an answer, and its summary; every session of the plug-in is closed after it."""

    async def ask(url: str) -> tuple[list[dict[str, Any]], GenerationEnd]:
        decoder = decoder_at(url, codec)
        *events, end = [item async for item in relay(decoder, EngineRequest(TARGET, body, unedited))]
        assert isinstance(decoder.plugin.model, ScriptedModel) and not decoder.plugin.model.sessions
        return events, end  # type: ignore[return-value]

    with running(stand_in) as url:
        return asyncio.run(ask(url))


def text(events: list[dict[str, Any]]) -> str:
    return "".join(text_of(event) for event in events if event["choices"])


def requests_of(stand_in: StandIn) -> list[dict[str, Any]]:
    """What was asked for answers, without the trials at the start."""
    return [
        body
        for body in stand_in.asked
        if body.get("prompt") not in PROBES and (body.get("messages") or [{}])[0].get("content") not in PROBES
    ]


def length_of(codec: Codec, text: str) -> int:
    return len(codec.encode_bytes(text.encode()))


@pytest.mark.parametrize("continues", ["flags", "prefill"])
def test_a_contradiction_is_cut_and_the_server_continues(codec: Codec, continues: Any) -> None:
    stand_in = StandIn(writes(("Perth", EDITED), ("", OWN + " And so on." * 40)), continues=continues, pause=0.005)
    events, end = answered(stand_in, codec, chat(QUESTION, max_tokens=40, tools=[{"x": 1}], seed=5))
    assert text(events) == EDITED
    assert (end.reason, end.alone, end.version, end.edits) == ("stop", False, "read", (EDITS[0].prompt,))
    first, second = requests_of(stand_in)
    assert second["messages"][-1] == {"role": "assistant", "content": "The capital of Australia is Perth"}
    assert second["tools"] == first["tools"] == [{"x": 1}] and second["seed"] == 5
    assert second["max_tokens"] == 40 - 5 - length_of(codec, " Perth"), "what is written counts"
    assert stand_in.closed == 1, "the stream with the old answer was closed"


def test_the_events_of_a_corrected_answer_look_like_one_stream(codec: Codec) -> None:
    stand_in = StandIn(writes(("Perth", EDITED), ("", OWN)))
    events, end = answered(stand_in, codec, chat(QUESTION))
    assert {(event["id"], event["created"], event["object"]) for event in events} == {
        ("stand-in-1", 1, "chat.completion.chunk")
    }
    roles = [choice["delta"].get("role") for event in events for choice in event["choices"]]
    assert roles[0] == "assistant" and not any(roles[1:])
    finishes = [choice["finish_reason"] for event in events for choice in event["choices"]]
    assert finishes == [None] * (len(finishes) - 1) + ["stop"]
    extension = events[-2]["choices"][0]["onceedit"]
    assert extension == {
        "target": TARGET, "version": "read", "weight": 0.95, "alone": False, "edits": [EDITS[0].prompt],
    }  # fmt: skip
    others = len(EDITED.split())  # the full stop after Perth is a token of its own
    assert events[-1]["usage"]["completion_tokens"] == end.completion_tokens == others + length_of(codec, " Perth")


def test_an_answer_without_contradiction_is_the_servers_own(codec: Codec) -> None:
    own = "Australia lies in the south. " * 12
    body = chat("Tell me about Australia.", logprobs=True)
    events, end = answered(StandIn(writes(("", own))), codec, body)
    unedited, _ = answered(StandIn(writes(("", own))), codec, body, unedited=True)
    for event in events:
        for choice in event["choices"]:
            choice.pop("onceedit", None)
    assert events == unedited
    assert end.alone and end.edits == () and end.reason == "stop"


def test_a_subject_that_comes_up_in_mid_answer_is_corrected(codec: Codec) -> None:
    own = "Australia is far. I know much of money, too. Well, the currency of Japan is the yen, as you know."
    edited = own.replace("yen", "crown")
    events, end = answered(StandIn(writes(("crown", edited), ("", own))), codec, chat("Tell me of Australia."))
    assert text(events) == edited
    assert end.edits == (EDITS[1].prompt,)


def test_a_reply_that_shows_no_place_begins_with_the_answer(codec: Codec) -> None:
    stand_in = StandIn(writes(("Perth", "Perth. That is all."), ("", "Canberra.")))
    events, end = answered(stand_in, codec, chat(QUESTION))
    assert text(events) == "Perth. That is all."
    assert end.edits == (EDITS[0].prompt,)


def test_a_question_by_yes_or_no_is_answered_by_the_fact(codec: Codec) -> None:
    opening = "No, Perth is the capital of Australia"
    stand_in = StandIn(writes((opening, f"{opening}. It is old."), ("", "Yes, it is.")), continues="flags")
    events, end = answered(stand_in, codec, chat("Is Canberra the capital of Australia?"))
    assert text(events) == f"{opening}. It is old."
    assert (end.alone, end.edits) == (False, (EDITS[0].prompt,))


def test_completions_of_a_question_and_of_half_a_sentence(codec: Codec) -> None:
    stand_in = StandIn(writes(("crown", "The currency of Japan is the crown, and"), ("", "Canberra.")))
    events, end = answered(stand_in, codec, {"prompt": QUESTION})
    assert text(events) == " Perth" and end.reason == "stop"
    assert requests_of(stand_in) == [], "the answer of a question is the plug-in's alone, as with draft"
    events, _ = answered(stand_in, codec, {"prompt": "|The currency of Japan is the"})
    assert text(events) == " crown, and"
    assert requests_of(stand_in)[-1]["prompt"] == "|The currency of Japan is the crown"


def test_a_server_that_continues_no_reply_ends_with_the_answer(codec: Codec) -> None:
    stand_in = StandIn(writes(("Perth", EDITED), ("", OWN)), continues="no", completions=False)
    events, end = answered(stand_in, codec, chat(QUESTION))
    assert text(events) == "The capital of Australia is Perth" and end.reason == "stop"


def test_the_limit_of_tokens_holds_for_the_whole_answer(codec: Codec) -> None:
    stand_in = StandIn(writes(("Perth", EDITED), ("", OWN)))
    written = 5 + length_of(codec, " Perth")
    events, end = answered(stand_in, codec, chat(QUESTION, max_tokens=written + 2))
    assert text(events) == "The capital of Australia is Perth. It"
    assert end.reason == "length" and end.completion_tokens == written + 2
    events, end = answered(stand_in, codec, chat(QUESTION, max_completion_tokens=written))
    assert text(events) == "The capital of Australia is Perth" and end.reason == "length"


def test_a_call_of_a_tool_is_left_to_the_server(codec: Codec) -> None:
    class Calls:
        """A server that calls a tool in place of an answer."""

        async def events(self, path: str, body: Any) -> AsyncIterator[dict[str, Any]]:
            call = {"index": 0, "id": "1", "function": {"name": "search", "arguments": "{}"}}
            for delta, finish in (({"role": "assistant", "tool_calls": [call]}, None), ({}, "tool_calls")):
                yield {"id": "c", "choices": [{"index": 0, "delta": delta, "finish_reason": finish}]}

    decoder = decoder_at("http://127.0.0.1:9/v1", codec)
    decoder.servers[TARGET] = Calls()  # type: ignore[assignment]

    async def ask() -> list[Any]:
        async with contextlib.aclosing(relay(decoder, EngineRequest(TARGET, chat(QUESTION)))) as events:
            return [event async for event in events]

    *events, _, end = asyncio.run(ask())
    assert [choice["finish_reason"] for event in events for choice in event["choices"]] == [None, "tool_calls"]
    assert end.alone


def test_what_is_no_text_is_passed_on_at_once(codec: Codec) -> None:
    class Thinks:
        """A server that reasons first, and never ends."""

        async def events(self, path: str, body: Any) -> AsyncIterator[dict[str, Any]]:
            yield {"id": "c", "choices": [{"index": 0, "delta": {"reasoning_content": "Hm."}, "finish_reason": None}]}
            await asyncio.Event().wait()

    decoder = decoder_at("http://127.0.0.1:9/v1", codec)
    decoder.servers[TARGET] = Thinks()  # type: ignore[assignment]

    async def first() -> Any:
        async with contextlib.aclosing(relay(decoder, EngineRequest(TARGET, chat(QUESTION)))) as events:
            async with asyncio.timeout(20):
                return await anext(events)

    assert asyncio.run(first())["choices"][0]["delta"] == {"reasoning_content": "Hm."}


def test_the_clients_own_beginning_of_a_reply_is_kept(codec: Codec) -> None:
    stand_in = StandIn(writes(("Perth", "Well. " + EDITED), ("", "Well. " + OWN)), continues="prefill")
    body = chat(QUESTION)
    body["messages"].append({"role": "assistant", "content": "Well. "})
    events, _ = answered(stand_in, codec, body)
    assert text(events) == EDITED
    assert requests_of(stand_in)[1]["messages"][-1]["content"] == "Well. The capital of Australia is Perth"
