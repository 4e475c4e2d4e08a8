"""Coordinators that die are replaced, and a change that is sent to all of them is known to each; without Ray."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest
import ray
from ray.exceptions import ActorDiedError

from onceedit_ray.cluster import coordinators as module
from onceedit_ray.cluster.coordinators import MOST_TRIES, Coordinators
from onceedit_ray.errors import ProcessLostError, PromptError


@dataclass(eq=False)
class Fake:
    """A coordinator, and what it was told. dies: whether its next call finds it dead."""

    at: int
    owner: str
    state: object
    told: list[Any] = field(default_factory=list)
    dies: bool = False

    async def change(self, value: Any) -> tuple[int, Any]:
        if self.dies:
            raise ActorDiedError
        if isinstance(value, Exception):
            raise value
        self.told.append(value)
        return self.at, value


class World:
    """The part of a fleet that coordinators need: the next one begins with `state`."""

    def __init__(self) -> None:
        self.state: object = "first"
        self.made: list[Fake] = []
        self.closed: list[str] = []
        self.killed: list[Fake] = []
        self.stillborn = 0

    def start(self, at: int, owner: str) -> Any:
        self.made.append(Fake(at, owner, self.state, dies=self.stillborn > 0))
        self.stillborn -= 1
        return self.made[-1]


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    world = World()

    async def awaited(method: Any, *args: object, **named: object) -> Any:
        return await method(*args, **named)

    monkeypatch.setattr(module, "awaited", awaited)
    monkeypatch.setattr(module, "_answers", lambda fake: not fake.dies)
    monkeypatch.setattr(ray, "kill", world.killed.append)
    return world


def two(world: World) -> Coordinators:
    coordinators = Coordinators(world.start, world.closed.append, lambda: world.state)
    coordinators.open(2)
    return coordinators


async def test_all_are_told_also_the_successor_of_one_that_dies(world: World) -> None:
    coordinators = two(world)
    first, second = world.made
    assert first.owner != second.owner
    first.dies = True
    assert await coordinators.tell("change", 7) == [(0, 7), (1, 7)]
    (_, _, successor) = world.made
    assert [second.told, successor.told] == [[7], [7]]
    assert coordinators.handles == [successor, second]
    assert world.closed == [first.owner] and world.killed == [first] and successor.owner != first.owner


async def test_one_answers_for_itself_and_a_call_is_not_made_for_ever(world: World) -> None:
    coordinators = two(world)
    assert await coordinators.ask("change", 3, at=1) == (1, 3)
    world.made[1].dies, world.stillborn = True, 99
    with pytest.raises(ProcessLostError, match="the coordinator died"):
        await coordinators.ask_again("change", 4, at=1)
    assert len(world.made) == 2 + MOST_TRIES


async def test_an_error_of_one_is_raised_when_all_have_answered(world: World) -> None:
    coordinators = two(world)
    with pytest.raises(PromptError, match="no"):
        await coordinators.tell("change", PromptError("no"))
    assert world.killed == []


def test_who_lives_or_was_replaced_is_left_alone(world: World) -> None:
    coordinators = two(world)
    first = world.made[0]
    coordinators.revive(first)
    assert len(world.made) == 2
    first.dies = True
    for _ in range(2):
        coordinators.revive(first)
    assert len(world.made) == 3 and world.killed == [first]


def test_a_successor_begins_with_the_state_of_now(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another version goes live while it starts: it is started again."""
    coordinators = two(world)
    first = world.made[0]
    first.dies = True
    start = world.start

    def slow(at: int, owner: str) -> Any:
        made = start(at, owner)
        world.state = "second"
        return made

    coordinators._start = slow
    coordinators.revive(first)
    assert [made.state for made in world.made] == ["first", "first", "first", "second"]
    assert coordinators.handles[0] is world.made[-1]
