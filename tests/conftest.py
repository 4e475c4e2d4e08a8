"""The environment of every test: no network, no telemetry, few threads, and a temporary home.

The variables are set when pytest reads this file, before torch, transformers and Ray read them. A Ray that a test
starts is its own: on the loopback, with a token that only its processes know, whatever Ray the environment points to.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from filelock import FileLock
from hypothesis import settings

if TYPE_CHECKING:
    from tests.small_system import TaughtModels

os.environ.update(
    HF_HUB_OFFLINE="1",
    MPLBACKEND="Agg",
    PIP_NO_INDEX="1",  # no test downloads a model
    OMP_NUM_THREADS="1",
    TOKENIZERS_PARALLELISM="false",
    RAY_USAGE_STATS_ENABLED="0",
    # Without a token of ours, `ray.init` writes one into the user's home directory.
    RAY_AUTH_MODE="token",
    RAY_AUTH_TOKEN=secrets.token_hex(32),
    # Without it Ray takes the machine's public address, even for 127.0.0.1, and listens on every interface.
    RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER="0",
)
for foreign in ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS", "RAY_AUTH_TOKEN_PATH", "ONCEEDIT_RESULTS"):
    os.environ.pop(foreign, None)

# The same examples in every run, however slow the machine is; `--hypothesis-profile=default` looks for new ones.
settings.register_profile("onceedit", deadline=None, derandomize=True, database=None)
settings.load_profile("onceedit")


@pytest.fixture(scope="session", autouse=True)
def onceedit_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """`ONCEEDIT_HOME` for the whole session: empty at first, never the user's own."""
    home = tmp_path_factory.mktemp("onceedit-home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ONCEEDIT_HOME", str(home))
        yield home


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    """The backend for tests that are coroutines: each runs in an event loop of its own."""
    return "asyncio"


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> TaughtModels:
    """A plug-in and a target of each family that were taught a few sentences, in about five seconds.

    The processes of one run (pytest-xdist) share the folder: the first one that needs the models teaches them.
    """
    from tests.families import FAMILIES  # only here, where the variables above are set, torch may be imported
    from tests.small_system import teach_models

    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent
    with FileLock(folder / "taught.lock"):
        return teach_models(folder / "taught", FAMILIES)
