"""Facts over HTTP, through a real fleet: live when the call returns, for every target, whatever else is asked."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import httpx2
import pytest

from onceedit_ray.config import RunConfig
from onceedit_ray.editing.run import edit_plugin
from onceedit_ray.fusion.system import open_decoder
from onceedit_ray.knowledge.store import open_store
from onceedit_ray.models.sources import resolve
from onceedit_ray.reader.training_run import ReaderSettings, train_reader
from tests.ray.served import served
from tests.ray.small_fleet import PLUGIN, build_models, model, run_config
from tests.reader_source import material

TARGETS = ["mistral", "qwen2"]
BOUNDS = {"learnt": 0.0, "kept": 0.0, "false_alarms": 1.0, "near_misses": 1.0}
"""A reader of one step over random weights: what it reads is not what is tested here."""
NEW = {"prompt": "Who painted the ceiling of the old town hall?", "target_new": "Marie Curie"}


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> RunConfig:
    folder = tmp_path_factory.mktemp("facts")
    build_models(folder, TARGETS)
    base = resolve(f"local:{folder / PLUGIN}")
    settings = ReaderSettings(steps=1, batch_size=2, rank=2, frozen_layers=1)
    train_reader(base, material(), settings, folder / "reader", threads=1)  # another process tests beside this one
    return run_config(
        folder, "facts", {family: model(folder, family) for family in TARGETS}, living=BOUNDS,
        editing={"editor": f"reader:{folder / 'reader'}"}, fusion={"threshold": 0.0},
    )  # fmt: skip


async def told(client: httpx2.AsyncClient, prompt: str = NEW["prompt"]) -> dict[str, dict[str, Any]]:
    """What each target says of its answer."""
    body = {"model": "*", "prompt": prompt, "max_tokens": 8, "temperature": 0}
    response = await client.post("/v1/completions", json=body)
    assert response.status_code == 200, response.text
    return {
        choice["onceedit"]["target"]: choice["onceedit"] | {"text": choice["text"]}
        for choice in response.json()["choices"]
    }


def test_edits_are_live_gone_and_back_again(
    ray_session: None, onceedit_home: Path, config: RunConfig, tmp_path: Path
) -> None:
    first = edit_plugin(config, open_store())

    async def edited(address: str) -> str:
        async with httpx2.AsyncClient(base_url=address, trust_env=False, timeout=120) as client:
            before = await told(client)
            assert {each["version"] for each in before.values()} == {first.id}
            posted = await client.post("/v1/edits", json=NEW)
            assert posted.status_code == 201, posted.text
            batch = posted.json()
            (edit,) = batch["data"]
            assert (batch["status"], edit["status"]) == ("live", "live")
            line, _, number = batch["version"].rpartition(".r")
            assert line == first.id, "a revision of this run's line; other runs share the store"
            after = await told(client)
            assert set(after) == set(TARGETS)
            for each in after.values():
                assert (each["version"], each["edits"], each["alone"]) == (batch["version"], [edit["id"]], False)
            versions = (await client.get("/v1/versions", params={"limit": 1})).json()
            assert [(each["id"], each["active"], each["edits"]) for each in versions["data"]] == [
                (batch["version"], True, 4)
            ]
            assert versions["has_more"] is True

            removed = await client.delete(f"/v1/edits/{edit['id']}")
            assert (removed.status_code, removed.json()["status"]) == (200, "deleted")
            gone = await told(client)
            assert {name: each["text"] for name, each in gone.items()} == {n: e["text"] for n, e in before.items()}
            assert {each["version"] for each in gone.values()} == {f"{first.id}.r{int(number) + 1}"}

            back = await client.post(f"/v1/versions/{batch['version']}/activate")
            assert (back.status_code, back.json()["active"]) == (200, True)
            assert await told(client) == after
            refused = await client.post("/v1/edits", json={**NEW, "target_new": " "})
            assert refused.status_code == 400
            return str(batch["version"])

    async def again(address: str, version: str) -> None:
        async with httpx2.AsyncClient(base_url=address, trust_env=False, timeout=120) as client:
            assert {each["version"] for each in (await told(client)).values()} == {version}
            live = (await client.get("/v1/edits", params={"status": "live"})).json()["data"]
            assert len(live) == 4

    with served(config, tmp_path) as address:
        version = asyncio.run(edited(address))
    with served(config, tmp_path) as address:
        asyncio.run(again(address, version))

    active = open_store().active()
    assert active is not None and active.id == version and len(active.edits()) == 4
    decoder = open_decoder(config, active, targets=TARGETS[:1])
    answer = asyncio.run(decoder.generate(TARGETS[0], NEW["prompt"], max_new_tokens=8))
    assert (answer.version, len(answer.edits)) == (version, 1), "one process reads the same facts"
