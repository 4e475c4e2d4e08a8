"""The Serve application on small models, used with the official client: the same answers as in one process."""

from __future__ import annotations

import asyncio
import contextlib
import re
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest
import ray
from ray import serve

from onceedit_ray.cluster.calls import awaited, received
from onceedit_ray.cluster.serve import APP_NAME
from onceedit_ray.config import RunConfig
from onceedit_ray.editing.run import edit_plugin
from onceedit_ray.fusion.decoder import FusedDecoder
from onceedit_ray.fusion.system import open_decoder
from onceedit_ray.knowledge.store import open_store
from onceedit_ray.knowledge.version import Version
from onceedit_ray.models.sampling import Sampling
from onceedit_ray.serving.limits import Limits
from tests.patience import PATIENCE
from tests.ray.served import served
from tests.ray.serving_command import healthy
from tests.ray.small_fleet import build_models, model, run_config

TARGETS = ["mistral", "qwen2"]
QUESTION, ANSWER = "What is the capital of France?", "Lyon"
KEY = "a-key-of-the-test"
LONG = {"model": "*", "n": 8, "max_tokens": 200, "temperature": 1.5, "seed": 3, "stream": True}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("serve")
    build_models(folder, TARGETS)
    return folder


@pytest.fixture(scope="module")
def config(folder: Path) -> RunConfig:
    return run_config(folder, "serve", {family: model(folder, family) for family in TARGETS})


@pytest.fixture(scope="module")
def version(onceedit_home: Path, config: RunConfig) -> Version:
    return edit_plugin(config, open_store())


@pytest.fixture(scope="module")
def local(config: RunConfig, version: Version) -> FusedDecoder:
    return open_decoder(config, version.path)


@pytest.fixture(scope="module")
def address(ray_session: None, config: RunConfig, version: Version, folder: Path) -> Iterator[str]:
    """The running application."""
    (folder / "keys").write_text(KEY)
    with served(config, folder, keys_file=folder / "keys", limits=Limits(in_flight=2, max_tokens=256)) as address:
        yield address


@contextlib.asynccontextmanager
async def client_of(address: str) -> AsyncIterator[openai.AsyncOpenAI]:
    # Proxies set in the environment must not be used on the loopback.
    async with httpx2.AsyncClient(trust_env=False, timeout=60) as http:
        yield openai.AsyncOpenAI(api_key=KEY, base_url=f"{address}/v1", http_client=http, max_retries=0)


def test_answers_are_those_of_one_process(address: str, local: FusedDecoder, version: Version) -> None:
    async def there() -> tuple[Any, ...]:
        async with client_of(address) as client:
            names = [found.id async for found in client.models.list()]
            whole = await client.completions.create(model="mistral", prompt=QUESTION, temperature=0)
            chats = await client.chat.completions.create(
                model="*", messages=[{"role": "user", "content": QUESTION}], temperature=0, max_tokens=8
            )
            stream = await client.completions.create(model="mistral", prompt=QUESTION, temperature=0, stream=True)
            return names, whole, chats, [chunk async for chunk in stream]

    async def here() -> list[str]:
        prompts = {target: await local.render(target, QUESTION, "chat") for target in TARGETS}
        answers = await local.generate_all(prompts, max_new_tokens=8)
        return [answer.text for answer in answers.values()]

    names, whole, chats, chunks = asyncio.run(there())
    assert names == TARGETS
    (choice,) = whole.choices
    assert choice.text.strip() == ANSWER and choice.finish_reason == "stop"
    assert choice.onceedit["version"] == version.id and choice.onceedit["alone"] is False
    assert "".join(chunk.choices[0].text for chunk in chunks) == choice.text
    assert [choice.message.content for choice in chats.choices] == asyncio.run(here())
    assert [choice.onceedit["target"] for choice in chats.choices] == TARGETS


def test_what_is_refused_has_a_status_also_in_a_stream(address: str) -> None:
    async def ask() -> None:
        async with client_of(address) as client:
            with pytest.raises(openai.NotFoundError):
                await client.completions.create(model="gpt-5", prompt="x", stream=True)
            with pytest.raises(openai.BadRequestError, match="the context of 256 tokens of mistral"):
                await client.completions.create(model="mistral", prompt="word " * 300, stream=True)
            with pytest.raises(openai.AuthenticationError):
                await client.with_options(api_key="another").completions.create(model="mistral", prompt="x")

    asyncio.run(ask())


def test_one_more_than_there_may_be_is_told_to_wait(address: str) -> None:
    async def ask() -> None:
        async with client_of(address) as client:
            streams = [await client.completions.create(prompt="Who", **LONG) for _ in range(2)]
            with pytest.raises(openai.RateLimitError) as caught:
                await client.completions.create(model="mistral", prompt=QUESTION)
            assert caught.value.response.headers["Retry-After"] == "1"
            for stream in streams:
                assert [chunk async for chunk in stream][-1].choices[0].finish_reason, "no stream was cut"

    asyncio.run(ask())


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_goes_away_frees_the_sessions(address: str, stream: bool) -> None:
    prompts = [f"{QUESTION} Number {number}?" for number in range(8)]
    long = LONG | {"model": "mistral", "n": 1, "stream": stream}

    async def ask() -> None:
        async with client_of(address) as client:
            asked = client.completions.create(prompt=prompts, **long)
            if stream:
                async for _ in await asked:
                    break
            else:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(asked, 0.3)

    before = on_models("tokens")
    asyncio.run(ask())
    deadline = time.monotonic() + PATIENCE
    while any(left := on_models("open_sessions")):
        assert time.monotonic() < deadline, f"sessions left: {left}"
        time.sleep(0.1)
    fed = on_models("tokens")[1] - before[1]
    assert fed < len(prompts) * long["max_tokens"] / 2, "the answers were not written to their end"


def found_coordinator() -> Any:
    return serve.get_deployment_handle("Models", APP_NAME).coordinators.remote().result()[0]


def on_models(attribute: str) -> list[int]:
    """A figure of the plug-in and of each target."""

    def actors(decoder: Any) -> list[Any]:
        return [decoder.plugin.model._actor, *(member.model._actor for member in decoder.members.values())]

    found = ray.get(found_coordinator().__ray_call__.remote(actors))
    return ray.get([actor.__ray_call__.remote(lambda hosted: getattr(hosted, attribute)) for actor in found])


def test_the_remote_decoder_streams_and_asks_every_target(address: str, local: FusedDecoder) -> None:
    """The coordinator's own methods, as a driver calls them: with sampling, piece by piece, to all at once."""
    drawn = Sampling(temperature=0.8, top_p=0.9, seed=4)

    begun, asked = ("mistral", "The river Danube flows", None, 12, drawn), (dict.fromkeys(TARGETS, QUESTION), None, 8)

    there = found_coordinator()

    async def ask_there() -> tuple[list[Any], dict[str, Any]]:
        pieces = [piece async for piece in received(there.stream, *begun)]
        return pieces, await awaited(there.generate_all, *asked)

    async def ask_here() -> tuple[list[Any], dict[str, Any]]:
        return [piece async for piece in local.stream(*begun)], await local.generate_all(*asked)

    pieces, answers = asyncio.run(ask_there())
    expected, same = asyncio.run(ask_here())
    *tokens, ending = pieces
    assert len(tokens) > 1 and [token for piece in tokens for token in piece] == list(ending.token_ids)
    assert (ending.token_ids, ending.weight) == (expected[-1].token_ids, pytest.approx(expected[-1].weight, abs=1e-5))
    assert {name: answer.text for name, answer in answers.items()} == {name: a.text for name, a in same.items()}


def test_health_probes_the_models(address: str) -> None:
    models = healthy(address)
    assert list(models) == ["plug-in", *TARGETS]
    assert set(models.values()) <= {"ok", "busy"}


def test_who_is_cancelled_with_all_his_calls_takes_nobody_along(address: str, local: FusedDecoder) -> None:
    """Serve cancels the calls of a lost client, their calls, and so on, but not a pass that other requests share."""
    coordinator = found_coordinator()
    prompts = [f"{QUESTION} Number {number}?" for number in range(4)]
    expected = asyncio.run(local.generate_all({"mistral": prompts[-1]}, None, 24))["mistral"].text
    for pause in (0.0, 0.005, 0.02, 0.05):
        asked = [coordinator.generate.remote("mistral", prompt, None, 24) for prompt in prompts]
        time.sleep(pause)
        for call in asked[:-1]:
            ray.cancel(call, recursive=True)
        assert ray.get(asked[-1], timeout=PATIENCE).text == expected
    deadline = time.monotonic() + PATIENCE
    while any(left := on_models("open_sessions")):
        assert time.monotonic() < deadline, f"sessions left: {left}"
        time.sleep(0.1)


def metrics() -> dict[str, float]:
    """The metrics of this application at the node's port: names with their labels, and values."""
    (node,) = (node for node in ray.nodes() if node["Alive"])
    shown = httpx2.get(f"http://127.0.0.1:{node['MetricsExportPort']}/metrics", trust_env=False).text
    ours = ("route", "status", "model", "direction", "decision", "outcome", "version")
    found: dict[str, float] = {}
    for name, labels, value in re.findall(r"^ray_(onceedit_\w+)\{(.*)\} (\S+)$", shown, re.MULTILINE):
        kept = (f"{key}={said}" for key, said in re.findall(r'(\w+)="([^"]*)"', labels) if key in ours)
        found[" ".join([name, *sorted(kept)])] = float(value)
    return found


def test_metrics_count_what_was_asked(address: str, version: Version) -> None:
    async def ask() -> tuple[Any, Any]:
        async with client_of(address) as client:
            fused = await client.completions.create(model="mistral", prompt=QUESTION, temperature=0)
            stream = await client.completions.create(model="qwen2", prompt="The river", max_tokens=6, stream=True)
            async for _ in stream:
                pass
            with pytest.raises(openai.NotFoundError):
                await client.completions.create(model="gpt-5", prompt="x")
            raw = await client.completions.with_raw_response.create(
                model="mistral", prompt=QUESTION, temperature=0, extra_headers={"x-request-id": "mine-1"}
            )
            return fused, raw.headers.get_list("x-request-id")

    fused, named = asyncio.run(ask())
    assert named == ["mine-1"]
    served = "onceedit_requests_total model=mistral route=/v1/completions status=200"
    wanted = {
        f"onceedit_version_info version={version.id}",
        "onceedit_requests_in_flight",
        served,
        "onceedit_requests_total model=qwen2 route=/v1/completions status=200",
        "onceedit_requests_total model= route=/v1/completions status=404",
        "onceedit_tokens_total direction=in model=mistral",
        "onceedit_tokens_total direction=out model=mistral",
        "onceedit_gate_decisions_total decision=fused model=mistral",
        "onceedit_gate_decisions_total decision=screened model=qwen2",
        "onceedit_gate_weight_count model=mistral",
        "onceedit_draft_tokens_total model=mistral outcome=drafted",
        "onceedit_draft_tokens_total model=mistral outcome=accepted",
        "onceedit_time_to_first_token_seconds_count model=qwen2",
        "onceedit_time_per_token_seconds_count model=qwen2",
    }
    found = metrics()
    deadline = time.monotonic() + PATIENCE
    while not wanted <= found.keys() or found[served] < 2 or found["onceedit_requests_in_flight"]:
        assert time.monotonic() < deadline, f"missing: {wanted - found.keys()} in {found}"
        time.sleep(0.5)
        found |= metrics()  # Ray tells a gauge once after each report of its process, every few seconds
    assert found[f"onceedit_version_info version={version.id}"] == 1
    assert found["onceedit_tokens_total direction=out model=mistral"] >= 2 * fused.usage.completion_tokens
    drafted, accepted = (
        found[f"onceedit_draft_tokens_total model=mistral outcome={kind}"] for kind in ("drafted", "accepted")
    )
    assert 0 < accepted <= drafted
    assert not any("gpt-5" in name for name in found), "nothing that a client invents becomes a label"
