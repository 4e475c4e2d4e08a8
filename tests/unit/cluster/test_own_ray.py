"""The environment of our own Ray: protected by a token, the user's settings win, and it is set before Ray reads it."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from onceedit_ray.cluster.own_ray import prepare_environment
from tests.paths import ROOT

NAMES = (
    "RAY_AUTH_MODE",
    "RAY_AUTH_TOKEN",
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER",
    "RAY_USAGE_STATS_ENABLED",
    "RAY_worker_niceness",
)


@pytest.fixture
def clean(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name in NAMES:
        monkeypatch.setenv(name, "")  # so that what a test leaves set is taken away again
        monkeypatch.delenv(name)
    return monkeypatch


def settings() -> dict[str, str | None]:
    return {name: os.environ.get(name) for name in NAMES}


def test_such_a_ray_asks_for_a_token_and_stays_on_this_machine(clean: pytest.MonkeyPatch) -> None:
    prepare_environment()
    found = settings()
    assert len(bytes.fromhex(found.pop("RAY_AUTH_TOKEN") or "")) == 32
    assert found == {
        "RAY_AUTH_MODE": "token",
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_worker_niceness": "0",
    }


def test_the_token_is_made_once(clean: pytest.MonkeyPatch) -> None:
    prepare_environment()
    before = settings()
    prepare_environment()
    assert settings() == before


def test_two_rays_have_two_tokens(clean: pytest.MonkeyPatch) -> None:
    prepare_environment()
    first = os.environ.pop("RAY_AUTH_TOKEN")
    prepare_environment()
    assert os.environ["RAY_AUTH_TOKEN"] != first


@pytest.mark.parametrize("name", NAMES)
def test_what_the_user_set_stays(clean: pytest.MonkeyPatch, name: str) -> None:
    clean.setenv(name, "mine")
    prepare_environment()
    assert os.environ[name] == "mine"
    assert None not in settings().values()


def test_ray_is_not_imported_before_it_is_called() -> None:
    """In one process, whose imports are cheaper than those of five."""
    modules = (
        "onceedit_ray.cluster.own_ray",
        "onceedit_ray.cli",
        "benchmarks.serve_load",
        "benchmarks.onboarding",
        "benchmarks.transport",
    )
    imports = "\n".join(f"import {module}; assert 'ray' not in sys.modules, '{module}'" for module in modules)
    subprocess.run([sys.executable, "-c", f"import sys\n{imports}"], cwd=ROOT, check=True, timeout=600)
