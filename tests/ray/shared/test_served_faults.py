"""The Serve application while clients leave and processes are killed: nothing hangs, every error can be read."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import httpx2
import pytest
import ray
from ray import serve
from ray.exceptions import RayActorError

from onceedit_ray.cluster.serve import APP_NAME
from tests.patience import PATIENCE
from tests.ray.served import Shared

TARGETS = ["mistral", "qwen2"]
QUESTION = "What is the capital of France?"
STREAMS = 30


@pytest.fixture
def address(shared: Shared) -> str:
    return shared.address


def test_clients_that_leave_hang_no_other_stream(address: str) -> None:
    """40 % leave after a token or two; the others have their whole text, the same as without them."""

    async def one(http: httpx2.AsyncClient, number: int, leaves: bool) -> str:
        question = QUESTION if number % 3 else f"Who, in {number} words, is the author of War and Peace?"
        body = {"model": TARGETS[number % 2], "prompt": question, "max_tokens": 48, "stream": True}
        lines: list[str] = []
        async with http.stream("POST", "/v1/completions", json=body) as response:
            assert response.status_code == 200
            async for line in response.aiter_lines():
                lines += [line.removeprefix("data: ")] if line else []
                if leaves and len(lines) > 1 + number % 3:
                    return ""
        assert lines[-1] == "[DONE]"
        return "".join(json.loads(line)["choices"][0]["text"] for line in lines[:-1])

    async def load(leaving: bool) -> list[str]:
        async with httpx2.AsyncClient(base_url=address, trust_env=False, timeout=120) as http:
            asked = [one(http, number, leaving and number % 5 < 2) for number in range(STREAMS)]
            return await asyncio.wait_for(asyncio.gather(*asked), 240)

    alone = asyncio.run(load(leaving=False))
    for _ in range(2):
        found = asyncio.run(load(leaving=True))
        assert [text for number, text in enumerate(found) if number % 5 >= 2] == [
            text for number, text in enumerate(alone) if number % 5 >= 2
        ]


def process_of(actor: Any) -> int:
    return int(ray.get(actor.__ray_call__.remote(lambda _: os.getpid())))


def coordinator_process(other_than: int = 0) -> int:
    """The process of the coordinator that lives."""
    models = serve.get_deployment_handle("Models", APP_NAME)
    deadline = time.monotonic() + PATIENCE
    while True:
        with contextlib.suppress(RayActorError):
            if (process := process_of(models.coordinators.remote().result()[0])) != other_than:
                return process
        assert time.monotonic() < deadline, "it does not come back"
        time.sleep(0.1)


async def streamed(http: httpx2.AsyncClient, body: dict[str, Any], begun: asyncio.Event) -> str:
    """The text of a stream that must end as it should; `begun` is set at its second piece."""
    events: list[dict[str, Any]] = []
    async with http.stream("POST", "/v1/completions", json=body | {"stream": True}) as response:
        assert response.status_code == 200
        async for line in response.aiter_lines():
            if line == "data: [DONE]":
                return "".join(event["choices"][0]["text"] for event in events)
            events += [json.loads(line.removeprefix("data: "))] if line else []
            assert "error" not in events[-1], events[-1]
            if len(events) > 1:
                begun.set()
    raise AssertionError("the stream was cut")


def test_requests_under_way_outlive_the_coordinator(address: str) -> None:
    """It is killed twice while they run: greedy and sampled texts, streamed and whole, are those without this."""
    options: list[dict[str, Any]] = [{}, {"onceedit": {"unedited": True}}, {"temperature": 1.0, "seed": 7}]
    bodies = [
        {"model": target, "prompt": prompt, "max_tokens": 64, **option}
        for target in TARGETS
        for prompt in (QUESTION, "The river Nile")
        for option in options
    ]

    async def asked(kills: int) -> list[str]:
        begun = asyncio.Event()
        async with httpx2.AsyncClient(base_url=address, trust_env=False, timeout=200) as http:
            streams = [asyncio.ensure_future(streamed(http, body, begun)) for body in bodies]
            whole = [asyncio.ensure_future(http.post("/v1/completions", json=body)) for body in bodies]
            killed = 0
            for _ in range(kills):
                await begun.wait()
                killed = await asyncio.to_thread(coordinator_process, killed)
                os.kill(killed, signal.SIGKILL)
            texts = await asyncio.wait_for(asyncio.gather(*streams), 240)
            answers = await asyncio.wait_for(asyncio.gather(*whole), 240)
            assert [answer.status_code for answer in answers] == [200] * len(bodies)
            assert [answer.json()["choices"][0]["text"] for answer in answers] == texts
            return texts

    before = asyncio.run(asked(0))
    assert asyncio.run(asked(2)) == before


def test_a_coordinator_that_is_killed_comes_back_and_until_then_every_answer_can_be_read(address: str) -> None:
    body = {"model": "mistral", "prompt": QUESTION, "max_tokens": 8}
    with httpx2.Client(base_url=address, trust_env=False, timeout=60) as http:
        before = http.post("/v1/completions", json=body).json()["choices"][0]["text"]
        os.kill(coordinator_process(), signal.SIGKILL)
        deadline = time.monotonic() + PATIENCE
        while True:
            assert http.get("/health").json()["status"] in ("ok", "unhealthy"), "it never hangs"
            with contextlib.suppress(httpx2.TimeoutException):
                answer = http.post("/v1/completions", json=body, timeout=20)
                if answer.status_code == 200:
                    break
                assert set(answer.json()["error"]) == {"message", "type", "param", "code"}
                assert answer.status_code == 503
            assert time.monotonic() < deadline, "it does not come back"
            time.sleep(0.5)
        assert answer.json()["choices"][0]["text"] == before


def test_every_target_is_asked_and_the_one_that_died_is_named(address: str, shared: Shared) -> None:
    """Its weights are gone, so that it cannot come back by itself; with them it does."""
    models = serve.get_deployment_handle("Models", APP_NAME)
    (coordinator,) = models.coordinators.remote().result()
    target = ray.get(coordinator.__ray_call__.remote(lambda decoder: decoder.members["qwen2"].model._actor))
    folder = Path(shared.config.targets["qwen2"].model.removeprefix("local:"))
    body = {"model": "*", "prompt": QUESTION, "max_tokens": 8}
    with httpx2.Client(base_url=address, trust_env=False, timeout=120) as http:
        before = {each["onceedit"]["target"]: each["text"] for each in answered(http, body)["choices"]}
        assert set(before) == set(TARGETS)
        folder.rename(folder.with_name("away"))
        try:
            os.kill(process_of(target), signal.SIGKILL)
            found = answered(http, body)
            assert {each["onceedit"]["target"]: each["text"] for each in found["choices"]} == {
                "mistral": before["mistral"]
            }
            (failed,) = found["onceedit"]["failed"]
            assert (failed["target"], failed["error"]["code"]) == ("qwen2", "model_unavailable")
        finally:
            folder.with_name("away").rename(folder)
        os.kill(process_of(target), signal.SIGKILL)
        found = answered(http, body)
        assert {each["onceedit"]["target"]: each["text"] for each in found["choices"]} == before


def answered(http: httpx2.Client, body: dict[str, Any]) -> Any:
    response = http.post("/v1/completions", json=body)
    assert response.status_code == 200, response.text
    return response.json()
