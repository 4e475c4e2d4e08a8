"""The Ray that the tests share; every test under this folder gets the marker `ray`.

Nothing here or below may call `ray stop`: it ends every Ray of the machine.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import pytest
import ray
from xdist.scheduler import LoadScopeScheduling

from tests.ray.warm_workers import warm_workers

HERE = Path(__file__).parent

# Ray's workers give way to everything else (nice 15): beside a busy process their imports would take minutes.
os.environ.setdefault("RAY_worker_niceness", "0")
os.environ.setdefault("RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH", "onceedit_ray.serving.proxy_guard.middlewares")


class OneProcessForAModule(LoadScopeScheduling):
    """A process runs a whole module; those of `shared`, which share a system, run in one."""

    def _split_scope(self, nodeid: str) -> str:
        module = PurePosixPath(nodeid.split("::")[0])
        return str(module.parent if module.parent.name == "shared" else module)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> OneProcessForAModule:
    """How `pytest -n` distributes these tests."""
    return OneProcessForAModule(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what lies under this folder, so that `-m "not ray"` leaves it out."""
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.ray)


@pytest.fixture(scope="session", autouse=True)
def warm() -> Iterator[None]:
    """Every Ray of these tests has `warm_workers`, where they can be had."""
    if sys.platform != "linux":
        yield
        return
    with tempfile.TemporaryDirectory() as folder, warm_workers(Path(folder)):
        yield


@pytest.fixture(scope="session")
def ray_session(warm: None, onceedit_home: Path) -> Iterator[None]:
    """A Ray with 4 logical CPUs and no GPU; tests that need fake GPU nodes make a `ray.cluster_utils.Cluster`."""
    ray.init(
        address="local",
        num_cpus=4,
        num_gpus=0,
        include_dashboard=False,
        object_store_memory=256 * 2**20,
        log_to_driver=False,
    )
    yield
    ray.shutdown()
