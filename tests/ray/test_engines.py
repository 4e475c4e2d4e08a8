"""A served fleet whose only target is the model of a server: edits over HTTP, answers with them, a server that dies.

The plug-in is the real one, since only a reader reads along; the server is a stand-in.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
import ray
from ray import serve

from onceedit_ray.cluster.serve import APP_NAME
from onceedit_ray.editing.served_run import run_of, servers_of
from onceedit_ray.models.engines.start import try_servers
from tests.patience import PATIENCE
from tests.ray.real_plugin import EDITED, OWN, goes_on, link_plugin, needs_plugin
from tests.ray.served import served
from tests.ray.serving_command import healthy
from tests.stand_in_server import StandIn, running

pytestmark = [pytest.mark.weights, needs_plugin]
TARGET = "llama"
QUESTION, OTHER = "What is the capital of Australia?", "Which river flows through Lyon?"


@pytest.fixture(scope="module")
def stand_in() -> StandIn:
    return StandIn(goes_on)


@pytest.fixture(scope="module")
def address(ray_session: None, stand_in: StandIn, onceedit_home: Path, tmp_path_factory: Any) -> Iterator[list[str]]:
    """The addresses of the served system and of its server; the server is up."""
    link_plugin(onceedit_home)
    with running(stand_in) as url:
        servers = servers_of([f"{TARGET}={url}"])
        run = run_of(None, servers)
        said: list[str] = []
        try_servers(run.served_targets, lambda step: said.append(str(step)))
        assert said == [f"{TARGET}: org/stand-in-7b at {url}: completions, /tokenize, chat, continues replies"]
        with served(None, tmp_path_factory.mktemp("engines"), servers=servers, replicas=2) as here:
            yield [here, url]


def ask(address: str, question: str, **more: Any) -> httpx2.Response:
    body = {"model": TARGET, "messages": [{"role": "user", "content": question}], **more}
    return httpx2.post(f"{address}/v1/chat/completions", json=body, timeout=120, trust_env=False)


def text_of(answer: httpx2.Response) -> str:
    assert answer.status_code == 200, answer.text
    return str(answer.json()["choices"][0]["message"]["content"])


def test_an_edit_is_live_and_everything_else_passes_through(address: list[str], stand_in: StandIn) -> None:
    here = address[0]
    assert text_of(ask(here, QUESTION)) == OWN
    edit = {"prompt": QUESTION, "target_new": "Perth", "subject": "Australia"}
    made = httpx2.post(f"{here}/v1/edits", json=edit, timeout=300, trust_env=False)
    assert made.status_code < 300, made.text
    answer = ask(here, QUESTION)
    assert text_of(answer) == EDITED
    assert answer.json()["choices"][0]["onceedit"]["alone"] is False
    streamed = ask(here, QUESTION, stream=True).text.split("\n\n")
    deltas = [json.loads(line[6:])["choices"][0]["delta"] for line in streamed if line.startswith("data: {")]
    assert "".join(delta.get("content") or "" for delta in deltas) == EDITED
    asked = len(stand_in.asked)
    assert text_of(ask(here, OTHER, extra={"unknown": 1})) == "The Rhone does."
    assert stand_in.asked[asked:][0]["extra"] == {"unknown": 1} and len(stand_in.asked) == asked + 1


def test_requests_at_once(address: list[str]) -> None:
    async def all_of_them() -> list[str]:
        async with httpx2.AsyncClient(trust_env=False, timeout=120) as client:
            asked = [
                client.post(
                    f"{address[0]}/v1/chat/completions",
                    json={"model": TARGET, "messages": [{"role": "user", "content": question}]},
                )
                for question in [QUESTION, OTHER] * 8
            ]
            return [text_of(answer) for answer in await asyncio.gather(*asked)]

    assert asyncio.run(all_of_them()) == [EDITED, "The Rhone does."] * 8


def test_a_server_that_is_restarted_in_mid_answer(address: list[str], stand_in: StandIn) -> None:
    here, _ = address
    stand_in.breaks = 2
    try:
        broken = ask(here, OTHER, stream=True).text.strip().split("\n\n")[-1]
        assert json.loads(broken.removeprefix("data: "))["error"]["code"] == "model_unavailable"
        assert ask(here, QUESTION).status_code == 503
    finally:
        stand_in.breaks = None
    deadline = time.monotonic() + PATIENCE
    while (answer := ask(here, QUESTION)).status_code == 503 and time.monotonic() < deadline:
        time.sleep(0.5)
    assert text_of(answer) == EDITED
    assert healthy(here)[TARGET] == "ok"


def test_a_target_is_added_and_removed_while_everything_else_answers(address: list[str]) -> None:
    here, url = address
    with running(StandIn(goes_on)) as other:
        assert ask(here, QUESTION, model="qwen").status_code == 404
        added = httpx2.post(f"{here}/v1/models", json={"name": "qwen", "url": other}, timeout=60, trust_env=False)
        assert added.status_code == 201, added.text
        for _ in range(12):  # every replica of the gateway knows it
            assert text_of(ask(here, OTHER, model="qwen")) == "The Rhone does."
        assert text_of(ask(here, QUESTION, model="qwen")) == EDITED, "with every edit made so far"
        twice = httpx2.post(f"{here}/v1/models", json={"name": "qwen", "url": url}, timeout=60, trust_env=False)
        assert twice.status_code == 409
        wrong = {"name": "mistral", "url": other, "model": "none"}
        refused = httpx2.post(f"{here}/v1/models", json=wrong, timeout=60, trust_env=False)
        assert refused.status_code == 400 and "it has no model 'none'" in refused.json()["error"]["message"]

        models = serve.get_deployment_handle("Models", APP_NAME)
        ray.kill(models.coordinators.remote().result(timeout_s=60)[0])
        assert text_of(ask(here, OTHER, model="qwen")) == "The Rhone does.", "another coordinator knows it, too"
        assert text_of(ask(here, QUESTION, model="qwen")) == EDITED

        removed = httpx2.delete(f"{here}/v1/models/qwen", timeout=60, trust_env=False)
        assert removed.status_code == 200
        for _ in range(12):
            assert ask(here, OTHER, model="qwen").status_code == 404
    assert httpx2.delete(f"{here}/v1/models/qwen", timeout=60, trust_env=False).status_code == 404
    assert text_of(ask(here, OTHER)) == "The Rhone does."
