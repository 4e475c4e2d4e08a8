"""Training lets its threads sleep: this is set before torch is imported, when OpenMP reads it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from onceedit_ray import cli
from onceedit_ray.threads import SLEEPING, let_threads_sleep
from tests.paths import ROOT


def test_what_the_user_set_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    (name,) = SLEEPING
    monkeypatch.delenv(name, raising=False)
    let_threads_sleep()
    assert os.environ[name] == "passive"
    monkeypatch.setenv(name, "active")
    let_threads_sleep()
    assert os.environ[name] == "active"


def test_the_command_comes_before_torch() -> None:
    asked = "import sys, onceedit_ray.cli; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", asked], cwd=ROOT, check=True, timeout=120)


@pytest.mark.parametrize("command", ["edit", "evaluate", "compare"])
def test_commands_that_train_say_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, command: str) -> None:
    (name,) = SLEEPING
    monkeypatch.delenv(name, raising=False)
    refused = tmp_path / "run.yaml"  # it is read, and refused, by the command itself
    refused.write_text("knowledge: 5\n", encoding="utf-8")
    assert cli.main([command, "--config", str(refused)]) == 2
    assert os.environ[name] == "passive"


def test_the_actors_that_train_are_started_with_it() -> None:
    from onceedit_ray.cluster import grid, job, trainer

    for remote in (job.edit_task, grid.version_task, grid.cell_task, trainer.TrainerActor):
        assert remote._default_options["runtime_env"]["env_vars"] == SLEEPING
