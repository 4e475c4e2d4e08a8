"""Sessions of an actor that dies, tested with a fake actor in this process: every way of dying, without waiting.

`test_fleet.py` kills real ones.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import numpy as np
import pytest

from onceedit_ray.cluster import remote_model
from onceedit_ray.cluster.model_actor import HostedModel
from onceedit_ray.cluster.remote_model import RemoteModel
from onceedit_ray.errors import ContextLengthError, ModelError, SessionLostError
from onceedit_ray.models import cache_room
from onceedit_ray.models.protocol import LanguageModel, Step
from tests.families import build_family
from tests.ray.mortal import Mortal


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("mortal")
    build_family("mistral", folder / "mistral")
    return folder


@pytest.fixture
def actor(folder: Path) -> Mortal:
    return Mortal(folder)


@pytest.fixture
def alive(folder: Path) -> HostedModel:
    """A model that does not die, for the expected results."""
    return Mortal(folder).hosted


def same(steps: list[Step], expected: list[Step]) -> bool:
    return len(steps) == len(expected) and all(
        step.new_ids == wanted.new_ids
        and np.array_equal(step.top.ids_NK, wanted.top.ids_NK)
        and np.allclose(step.top.p_NK, wanted.top.p_NK, atol=1e-5)
        for step, wanted in zip(steps, expected, strict=True)
    )


async def conversation(model: LanguageModel, deaths: dict[int, Callable[[], None]]) -> list[Step]:
    """Every kind of call on one session; before call number n, `deaths[n]`."""
    steps: list[Step] = []
    session = 0
    calls: list[Callable[[], Awaitable[Step]]] = [
        lambda: model.open([5, 300, 301, 9], rows=2, decode=4),
        lambda: model.extend(session, 4, [20, 21], rows=2, decode=3),
        lambda: model.extend(session, 8, [22], rows=1),
        lambda: model.extend(session, 2, [23, 24, 25], rows=3, decode=2),
        lambda: model.extend(session, 6, [26], rows=0, decode=5),
    ]
    for number, call in enumerate(calls):
        deaths.get(number, lambda: None)()
        steps.append(await call())
        session = steps[0].session
    await model.close(session)
    return steps


@pytest.mark.parametrize("deaths", [(0,), (1,), (2,), (3,), (4,), (1, 2, 3, 4)])
@pytest.mark.parametrize("away", [0, 1])
def test_a_death_between_two_calls_is_not_seen(
    deaths: tuple[int, ...], away: int, actor: Mortal, alive: HostedModel
) -> None:
    """Whether the next call comes while the actor is away, or only finds that its session is not there."""
    remote = RemoteModel(actor, "mortal")
    steps = asyncio.run(conversation(remote, {number: lambda: actor.die(away) for number in deaths}))
    assert same(steps, asyncio.run(conversation(alive, {})))


def test_sessions_are_not_taken_for_each_other(actor: Mortal, alive: HostedModel) -> None:
    """A restarted actor must not accept session numbers from before the restart: they now mean other sessions."""

    async def talk(model: LanguageModel, die: Callable[[], None]) -> list[Step]:
        opened = [await model.open([5, 300 + index], decode=2) for index in range(6)]
        die()
        found = [await model.extend(step.session, 2, [30], decode=3) for step in opened[::-1]]
        await model.close(opened[5].session)
        die()
        found += [await model.extend(step.session, 3, [31], decode=3) for step in opened[:5]]
        await model.close(opened[0].session)
        return found + [await model.extend(step.session, 4, [32], decode=3) for step in opened[1:5]]

    steps = asyncio.run(talk(RemoteModel(actor, "mortal"), actor.die))
    assert same(steps, asyncio.run(talk(alive, lambda: None)))


def test_a_closed_session_is_freed_and_a_dead_one_is_no_trouble(actor: Mortal) -> None:
    async def talk() -> None:
        remote = RemoteModel(actor, "mortal")
        opened = [await remote.open([5, 6, 7]) for _ in range(2)]
        await remote.close(opened[0].session)
        await remote.close(opened[0].session)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert actor.hosted.open_sessions == 1
        actor.die(away=0)
        await remote.close(opened[1].session)

    asyncio.run(talk())


def test_the_models_own_errors_come_through_and_cost_no_session(actor: Mortal) -> None:
    async def talk() -> None:
        remote = RemoteModel(actor, "mortal")
        step = await remote.open([5, 6, 7])
        with pytest.raises(ContextLengthError, match="256 tokens of mortal"):
            await remote.extend(step.session, 3, [8] * 300)
        assert (await remote.extend(step.session, 3, [8], decode=2)).new_ids

    asyncio.run(talk())


@pytest.mark.parametrize("call", ["open", "extend"])
def test_an_actor_that_stays_away_is_given_up(call: str, actor: Mortal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote_model, "RESTART_SECONDS", 0.2)

    async def talk() -> None:
        remote = RemoteModel(actor, "mortal")
        step = await remote.open([5, 6, 7])
        actor.die(away=100)
        await (remote.open([5, 6]) if call == "open" else remote.extend(step.session, 3, [8]))

    with pytest.raises(ModelError, match="mortal did not come back"):
        asyncio.run(talk())


@pytest.mark.parametrize("call", ["open", "extend"])
def test_an_actor_that_is_gone_for_good_is_one_line(call: str, actor: Mortal) -> None:
    """Out of restarts: Ray says so at once, and in another class of error."""

    async def talk() -> None:
        remote = RemoteModel(actor, "mortal")
        step = await remote.open([5, 6, 7])
        actor.gone = True
        await (remote.open([5, 6]) if call == "open" else remote.extend(step.session, 3, [8]))

    with pytest.raises(ModelError, match="mortal") as caught:
        asyncio.run(talk())
    assert "\n" not in str(caught.value)


def test_an_actor_killed_for_memory_is_one_that_restarts(actor: Mortal, alive: HostedModel) -> None:
    """Ray reports it as an `OutOfMemoryError`, which is not a `RayActorError`."""

    def kill() -> None:
        actor.die(away=1)
        actor.killed = 1

    steps = asyncio.run(conversation(RemoteModel(actor, "mortal"), {2: kill}))
    assert same(steps, asyncio.run(conversation(alive, {})))


@pytest.mark.parametrize("call", ["extend", "fork"])
def test_a_session_closed_meanwhile_is_not_opened_again(call: str, actor: Mortal) -> None:
    async def talk() -> None:
        remote = RemoteModel(actor, "mortal")
        step = await remote.open([5, 6, 7])
        asked = remote.extend(step.session, 3, [8], decode=64) if call == "extend" else remote.fork(step.session)
        running = asyncio.ensure_future(asked)
        await asyncio.sleep(0)
        actor.die(away=1)
        await remote.close(step.session)
        with pytest.raises(SessionLostError):
            await running
        with pytest.raises(SessionLostError, match="no session"):
            await (remote.extend(step.session, 3, [8]) if call == "extend" else remote.fork(step.session))
        assert actor.hosted.open_sessions == 0

    asyncio.run(talk())


def test_callers_that_leave_hang_nobody_who_travels_with_them(actor: Mortal, alive: HostedModel) -> None:
    """40 % of 240 streams are cancelled at some token: the others get all their tokens, and no session remains."""
    rounds, streams = 5, 48

    async def talk(model: LanguageModel, number: int, leaving: bool) -> list[int]:
        prompt = [5 + number % 300, 300 + number % 100]
        step = await model.open(prompt, decode=2)
        said = list(step.new_ids)
        for turn in range(4):
            if leaving and turn == number % 4:
                going_on = asyncio.ensure_future(
                    model.extend(step.session, len(prompt) + len(said) - 1, said[-1:], decode=8)
                )
                await asyncio.sleep(0.001 * (number % 7))
                going_on.cancel()
                break
            more = await model.extend(step.session, len(prompt) + len(said) - 1, said[-1:], decode=8)
            said += more.new_ids
        await model.close(step.session)
        return said

    async def load(model: LanguageModel) -> list[list[int]]:
        found: list[list[int]] = []
        for at in range(rounds):
            numbers = range(at * streams, (at + 1) * streams)
            asked = [talk(model, number, leaving=number % 5 < 2) for number in numbers]
            found += await asyncio.wait_for(asyncio.gather(*asked), 60)
        while hosted.open_sessions:
            await asyncio.sleep(0.01)
        return found

    hosted = actor.hosted
    found = asyncio.run(load(RemoteModel(actor, "mortal")))
    hosted = alive
    assert found == asyncio.run(load(alive))


TOKEN_BYTES = 256
"""Keys and values of one token of the tiny Mistral."""


def test_who_waits_for_memory_keeps_nobody_waiting_who_came_with_it(
    folder: Path, alive: HostedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three come in one call and two fit at a time: the first two go on, and the third has its room when one ends."""
    monkeypatch.setattr(cache_room, "REST_SECONDS", 1000.0)
    actor = Mortal(folder, kv_cache_bytes=62 * TOKEN_BYTES)
    order: list[int] = []

    async def talk(model: LanguageModel, number: int) -> list[int]:
        step = await model.open([5, 300 + number] * 10, decode=2)
        said = list(step.new_ids)
        for _ in range(4):
            step = await model.extend(step.session, 19 + len(said), said[-1:], decode=2)
            said += step.new_ids
        await model.close(step.session)
        order.append(number)
        return said

    async def all_three(model: LanguageModel) -> list[list[int]]:
        return await asyncio.wait_for(asyncio.gather(*(talk(model, number) for number in range(3))), 60)

    found = asyncio.run(all_three(RemoteModel(actor, "mortal")))
    assert order[2] == 2
    assert found == asyncio.run(all_three(alive))


@pytest.mark.parametrize("patience", [0.1, 1.0])
def test_who_leaves_while_waiting_for_memory_leaves_nothing(folder: Path, patience: float) -> None:
    """Before and after the actor has answered that it takes longer."""
    actor = Mortal(folder, kv_cache_bytes=60 * TOKEN_BYTES)

    async def talk() -> None:
        remote = RemoteModel(actor, "mortal")
        first = await remote.open([5] * 30, decode=2)
        using = asyncio.ensure_future(keep_busy(remote, first))
        waiting = asyncio.ensure_future(remote.open([6] * 40))
        await asyncio.sleep(patience)
        assert actor.hosted.waiting_sessions == 1
        waiting.cancel()
        async with asyncio.timeout(30):
            while actor.hosted.open_sessions != 1:
                await asyncio.sleep(0.01)
        using.cancel()
        await remote.close(first.session)
        step = await remote.open([7] * 40)
        await remote.close(step.session)
        async with asyncio.timeout(30):
            while actor.hosted.open_sessions:
                await asyncio.sleep(0.01)

    async def keep_busy(remote: RemoteModel, step: Step) -> None:
        while True:
            await remote.extend(step.session, 29, [5], decode=2)

    asyncio.run(talk())


def test_the_context_of_the_run_file_holds_in_an_actor(folder: Path) -> None:
    actor = Mortal(folder, context=20)
    with pytest.raises(ContextLengthError, match="21 tokens do not fit the context of 20 tokens of mortal"):
        asyncio.run(RemoteModel(actor, "mortal").open([5] * 21))
