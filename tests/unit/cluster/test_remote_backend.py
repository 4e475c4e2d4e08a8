"""A request whose coordinator dies is asked again, and the client gets each character once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from typing import Any

import pytest
from ray.exceptions import ActorDiedError, ActorUnavailableError

from onceedit_ray.cluster import remote_backend as module
from onceedit_ray.cluster.remote_backend import MOST_DEATHS, RemoteBackend
from onceedit_ray.errors import ModelError, PromptError
from onceedit_ray.models.sampling import GREEDY
from onceedit_ray.serving.generation_request import GenerationEnd, GenerationRequest
from onceedit_ray.serving.logprobs import Piece

ASKED = GenerationRequest("gemma", 8, GREEDY, "Who?")
END = GenerationEnd("gemma", "stop", 1, 3, "v1", 0.0, True)
DIED = ActorDiedError()
OUT_OF_MEMORY = ActorUnavailableError("OutOfMemoryError: killed for memory", None)


@dataclass
class Coordinator:
    """Gives `items` and raises those that are errors. asked: the beginnings of answers that it was told."""

    items: list[Any]
    asked: list[str] = field(default_factory=list)

    async def speak(self, asked: GenerationRequest) -> AsyncGenerator[Any]:
        self.asked.append(asked.known)
        for item in self.items:
            if isinstance(item, Exception):
                raise item
            yield item

    async def answer(self, asked: GenerationRequest) -> Any:
        (item,) = self.items
        if isinstance(item, Exception):
            raise item
        return item

    async def probe(self, seconds: float) -> Any:
        return await self.answer(ASKED)


class Models:
    """Hands out one coordinator after another, each to those that have lost the one before. Errors are raised."""

    def __init__(self, *coordinators: Any) -> None:
        self.waiting = list(coordinators)
        self.lost: list[Any] = []
        self.coordinators = self
        self.knowledge = self

    async def remote(self, lost: Any) -> Any:
        self.lost.append(lost)
        found = self.waiting.pop(0)
        if isinstance(found, Exception):
            raise found
        return found if isinstance(found, list) else [found]


@pytest.fixture(autouse=True)
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Calls stay in this process."""

    async def result(call: Any) -> Any:
        return await call

    async def awaited(method: Any, *args: object) -> Any:
        return await method(*args)

    monkeypatch.setattr(module, "result", result)
    monkeypatch.setattr(module, "awaited", awaited)
    monkeypatch.setattr(module, "received", lambda method, asked: method(asked))
    monkeypatch.setattr(module, "PAUSE_SECONDS", 0.0)


def spoken(models: Models) -> tuple[str, list[Any]]:
    backend = RemoteBackend(models)

    async def all_of_it() -> list[Any]:
        return [item async for item in backend.speak(ASKED)]

    found = asyncio.run(all_of_it())
    return "".join(item.text for item in found if isinstance(item, Piece)), found


@pytest.mark.parametrize("death", [DIED, OUT_OF_MEMORY])
def test_a_stream_goes_on_where_its_client_is(death: Exception) -> None:
    first = Coordinator([Piece("Per"), Piece("th is"), death])
    second = Coordinator([Piece("Perth"), death])
    third = Coordinator([Piece("Perth is a"), Piece(" city"), END])
    models = Models(first, second, third)
    text, items = spoken(models)
    assert text == "Perth is a city" and items[-1] == END
    assert [one.asked for one in (first, second, third)] == [[""], ["Perth is"], ["Perth is"]]
    assert models.lost == [None, first, second]


async def test_requests_are_shared_out_and_those_of_a_lost_one_go_on_at_another() -> None:
    """Four at once are two each; when one dies, its two go on at the other one, before there is a successor."""
    gate = asyncio.Event()

    class Gated(Coordinator):
        async def speak(self, asked: GenerationRequest) -> AsyncGenerator[Any]:
            self.asked.append(asked.known)
            for number, item in enumerate(self.items):
                if number:
                    await gate.wait()
                if isinstance(item, Exception):
                    raise item
                yield item

    dying, living = Gated([Piece("Per"), DIED]), Gated([Piece("Perth"), END])
    successor = Gated([Piece("Perth"), END])
    models = Models([dying, living], DIED, [successor, living])
    backend = RemoteBackend(models)

    async def text() -> str:
        return "".join([item.text async for item in backend.speak(ASKED) if isinstance(item, Piece)])

    asking = [asyncio.ensure_future(text()) for _ in range(4)]
    async with asyncio.timeout(30):
        while len(dying.asked) + len(living.asked) < 4:
            await asyncio.sleep(0)
    assert [dying.asked, living.asked] == [["", ""], ["", ""]]
    gate.set()
    assert list(await asyncio.gather(*asking)) == ["Perth"] * 4
    assert living.asked == ["", "", "Per", "Per"]
    async with asyncio.timeout(30):
        while not successor.asked:
            assert list(await asyncio.gather(text(), text())) == ["Perth"] * 2
            await asyncio.sleep(0.01)
    assert len(models.lost) == 3, "the first successor could not be had"


def test_a_stream_without_its_end_is_asked_again() -> None:
    text, items = spoken(Models(Coordinator([Piece("Per")]), Coordinator([Piece("Perth"), END])))
    assert (text, items[-1]) == ("Perth", END)


def test_a_request_that_kills_is_not_asked_for_ever() -> None:
    with pytest.raises(ModelError, match=f"{MOST_DEATHS} coordinators died while they answered this request"):
        spoken(Models(*(Coordinator([DIED]) for _ in range(MOST_DEATHS))))


def test_another_versions_answer_is_not_sewn_on() -> None:
    with pytest.raises(ModelError, match="its version does not answer any more; ask again"):
        spoken(Models(Coordinator([Piece("Perth"), DIED]), Coordinator([Piece("Canberra"), END])))
    with pytest.raises(ModelError, match="ask again"):
        spoken(Models(Coordinator([Piece("Perth is"), DIED]), Coordinator([Piece("Perth"), END])))


def test_a_clients_own_error_comes_at_once() -> None:
    with pytest.raises(PromptError, match="empty"):
        spoken(Models(Coordinator([PromptError("the prompt is empty")])))


def test_the_one_who_holds_the_coordinator_may_be_restarting_too() -> None:
    models = Models(Coordinator([DIED]), DIED, DIED, Coordinator([Piece("Perth"), END]))
    assert spoken(models)[0] == "Perth"


def test_waiting_for_a_successor_has_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PATIENCE_SECONDS", 0.05)
    with pytest.raises(ModelError, match="no coordinator within 0 s"):
        spoken(Models(*[DIED] * 100_000))


def test_a_whole_answer_is_asked_again_and_a_probe_is_not() -> None:
    answered = (Piece("Perth"), END)
    backend = RemoteBackend(Models(Coordinator([DIED]), Coordinator([answered])))
    assert asyncio.run(backend.answer(ASKED)) == answered
    backend = RemoteBackend(Models(Coordinator([DIED]), Coordinator([{"gemma": ""}])))
    with pytest.raises(ModelError, match="has died; another one is being started"):
        asyncio.run(backend.probe())
    assert asyncio.run(backend.probe()) == {"gemma": ""}
