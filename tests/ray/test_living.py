"""Edits over HTTP while requests run: no request fails, and each answer is that of the version that it names."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
import pytest

from onceedit_ray.config import RunConfig
from onceedit_ray.editing.run import edit_plugin
from onceedit_ray.fusion.system import open_decoder
from onceedit_ray.knowledge.edit import Edit
from onceedit_ray.knowledge.run_data import selected_edits
from onceedit_ray.knowledge.store import open_store
from onceedit_ray.knowledge.version import Version
from tests.patience import PATIENCE
from tests.ray.served import served
from tests.ray.small_fleet import build_models, model, run_config

TARGETS = ["mistral", "qwen2"]
KEY, EDIT_KEY = "a-key-that-may-ask", "a-key-that-may-edit"
BOUNDS = {"learnt": 0.5, "kept": 0.5, "locality": 0.0, "false_alarms": 1.0, "near_misses": 1.0, "general_limit": 4}
"""Random models of two layers: what the gate lets through is not what is tested here."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("living")
    build_models(folder, TARGETS)
    return folder


@pytest.fixture(scope="module")
def config(folder: Path) -> RunConfig:
    targets = {family: model(folder, family) for family in TARGETS}
    knowledge = {"path": folder / "edits.jsonl", "limit": 2}
    return run_config(folder, "living", targets, living=BOUNDS, knowledge=knowledge)


@pytest.fixture(scope="module")
def third(config: RunConfig) -> Edit:
    """The edit that is made while requests run."""
    return selected_edits(config.knowledge.model_copy(update={"limit": None}))[2]


@pytest.fixture(scope="module")
def first(config: RunConfig) -> Version:
    """The version that answers at the start; it knows two edits."""
    return edit_plugin(config, open_store())


@contextlib.contextmanager
def up(config: RunConfig, folder: Path) -> Iterator[str]:
    """The running application, with one key for asking and one for editing."""
    (folder / "keys").write_text(KEY)
    (folder / "edit_keys").write_text(EDIT_KEY)
    with served(config, folder, keys_file=folder / "keys", edit_keys_file=folder / "edit_keys") as address:
        yield address


@contextlib.asynccontextmanager
async def client_of(address: str, key: str) -> AsyncIterator[httpx2.AsyncClient]:
    # Proxies set in the environment must not be used on the loopback.
    headers = {"Authorization": f"Bearer {key}"}
    async with httpx2.AsyncClient(base_url=address, headers=headers, trust_env=False, timeout=120) as client:
        yield client


@dataclass
class Load:
    """Requests that run until told to stop. answers: target, prompt, version and text of each; whole and streamed."""

    address: str
    prompts: list[str]
    answers: list[tuple[str, str, str, str]] = field(default_factory=list)
    ending: bool = False

    async def run(self) -> None:
        async with client_of(self.address, KEY) as client:
            await asyncio.gather(*(self._ask(client, target, number) for number, target in enumerate(TARGETS)))

    async def _ask(self, client: httpx2.AsyncClient, target: str, number: int) -> None:
        while not self.ending:
            prompt = self.prompts[number % len(self.prompts)]
            number += 1
            body = {"model": target, "prompt": prompt, "temperature": 0, "stream": number % 3 == 0}
            answer = await client.post("/v1/completions", json=body)
            assert answer.status_code == 200, answer.text
            if body["stream"]:
                events = [line.removeprefix("data: ") for line in answer.text.split("\n\n") if line]
                assert events.pop() == "[DONE]", "no stream is cut"
                choices = [json.loads(event)["choices"][0] for event in events]
                text = "".join(choice["text"] for choice in choices)
                version = choices[-1]["onceedit"]["version"]
            else:
                (choice,) = answer.json()["choices"]
                text, version = choice["text"], choice["onceedit"]["version"]
            self.answers.append((target, prompt, version, text))

    async def seen(self, version: str) -> None:
        """Wait until both targets have answered with a version."""
        seen: set[str] = set()
        begun = len(self.answers)
        deadline = time.monotonic() + PATIENCE
        while seen != set(TARGETS):
            assert time.monotonic() < deadline, f"nobody answers with {version}"
            await asyncio.sleep(0.05)
            seen = {target for target, _, by, _ in self.answers[begun:] if by == version}


async def live(client: httpx2.AsyncClient, id: str) -> dict[str, Any]:
    """Wait until a batch is live or refused."""
    deadline = time.monotonic() + PATIENCE
    while True:
        found: dict[str, Any] = (await client.get(f"/v1/edits/{id}")).json()
        if found["status"] in ("live", "refused", "deleted"):
            return found
        assert time.monotonic() < deadline, found
        await asyncio.sleep(0.2)


async def statuses(client: httpx2.AsyncClient) -> list[str]:
    """Of the edits listed; deleted ones, which another test of this session may have left, stay listed."""
    listed = (await client.get("/v1/edits")).json()["data"]
    return [edit["status"] for edit in listed if edit["status"] != "deleted"]


def expected(config: RunConfig, version: Version, prompts: list[str]) -> dict[tuple[str, str, str], str]:
    """What a version answers, in one process."""
    decoder = open_decoder(config, version.path)

    async def ask() -> dict[tuple[str, str, str], str]:
        return {
            (target, prompt, version.id): (await decoder.generate(target, prompt, max_new_tokens=16)).text
            for target in TARGETS
            for prompt in prompts
        }

    return asyncio.run(ask())


def test_an_edit_goes_live_and_is_rolled_back_under_load(
    ray_session: None, onceedit_home: Path, config: RunConfig, folder: Path, first: Version, third: Edit
) -> None:
    prompts = [selected_edits(config.knowledge)[0].prompt, third.prompt, "The river Danube flows through"]

    async def edited(address: str) -> tuple[Load, str]:
        load = Load(address, prompts)
        running = asyncio.ensure_future(load.run())
        async with client_of(address, EDIT_KEY) as client:
            assert await statuses(client) == ["live", "live"], "those of the version at the start"
            await load.seen(first.id)
            posted = await client.post("/v1/edits", json=third.model_dump())
            assert (posted.status_code, posted.json()["status"]) == (202, "queued")
            batch = await live(client, posted.json()["id"])
            assert batch["status"] == "live", batch["reason"]
            await load.seen(batch["version"])
            newest = (await client.get("/v1/versions")).json()["data"][0]
            assert (newest["id"], newest["active"], newest["parent"]) == (batch["version"], True, first.id)
            back = await client.post(f"/v1/versions/{first.id}/activate")
            assert (back.status_code, back.json()["active"]) == (200, True)
            await load.seen(first.id)
            again = await client.post(f"/v1/versions/{batch['version']}/activate")
            assert again.status_code == 200, again.text
            await load.seen(batch["version"])
        load.ending = True
        await running
        return load, batch["version"]

    with up(config, folder) as address:
        load, second = asyncio.run(edited(address))
    store = open_store()
    answers = expected(config, first, prompts) | expected(config, store.get(second), prompts)
    assert {by for _, _, by, _ in load.answers} == {first.id, second}
    for target, prompt, by, text in load.answers:
        assert text == answers[target, prompt, by], "each answer is its version's"
    new = [text for _, prompt, by, text in load.answers if prompt == third.prompt and by == second]
    assert new and all(text.strip() == third.target_new for text in new), "and the new fact is told"

    # After a restart of everything the same version is active, and the book has not changed.
    async def after(address: str) -> None:
        async with client_of(address, EDIT_KEY) as client:
            active = [found["id"] for found in (await client.get("/v1/versions")).json()["data"] if found["active"]]
            assert active == [second] and await statuses(client) == ["live", "live", "live"]
            (newest, *_) = (await client.get("/v1/edits")).json()["data"]
            removed = await client.delete(f"/v1/edits/{newest['id']}")
            assert removed.status_code == 202
            assert (await live(client, newest["id"]))["status"] == "deleted"
            found = [found["id"] for found in (await client.get("/v1/versions")).json()["data"] if found["active"]]
            assert found == [first.id], "made from the base without it: the version that never knew it, to the bit"
        async with client_of(address, KEY) as client:
            body = {"model": TARGETS[0], "prompt": third.prompt, "temperature": 0}
            (choice,) = (await client.post("/v1/completions", json=body)).json()["choices"]
            assert choice["text"] == answers[TARGETS[0], third.prompt, first.id]
            assert (await client.get("/v1/edits")).status_code == 403

    with up(config, folder) as address:
        asyncio.run(after(address))
    assert open_store().active_id() == first.id
