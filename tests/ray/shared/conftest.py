"""A served system that the tests of this folder share: starting one takes longer than most of its tests."""

from __future__ import annotations

from collections.abc import Iterator

import httpx2
import pytest

from benchmarks.small_system import BOUNDS
from onceedit_ray.editing.run import edit_plugin
from onceedit_ray.knowledge.store import open_store
from onceedit_ray.serving.limits import Limits
from tests.ray.served import Shared, served
from tests.ray.small_fleet import build_models, model, run_config


@pytest.fixture(scope="package")
def shared_system(ray_session: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shared]:
    """Two targets, and a version that knows two edits."""
    folder = tmp_path_factory.mktemp("shared")
    targets = ("mistral", "qwen2")
    build_models(folder, list(targets))
    config = run_config(
        folder, "shared", {family: model(folder, family) for family in targets},
        living=BOUNDS, knowledge={"path": folder / "edits.jsonl", "limit": 2},
    )  # fmt: skip
    version = edit_plugin(config, open_store())
    with served(config, folder, limits=Limits(temperature=0.0, seconds=60.0)) as address:
        yield Shared(config, version, address)


@pytest.fixture
def shared(shared_system: Shared) -> Shared:
    """The shared system as it began: its first version is active, whatever other tests have edited."""
    path = f"/v1/versions/{shared_system.version.id}/activate"
    answer = httpx2.post(shared_system.address + path, trust_env=False, timeout=120)
    assert answer.status_code == 200, answer.text
    return shared_system
