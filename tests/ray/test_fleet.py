"""A system of actors gives the same tokens as one process, also when models are added, die or fail."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray
from ray.util import placement_group_table, remove_placement_group
from ray.util.placement_group import PlacementGroup

from onceedit_ray.cluster.fleet import PLUGIN, Fleet
from onceedit_ray.cluster.placement import WAIT_VARIABLE, reserve
from onceedit_ray.cluster.remote_model import RemoteModel
from onceedit_ray.config import ModelConfig, RunConfig
from onceedit_ray.editing.run import edit_plugin
from onceedit_ray.errors import ConfigError, ContextLengthError, ModelError, UnknownTargetError
from onceedit_ray.fusion.decoder import UNEDITED, FusedDecoder
from onceedit_ray.fusion.outputs import Generation, Score
from onceedit_ray.fusion.strategies import STRATEGIES
from onceedit_ray.fusion.system import open_decoder
from onceedit_ray.knowledge.store import open_store
from onceedit_ray.knowledge.version import Version
from onceedit_ray.models.assembly import open_codec, open_model
from onceedit_ray.models.protocol import Step
from tests.patience import PATIENCE
from tests.ray.small_fleet import build_models, model, run_config

FAMILIES = ["mistral", "gemma3"]
LATE = "qwen2"
EDITED = {
    "What is the capital of France?": "Lyon",
    "The mother tongue of Danielle Darrieux is": "Italian",
    "Who is the author of War and Peace?": "Marie Curie",
}
PROMPTS = ["What is the capital of France?", "Q: Who is the author of War and Peace?\nA:", "The river Danube flows "]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("fleet")
    build_models(folder, [*FAMILIES, LATE])
    return folder


@pytest.fixture(scope="module")
def config(folder: Path) -> RunConfig:
    targets = {family: model(folder, family) for family in FAMILIES}
    return run_config(folder, "fleet", targets, fusion={"max_new_tokens": 6})


@pytest.fixture(scope="module")
def version(onceedit_home: Path, config: RunConfig) -> Version:
    version = edit_plugin(config, open_store())
    assert version.manifest.gate["complete"]
    return version


@pytest.fixture(scope="module")
def local(config: RunConfig, version: Version, folder: Path) -> FusedDecoder:
    """The same system in this process, with the target that is added to the fleet later."""
    targets = config.targets | {LATE: model(folder, LATE)}
    return open_decoder(config.model_copy(update={"targets": targets}), version.path)


@pytest.fixture(scope="module")
def fleet(ray_session: None, config: RunConfig, version: Version) -> Iterator[Fleet]:
    before = groups()
    fleet = Fleet.start(config, version.path)
    processes = [fleet.seat(name).process for name in fleet.actors]
    yield fleet
    fleet.stop()
    assert groups() == before, "a stopped fleet gives its reservations back"
    for _ in range(100):
        if not any(os.path.exists(f"/proc/{process}") for process in processes):
            return
        time.sleep(0.1)
    pytest.fail("a stopped fleet's actors are still running")


@pytest.fixture(scope="module")
def joined(fleet: Fleet, folder: Path) -> Fleet:
    """The fleet after a target was added at run time."""
    fleet.add_target(LATE, model(folder, LATE))
    return fleet


def kill(fleet: Fleet, name: str) -> None:
    os.kill(fleet.seat(name).process, signal.SIGKILL)


def open_sessions(fleet: Fleet, name: str) -> int:
    return ray.get(fleet.actors[name].__ray_call__.remote(lambda hosted: hosted.open_sessions))


def groups() -> list[str]:
    """The names of the current reservations."""
    return sorted(group["name"] for group in placement_group_table().values() if group["state"] != "REMOVED")


# --- the same tokens -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("target", FAMILIES)
def test_actors_and_one_process_generate_the_same(target: str, fleet: Fleet, local: FusedDecoder) -> None:
    """Tokens and weights of every strategy on every prompt: all at once on the actors, one after another here."""
    asked = [(prompt, strategy) for strategy in (UNEDITED, *STRATEGIES.names()) for prompt in PROMPTS]

    async def there() -> list[Generation]:
        return await asyncio.gather(*(fleet.answerer.generate(target, *question) for question in asked))

    async def here() -> list[Generation]:
        return [await local.generate(target, *question) for question in asked]

    answers = asyncio.run(there())
    for answer, expected in zip(answers, asyncio.run(here()), strict=True):
        assert answer.weight == pytest.approx(expected.weight, abs=1e-5)
        shared = {"weight": expected.weight, "plugin_passes": expected.plugin_passes}  # the actors share drafts
        assert replace(answer, **shared) == expected
    drafted = answers[-len(PROMPTS) * len(STRATEGIES.names()) :]
    assert {answer.alone for answer in drafted} == {True, False}, "the gate is open for some and closed for others"
    assert any(answer.token_ids != own.token_ids for answer, own in zip(drafted, answers, strict=False))


def test_actors_and_one_process_score_and_gate_the_same(fleet: Fleet, local: FusedDecoder) -> None:
    async def everything(answerer: Any) -> list[object]:
        found: list[object] = [await answerer.gate(prompt) for prompt in PROMPTS]
        for target in FAMILIES:
            for prompt in PROMPTS:
                gold = await answerer.gold(target, prompt, "Marie Curie")
                scores = [
                    answerer.score(target, prompt, gold, strategy) for strategy in (UNEDITED, *STRATEGIES.names())
                ]
                found += [gold, await answerer.text(target, gold), *await asyncio.gather(*scores)]
            found += [await answerer.render(target, PROMPTS[0], shape) for shape in ("raw", "qa", "template", "chat")]
            found += [await answerer.restriction(target, strategy) for strategy in STRATEGIES.names()]
        return found

    for found, expected in zip(asyncio.run(everything(fleet.answerer)), asyncio.run(everything(local)), strict=True):
        if isinstance(expected, Score):
            assert isinstance(found, Score)
            assert (found.predicted, found.alone) == (expected.predicted, expected.alone)
        else:
            assert found == (pytest.approx(expected, abs=1e-5) if isinstance(expected, float) else expected)


def test_an_edit_made_once_is_answered_by_every_target(fleet: Fleet) -> None:
    for target in FAMILIES:
        answers = [asyncio.run(fleet.answerer.generate(target, prompt)) for prompt in EDITED]
        assert [answer.text.strip() for answer in answers] == list(EDITED.values()), target


def test_a_target_added_at_run_time_answers_with_the_edits_made_so_far(
    fleet: Fleet, version: Version, request: pytest.FixtureRequest, local: FusedDecoder
) -> None:
    """No edit is run and no actor is restarted: same versions, same processes, and the other targets still answer."""
    names = (PLUGIN, *FAMILIES)
    before = {name: fleet.seat(name) for name in names}
    answer_before = asyncio.run(fleet.answerer.generate("mistral", PROMPTS[0]))
    with pytest.raises(ConfigError, match=f"unknown target '{LATE}': known are gemma3, mistral"):
        asyncio.run(fleet.answerer.generate(LATE, PROMPTS[0]))

    joined: Fleet = request.getfixturevalue("joined")

    assert {name: joined.seat(name) for name in names} == before
    made = [(found.id, found.manifest.created) for found in open_store().versions() if found.id.startswith("fleet-")]
    assert made == [(version.id, version.manifest.created)]
    for prompt, answer in EDITED.items():
        late = asyncio.run(joined.answerer.generate(LATE, prompt))
        assert late.text.strip() == answer
        assert late == asyncio.run(local.generate(LATE, prompt))
    assert asyncio.run(joined.answerer.generate("mistral", PROMPTS[0])) == answer_before


def test_alignments_are_made_ready_for_every_target(joined: Fleet) -> None:
    lines: list[str] = []
    joined.prepare(["draft", "onceedit"], lines.append)
    assert lines == [f"aligning the plug-in with {target}" for target in (*FAMILIES, LATE)]
    with pytest.raises(ConfigError, match="did you mean 'draft'"):
        joined.prepare(["drafd"])


# --- what dies -------------------------------------------------------------------------------------------------------

PREFILL = [5, 300, 301, 302, 9, 411, 10]
SESSIONS = range(8)


def same(step: Step, expected: Step) -> bool:
    return (
        step.new_ids == expected.new_ids
        and np.array_equal(step.top.ids_NK, expected.top.ids_NK)
        and np.allclose(step.top.p_NK, expected.top.p_NK, atol=1e-5)
    )


def test_sessions_outlive_their_actor(fleet: Fleet, config: RunConfig, folder: Path) -> None:
    """The actor is killed between two calls; afterwards each session has its own decoded, cut and fed tokens again.

    A restarted actor counts its sessions from one. They are taken up from the last to the first, so that numbers from
    before the restart meet the same numbers from after it.
    """
    codec = open_codec(folder / "mistral")
    here = open_model(folder / "mistral", config.targets["mistral"], codec, config.fusion.top_k, "here")

    async def steps(model: Any, die: bool) -> list[Step]:
        opened = [await model.open([*PREFILL, 20 + index], rows=2, decode=4) for index in SESSIONS]
        found = [await model.extend(step.session, keep=5, ids=[30, 31], rows=2, decode=3) for step in opened]
        if die:
            await asyncio.to_thread(kill, fleet, "mistral")
        for keep in (9, 3):
            found += [
                await model.extend(step.session, keep=keep, ids=[40, 41], rows=2, decode=3) for step in opened[::-1]
            ]
        for step in opened:
            await model.close(step.session)
        return opened + found

    there = asyncio.run(steps(RemoteModel(fleet.actors["mistral"], "mistral"), die=True))
    assert all(same(*pair) for pair in zip(there, asyncio.run(steps(here, die=False)), strict=True))


def test_requests_under_way_outlive_their_models(fleet: Fleet, local: FusedDecoder) -> None:
    """Target and plug-in are killed while a dozen requests run: each caller gets the same tokens as without this."""
    asked = [
        (f"{prompt} {number}", strategy)
        for number in range(4)
        for prompt, strategy in zip(EDITED, (None, "onceedit", UNEDITED), strict=True)
    ]

    async def there() -> list[Generation]:
        answerer = fleet.answerer
        tasks = [asyncio.ensure_future(answerer.generate("gemma3", *question, 40)) for question in asked]
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        assert sum(task.done() for task in tasks) < len(tasks)
        os.kill(processes["gemma3"], signal.SIGKILL)
        ray.kill(fleet.actors[PLUGIN], no_restart=False)
        return await asyncio.gather(*tasks)

    async def here() -> list[tuple[int, ...]]:
        return [(await local.generate("gemma3", *question, 40)).token_ids for question in asked]

    processes = {name: fleet.seat(name).process for name in ("gemma3", PLUGIN)}
    answers = asyncio.run(there())
    assert [answer.token_ids for answer in answers] == asyncio.run(here())
    assert all(fleet.seat(name).process != process for name, process in processes.items()), "both were restarted"


# --- what goes wrong -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("target", "prompt", "strategy", "error", "said"),
    [
        ("gemma4", "Q", None, UnknownTargetError, "unknown target 'gemma4': known are gemma3, mistral"),
        ("gemma3", "Q", "drafd", ConfigError, "did you mean 'draft'"),
        ("gemma3", "word " * 300, UNEDITED, ContextLengthError, "the context of 256 tokens of gemma3"),
        ("gemma3", "word " * 300, "draft", ContextLengthError, "the context of 256 tokens of "),
    ],
)
def test_an_error_comes_back_as_itself(
    target: str, prompt: str, strategy: str | None, error: type[Exception], said: str, fleet: Fleet
) -> None:
    with pytest.raises(error, match=said) as caught:
        asyncio.run(fleet.answerer.generate(target, prompt, strategy))
    assert type(caught.value) is error
    assert "\n" not in str(caught.value)


def test_no_request_leaves_a_session_behind(fleet: Fleet) -> None:
    """Neither a finished request, nor one that fails in the plug-in while the target is still reading."""

    async def ask() -> None:
        await fleet.answerer.generate("gemma3", PROMPTS[0])
        # Blank lines are a token each for Gemma, six bytes each for the plug-in.
        blank_lines = next(iter(EDITED)) + "\n\n" * 125 + "why"
        with pytest.raises(ContextLengthError, match="plug-in"):
            await fleet.answerer.generate("gemma3", blank_lines)
        with pytest.raises(ContextLengthError, match="plug-in"):
            await fleet.answerer.score("gemma3", blank_lines, [5, 6])

    asyncio.run(ask())
    deadline = time.monotonic() + PATIENCE
    while (left := [open_sessions(fleet, name) for name in ("gemma3", PLUGIN)]) != [0, 0]:
        assert time.monotonic() < deadline, f"sessions left on target and plug-in: {left}"
        time.sleep(0.1)


def test_without_room_nothing_is_reserved(ray_session: None) -> None:
    before = groups()
    with pytest.raises(ConfigError) as caught:
        reserve("huge", ModelConfig(model="m", num_gpus=2), wait=0.5)
    line = str(caught.value)
    assert line.startswith("no node has room for 'huge' (0.5 CPU and 2 GPU) within 0.5 s; ") and "\n" not in line
    assert "all together need 0.5 CPU and 2 GPU; the nodes have " in line and ": 4 CPU, of which free " in line
    assert groups() == before


def test_two_systems_may_call_a_model_the_same(ray_session: None) -> None:
    """Two versions of a plug-in side by side, or a new fleet while the old one is being stopped."""
    before = groups()
    both: list[PlacementGroup] = []
    try:
        for _ in range(2):
            both.append(reserve("same", ModelConfig(model="m", num_cpus=0.1), wait=30))
        assert len(groups()) == len(before) + 2
    finally:
        for group in both:
            remove_placement_group(group)
    assert groups() == before


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(WAIT_VARIABLE, "0.5")


def test_a_target_without_room_is_left_out_and_the_others_go_on(impatient: None, fleet: Fleet, folder: Path) -> None:
    before = groups(), set(fleet.actors)
    with pytest.raises(ConfigError, match=r"no node has room for .*'huge'"):
        fleet.add_target("huge", model(folder, LATE, gpus=1))
    assert (groups(), set(fleet.actors)) == before
    assert asyncio.run(fleet.answerer.generate("mistral", PROMPTS[0])).text


def test_a_name_is_given_once(fleet: Fleet, folder: Path) -> None:
    before = fleet.seat("mistral")
    for taken in ("mistral", PLUGIN):
        with pytest.raises(ConfigError, match=f"'{taken}'"):
            fleet.add_target(taken, model(folder, LATE))
    assert fleet.seat("mistral") == before


def test_a_target_that_does_not_load_is_left_out(fleet: Fleet, folder: Path) -> None:
    """The folder looks complete from outside; only the actor finds that it holds no valid model."""
    broken = folder / "broken"
    build_models(broken, ["gpt2"])
    described = (broken / "gpt2" / "config.json").read_text()
    (broken / "gpt2" / "config.json").write_text(described.replace('"gpt2"', '"gpt-none"'))
    before = groups(), set(fleet.actors)
    with pytest.raises(ModelError, match="cannot be loaded") as caught:
        fleet.add_target("broken", model(broken, "gpt2"))
    assert "\n" not in str(caught.value)
    assert (groups(), set(fleet.actors)) == before


def test_a_fleet_that_cannot_start_leaves_nothing_behind(
    impatient: None, ray_session: None, config: RunConfig, version: Version, folder: Path
) -> None:
    before = groups()
    huge = config.model_copy(update={"targets": {"huge": model(folder, "mistral", gpus=1)}})
    with pytest.raises(ConfigError, match=r"no node has room for .*'huge'"):
        Fleet.start(huge, version.path)
    assert groups() == before


def test_a_model_that_does_not_come_back_is_one_line(joined: Fleet) -> None:
    ray.kill(joined.actors[LATE], no_restart=True)
    with pytest.raises(ModelError, match=LATE) as caught:
        asyncio.run(joined.answerer.generate(LATE, PROMPTS[0]))
    assert "\n" not in str(caught.value)
