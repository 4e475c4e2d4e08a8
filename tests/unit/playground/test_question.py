"""The state of each answer when it ends, is cut off, loses its connection or is stopped."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

import pytest

from onceedit_ray.playground.api_client import AnswerEnd, AnswerPiece, ApiClient, CompletionQuery, RequestError
from onceedit_ray.playground.question import Comparison, ModelAnswer, Question
from onceedit_ray.playground.tab_keys import TabKeys

QUERY = CompletionQuery("Who?", "*", False, 4)


class ScriptedApi(ApiClient):
    """Answers with the pieces of `before` and `after`; `held` keeps every stream open. open: how many are."""

    def __init__(self, before: list[AnswerPiece], after: list[AnswerPiece], held: bool = False) -> None:
        super().__init__("http://127.0.0.1/v1")
        self.sides = {True: before, False: after}
        self.held = held
        self.open = 0

    async def models(self, key: str) -> list[str]:
        return ["one", "two"]

    async def answers(self, query: CompletionQuery, unedited: bool, key: str) -> AsyncGenerator[AnswerPiece]:
        self.open += 1
        try:
            for piece in self.sides[unedited]:
                yield piece
            if self.held:
                await asyncio.Event().wait()
        finally:
            self.open -= 1


def answer_of(index: int, text: str, reason: str = "stop", weight: float | None = 0.9) -> list[AnswerPiece]:
    end = AnswerEnd(reason, "v", weight, weight is None)
    return [AnswerPiece(index, text), AnswerPiece(index, "", end)]


def question_to(api: ApiClient) -> Question:
    return Question(api, TabKeys(), lambda: None, lambda row: None)


async def test_every_model_is_compared_with_itself() -> None:
    before = answer_of(1, "Perth") + answer_of(0, " Canberra ", weight=None)
    question = question_to(ScriptedApi(before, answer_of(0, "Perth", "length") + answer_of(1, " Perth")))
    assert await question.ask(QUERY)
    assert [(row.model, row.verdict) for row in question.rows] == [("one", "changed"), ("two", "same")]
    assert [row.after.cut for row in question.rows] == [True, False]
    assert question.summary == "Answered. The edit changed one."


async def test_one_model_alone_is_asked_for() -> None:
    question = question_to(ScriptedApi(answer_of(0, "a"), answer_of(0, "a")))
    assert await question.ask(CompletionQuery("Who?", "two", False, 4))
    assert [row.model for row in question.rows] == ["two"]
    assert question.summary == "Answered, as before any edit."
    with pytest.raises(RequestError, match="'three' is not served any more"):
        await question.ask(CompletionQuery("Who?", "three", False, 4))


async def test_a_stream_that_breaks_off_is_an_error_and_its_answers_are_stopped() -> None:
    question = question_to(ScriptedApi(answer_of(0, "a") + answer_of(1, "b"), [AnswerPiece(0, "Per")]))
    with pytest.raises(RequestError, match="the connection was lost"):
        await question.ask(QUERY)
    assert [row.after.state for row in question.rows] == ["stopped", "stopped"]
    assert [row.after.shown for row in question.rows] == ["Per", "(stopped)"]
    assert [row.verdict for row in question.rows] == [None, None]


@pytest.mark.parametrize("how", ["stop", "another question", "cancel"])
async def test_whatever_ends_a_question_early_closes_its_streams(how: str) -> None:
    async def ended() -> tuple[bool | None, int, list[Comparison]]:
        api = ScriptedApi([AnswerPiece(0, "a")], [AnswerPiece(0, "b")], held=True)
        question = question_to(api)
        asking = asyncio.ensure_future(question.ask(QUERY))
        while api.open < 2:
            await asyncio.sleep(0)
        rows = question.rows
        if how == "stop":
            question.stop()
        elif how == "cancel":
            asking.cancel()
        else:
            api.held, api.sides = False, dict.fromkeys((True, False), answer_of(0, "c") + answer_of(1, "d"))
            assert await question.ask(QUERY)
        (whole,) = await asyncio.gather(asking, return_exceptions=True)
        while api.open:
            await asyncio.sleep(0)
        assert not question.busy
        return (whole if isinstance(whole, bool) else None), api.open, rows

    whole, still_open, rows = await asyncio.wait_for(ended(), 30)
    assert whole is (None if how == "cancel" else False)
    assert still_open == 0
    assert [row.before.state for row in rows] == ["stopped", "stopped"]


def test_the_gate_in_words() -> None:
    said = {
        (None, True): "",
        (0.9, False): "Gate open: the edit speaks",
        (0.0, True): "Gate closed: no edited subject",
        (0.3, True): "Gate closed: not about an edit",
    }
    for (weight, alone), words in said.items():
        assert ModelAnswer("x", "done", AnswerEnd("stop", "v", weight, alone)).gate == words
    assert ModelAnswer("", "done").shown == "(no answer: it ended at once)"
