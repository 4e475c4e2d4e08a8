"""The Ray that the tests share; every test under this folder gets the marker `ray`.

Nothing here or below may call `ray stop`: it ends every Ray of the machine.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import ray

HERE = Path(__file__).parent

# Ray's workers give way to everything else (nice 15): beside a busy process their imports would take minutes.
os.environ.setdefault("RAY_worker_niceness", "0")
os.environ.setdefault("RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH", "onceedit_ray.serving.proxy_guard.middlewares")


@pytest.hookimpl(tryfirst=True)  # before pytest-xdist reads the groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what lies here, so that `-m "not ray"` leaves it out; one process runs each module or folder."""
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.ray)
            folder = item.path.parent
            item.add_marker(pytest.mark.xdist_group(item.path.stem if folder == HERE else folder.name))


@pytest.fixture(scope="session")
def ray_session(onceedit_home: Path) -> Iterator[None]:
    """A Ray with 4 logical CPUs and no GPU; what needs fake GPU nodes makes a `ray.cluster_utils.Cluster`."""
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
