"""A fleet whose KV memory is small: every request ends with the text that it would have in a large one."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from onceedit_ray.cluster.calls import fetch
from onceedit_ray.cluster.fleet import PLUGIN, Fleet
from onceedit_ray.cluster.model_actor import Load
from onceedit_ray.config import RunConfig
from onceedit_ray.editing.run import edit_plugin
from onceedit_ray.errors import ContextLengthError
from onceedit_ray.fusion.decoder import UNEDITED, FusedDecoder
from onceedit_ray.fusion.outputs import Generation
from onceedit_ray.fusion.system import open_decoder
from onceedit_ray.knowledge.store import open_store
from onceedit_ray.knowledge.version import Version
from tests.patience import PATIENCE
from tests.ray.small_fleet import build_models, model, run_config

LIMITS = {PLUGIN: 60 * 384, "mistral": 90 * 256}
"""Keys and values of sixty and of ninety tokens: one to three sessions at a time."""
PROMPTS = [
    "What is the capital of France?",
    "Q: Who is the author of War and Peace?\nA:",
    "The mother tongue of Danielle Darrieux is",
    "The river Danube flows ",
]


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> RunConfig:
    folder = tmp_path_factory.mktemp("limit")
    build_models(folder, ["mistral"])
    target = model(folder, "mistral").model_copy(update={"kv_cache_bytes": LIMITS["mistral"]})
    config = run_config(folder, "limit", {"mistral": target}, fusion={"max_new_tokens": 24})
    return config.model_copy(update={"plugin": config.plugin.model_copy(update={"kv_cache_bytes": LIMITS[PLUGIN]})})


@pytest.fixture(scope="module")
def version(onceedit_home: Path, config: RunConfig) -> Version:
    return edit_plugin(config, open_store())


@pytest.fixture(scope="module")
def fleet(ray_session: None, config: RunConfig, version: Version) -> Iterator[Fleet]:
    fleet = Fleet.start(config, version.path)
    yield fleet
    fleet.stop()


@pytest.fixture(scope="module")
def unbounded(config: RunConfig, version: Version) -> FusedDecoder:
    """The same system in this process, with as much memory as there is."""
    roomy = {"kv_cache_bytes": None}
    targets = {name: target.model_copy(update=roomy) for name, target in config.targets.items()}
    large = config.model_copy(update={"targets": targets, "plugin": config.plugin.model_copy(update=roomy)})
    return open_decoder(large, version.path)


def test_many_requests_in_little_memory_all_end_with_the_right_text(fleet: Fleet, unbounded: FusedDecoder) -> None:
    """Sixteen at once, which need the plug-in's and the target's memory in different orders; four clients leave."""
    asked = [
        (f"{prompt}{' ' * number}", strategy)
        for number in range(2)
        for prompt in PROMPTS
        for strategy in (None, UNEDITED)
    ]

    async def there() -> list[Generation]:
        leaving = [
            asyncio.ensure_future(fleet.answerer.generate("mistral", f"{prompt} {prompt}")) for prompt in PROMPTS
        ]
        staying = [asyncio.ensure_future(fleet.answerer.generate("mistral", *question)) for question in asked]
        for number, task in enumerate(leaving):
            await asyncio.sleep(0.1 * number)
            task.cancel()
        return await asyncio.wait_for(asyncio.gather(*staying), 120)

    async def here() -> list[tuple[int, ...]]:
        return [(await unbounded.generate("mistral", *question)).token_ids for question in asked]

    assert [answer.token_ids for answer in asyncio.run(there())] == asyncio.run(here())
    deadline = time.monotonic() + PATIENCE
    while any(load.sessions for load in loads(fleet).values()):
        assert time.monotonic() < deadline, loads(fleet)
        time.sleep(0.1)
    for name, load in loads(fleet).items():
        assert 0 < load.cache_bytes <= load.cache_limit == LIMITS[name]
        assert load.waiting == 0


def test_one_that_could_never_fit_is_refused_by_one_line(fleet: Fleet) -> None:
    with pytest.raises(ContextLengthError, match=r"fit the memory of mistral: its 23040 bytes .* hold 90; ") as caught:
        asyncio.run(fleet.answerer.generate("mistral", "word " * 100, UNEDITED))
    assert "\n" not in str(caught.value)


def loads(fleet: Fleet) -> dict[str, Load]:
    return {name: fetch(actor.load.remote()) for name, actor in fleet.actors.items()}
