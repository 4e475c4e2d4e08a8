"""Every call of a model is answered, in the order of its session, also if callers leave or passes fail."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

from onceedit_ray.errors import SessionLostError
from onceedit_ray.models.local_model import LocalModel
from onceedit_ray.models.session_calls import deliver, future
from tests.watched_model import Watched, assert_top, check_decoded


class Stalled:
    """A model whose thread waits between two passes, so that calls that arrive meanwhile are taken together."""

    def __init__(self, model: LocalModel, monkeypatch: pytest.MonkeyPatch) -> None:
        self.going, self.stalled = threading.Event(), threading.Event()
        choose = model._choose_next

        def waiting(going: Any) -> None:
            self.stalled.set()
            assert self.going.wait(30)
            choose(going)

        monkeypatch.setattr(model, "_choose_next", waiting)

    async def reached(self) -> None:
        assert await asyncio.to_thread(self.stalled.wait, 30)


class TestLeaving:
    """Every waiting call is answered, also if other callers leave."""

    async def test_a_call_on_a_session_that_is_closed_is_told_so(
        self, watched: dict[str, Watched], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        model = watched["llama"].model

        step = await model.open([9, 10])
        stalled = Stalled(model, monkeypatch)
        decoding = asyncio.ensure_future(model.extend(step.session, 2, [11], decode=20))
        await stalled.reached()
        behind = [
            asyncio.ensure_future(call) for call in (model.extend(step.session, 2, [12]), model.fork(step.session))
        ]
        await asyncio.sleep(0)
        await model.close(step.session)
        stalled.going.set()
        answers = await asyncio.wait_for(asyncio.gather(decoding, *behind, return_exceptions=True), 30)
        assert [type(answer) for answer in answers] == [SessionLostError] * 3
        assert model.open_sessions == 0

    async def test_a_call_waits_for_the_one_before_it_on_its_session(
        self, watched: dict[str, Watched], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """As on an actor, where a call runs on after its caller has left, and another caller uses the session."""
        w = watched["mistral"]

        step = await w.model.open([9, 10])
        stalled = Stalled(w.model, monkeypatch)
        first = asyncio.ensure_future(w.model.extend(step.session, 2, [11], decode=3))
        await stalled.reached()
        second = asyncio.ensure_future(w.model.extend(step.session, 2, [20, 21], rows=2))
        fork = asyncio.ensure_future(w.model.fork(step.session))
        await asyncio.sleep(0)
        stalled.going.set()
        decoded, read = await first, await second
        copied = await fork
        further = await w.model.extend(copied, 4, [30])
        # Only now, when the model's own thread is idle: two threads in one network would mix up its rows.
        check_decoded(w, [9, 10, 11], decoded, 1, 3)
        assert_top(read.top, w.expected([9, 10, 20, 21], 2))
        assert_top(further.top, w.expected([9, 10, 20, 21, 30], 1))
        await w.model.close(step.session)
        await w.model.close(copied)

    async def test_a_call_nobody_waits_for_is_not_decoded_on(
        self, watched: dict[str, Watched], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        w = watched["qwen2"]

        step = await w.model.open([9, 10])
        stalled = Stalled(w.model, monkeypatch)
        left = asyncio.ensure_future(w.model.extend(step.session, 2, [11], decode=100))
        await stalled.reached()
        left.cancel()
        await asyncio.wait([left])
        before = w.model.passes
        stalled.going.set()
        assert_top((await w.model.extend(step.session, 2, [20])).top, w.expected([9, 10, 20], 1))
        assert w.model.passes - before < 5
        await w.model.close(step.session)

    @pytest.mark.parametrize("part", ["take", "copy", "logits", "give_back"])
    async def test_whatever_goes_wrong_in_the_thread_is_told_and_it_serves_on(
        self, watched: dict[str, Watched], monkeypatch: pytest.MonkeyPatch, part: str
    ) -> None:
        w = watched["gptj"]

        step = await w.model.open([9, 10])
        with monkeypatch.context() as patch:
            patch.setattr(w.model._cached, part, broken)
            asked = [w.model.open([7]), w.model.fork(step.session), w.model.extend(step.session, 2, [11])]
            calls = [asyncio.ensure_future(call) for call in asked]
            await asyncio.sleep(0)
            if part == "give_back":
                await w.model.close(step.session)
            answers = await asyncio.wait_for(asyncio.gather(*calls, return_exceptions=True), 30)
            assert any(isinstance(answer, MemoryError) for answer in answers)
        assert_top((await w.model.open([9, 10])).top, w.expected([9, 10], 1))
        for session in list(w.model._sessions):
            await w.model.close(session)


def broken(*args: object) -> None:
    raise MemoryError("no room")


async def test_an_error_that_no_future_takes_keeps_no_other_call_waiting() -> None:
    """`StopIteration` in a pass, say of a generator inside a network."""
    first, second = future(), future()
    deliver([(first, StopIteration("inner")), (second, 7)])
    assert await asyncio.wait_for(second, 5) == 7
    with pytest.raises(RuntimeError, match="StopIteration"):
        await asyncio.wait_for(first, 5)
