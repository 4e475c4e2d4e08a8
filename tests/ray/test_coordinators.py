"""Two coordinators share the requests of one fleet: one is killed in mid-answer, and an edit is live on both."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import ray
from ray.actor import ActorHandle
from ray.exceptions import RayActorError

from onceedit_ray.cluster.calls import fetch
from onceedit_ray.cluster.fleet import Fleet
from onceedit_ray.cluster.hot_swap import FleetLoader
from onceedit_ray.cluster.remote_backend import RemoteBackend
from onceedit_ray.cluster.serve import SpeakingCoordinator
from onceedit_ray.config import RunConfig
from onceedit_ray.editing.run import edit_plugin
from onceedit_ray.knowledge.store import open_store
from onceedit_ray.knowledge.version import Version
from onceedit_ray.models.sampling import GREEDY, Sampling
from onceedit_ray.serving.generation_request import GenerationEnd, GenerationRequest
from tests.patience import PATIENCE
from tests.ray.small_fleet import build_models, model, run_config

QUESTION = "What is the capital of France?"
ASKED = [
    GenerationRequest("mistral", 64, sampling, prompt, unedited=unedited)
    for prompt in (QUESTION, "The river Nile")
    for sampling, unedited in ((GREEDY, False), (GREEDY, True), (Sampling(temperature=1.0, seed=7), False))
]


@pytest.fixture(scope="module")
def versions(onceedit_home: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[RunConfig, list[Version]]:
    folder = tmp_path_factory.mktemp("two")
    build_models(folder, ["mistral"])
    made = []
    for seed in (1, 2):
        editing = {"learning_rate": 3e-3, "batch_size": 8, "max_epochs": 30, "unrelated_per_epoch": 16, "seed": seed}
        config = run_config(folder, "two", {"mistral": model(folder, "mistral")}, editing=editing)
        made.append(edit_plugin(config, open_store()))
    return config, made


@pytest.fixture(scope="module")
def fleet(ray_session: None, versions: tuple[RunConfig, list[Version]]) -> Iterator[Fleet]:
    config, (first, _) = versions
    fleet = Fleet.start(config, first.path, coordinator=SpeakingCoordinator, coordinators=2)
    yield fleet
    fleet.stop()


class ModelsHere:
    """The methods of the `Models` deployment that a gateway calls, in this process."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        self.coordinators = self

    async def remote(self, lost: ActorHandle | None) -> Sequence[ActorHandle]:
        if lost is not None:
            await asyncio.to_thread(self._fleet.coordinators.revive, lost)
        return self._fleet.coordinators.handles


def processes(fleet: Fleet) -> list[int]:
    return [int(ray.get(each.__ray_call__.remote(lambda _: os.getpid()))) for each in fleet.coordinators.handles]


def revived(fleet: Fleet, before: list[int]) -> list[int]:
    """The processes of the coordinators, once none is the first of those before."""
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            now = processes(fleet)
            if before[0] not in now:
                return now
        except RayActorError:
            pass
        assert time.monotonic() < deadline, "it has no successor"
        time.sleep(0.2)


def test_one_is_killed_in_mid_answer_and_every_text_is_the_same(fleet: Fleet) -> None:
    async def text(backend: RemoteBackend, asked: GenerationRequest, begun: asyncio.Event) -> str:
        pieces: list[str] = []
        async for piece in backend.speak(asked):
            if isinstance(piece, GenerationEnd):
                return "".join(pieces)
            pieces.append(piece.text)
            if len(pieces) > 2:
                begun.set()
        raise AssertionError("it has no end")

    async def texts(kill: int = 0) -> list[str]:
        backend, begun = RemoteBackend(ModelsHere(fleet)), asyncio.Event()
        asking = [asyncio.ensure_future(text(backend, each, begun)) for each in ASKED]
        await begun.wait()
        if kill:
            assert not all(each.done() for each in asking)
            os.kill(kill, signal.SIGKILL)
        found = list(await asyncio.wait_for(asyncio.gather(*asking), 200))
        assert await backend.targets() == ["mistral"]
        return found

    running = processes(fleet)
    assert len(set(running)) == 2
    before = asyncio.run(texts())
    sessions = fetch([each.__ray_call__.remote(opened) for each in fleet.coordinators.handles])
    assert min(sessions) > 1, "both have answered"
    assert asyncio.run(texts(kill=running[0])) == before
    fleet.coordinators.revive(fleet.coordinator)  # unless a gateway has asked for it already
    now = revived(fleet, running)
    assert now[1] == running[1] and now[0] != now[1]


def opened(decoder: Any) -> int:
    """The number of the next session that a coordinator opens on the target."""
    return next(decoder.members["mistral"].model._numbers)


def test_a_new_version_answers_on_both_also_if_one_dies_between_loading_and_switching(
    fleet: Fleet, versions: tuple[RunConfig, list[Version]]
) -> None:
    _, made = versions
    loader = FleetLoader(fleet)

    async def swap(version: Version, kill: bool) -> None:
        running = processes(fleet)
        switch = await loader.load(version)
        if kill:
            os.kill(running[0], signal.SIGKILL)
        await asyncio.wait_for(switch(), 200)
        answers = [each.answer.remote(ASKED[0]) for each in fleet.coordinators.handles]
        assert [end.version for _, end in await asyncio.gather(*answers)] == [version.id] * 2
        if kill:
            assert running[0] not in processes(fleet)
        async with asyncio.timeout(60):
            while fleet.aside:
                await asyncio.sleep(0.05)

    asyncio.run(swap(made[1], kill=False))
    asyncio.run(swap(made[0], kill=True))


def test_no_session_of_a_dead_coordinator_is_left(fleet: Fleet) -> None:
    deadline = time.monotonic() + PATIENCE
    while left := [
        load.sessions for load in fetch([each.load.remote() for each in fleet.actors.values()]) if load.sessions
    ]:
        assert time.monotonic() < deadline, left
        time.sleep(0.2)
