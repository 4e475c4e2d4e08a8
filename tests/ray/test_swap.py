"""Replacing the plug-in of a fleet: the old actor finishes its requests and is removed; the alignments are kept."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
from ray.exceptions import RayActorError

from onceedit_ray.cluster.calls import fetch
from onceedit_ray.cluster.fleet import PLUGIN, Fleet
from onceedit_ray.cluster.hot_swap import FleetLoader
from onceedit_ray.config import RunConfig
from onceedit_ray.editing.run import edit_plugin
from onceedit_ray.errors import ModelError
from onceedit_ray.knowledge.store import open_store
from onceedit_ray.knowledge.version import Version
from onceedit_ray.models.sampling import Sampling
from tests.ray.small_fleet import build_models, model, run_config

QUESTION = "What is the capital of France?"


@pytest.fixture(scope="module")
def versions(onceedit_home: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[RunConfig, list[Version]]:
    folder = tmp_path_factory.mktemp("swap")
    build_models(folder, ["mistral"])
    targets = {"mistral": model(folder, "mistral")}
    made = []
    for seed in (1, 2):
        editing = {"learning_rate": 3e-3, "batch_size": 8, "max_epochs": 30, "unrelated_per_epoch": 16, "seed": seed}
        config = run_config(folder, "swap", targets, editing=editing)
        made.append(edit_plugin(config, open_store()))
    return config, made


@pytest.fixture(scope="module")
def fleet(ray_session: None, versions: tuple[RunConfig, list[Version]]) -> Iterator[Fleet]:
    config, (first, _) = versions
    fleet = Fleet.start(config, first.path)
    try:
        yield fleet
    finally:
        fleet.stop()


def test_requests_end_where_they_began_and_the_old_actor_goes(
    fleet: Fleet, versions: tuple[RunConfig, list[Version]]
) -> None:
    _, (first, second) = versions
    answerer, loader = fleet.answerer, FleetLoader(fleet)
    old = fleet.actors[PLUGIN]

    async def check() -> None:
        whole = await answerer.generate("mistral", QUESTION)
        switch = await loader.load(second)
        assert (await answerer.generate("mistral", QUESTION)).version == first.id, "loaded, not yet in place"
        drawn = [Sampling(temperature=1.0, seed=seed) for seed in range(6)]
        begun = [asyncio.ensure_future(answerer.generate("mistral", QUESTION, None, 200, each)) for each in drawn]
        await asyncio.sleep(0.2)
        await switch()
        assert (await answerer.generate("mistral", QUESTION)).version == second.id
        answers = await asyncio.gather(*begun)
        assert {(answer.version, answer.weight) for answer in answers} == {(first.id, whole.weight)}
        while fleet.aside:
            await asyncio.sleep(0.05)
        with pytest.raises(RayActorError):
            await old.seat.remote()

        await (await loader.load(first))()
        back = await answerer.generate("mistral", QUESTION)
        assert (back.version, back.token_ids, back.weight) == (first.id, whole.token_ids, whole.weight)
        while fleet.aside:
            await asyncio.sleep(0.05)

    asyncio.run(check())
    assert len(fleet.groups) == 3, "one reservation for the plug-in, one for the target, one for the coordinator"


def test_a_plug_in_that_cannot_be_loaded_leaves_the_fleet_as_it_was(
    fleet: Fleet, versions: tuple[RunConfig, list[Version]], tmp_path: Path
) -> None:
    _, (first, _) = versions
    with pytest.raises(ModelError):
        fleet.load_plugin(tmp_path)
    assert fleet.aside == []
    with pytest.raises(ModelError, match="load one first"):
        fetch(fleet.coordinator.take_over.remote())
    assert asyncio.run(fleet.answerer.generate("mistral", QUESTION)).version == first.id
