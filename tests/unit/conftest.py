"""One core for each process of the tests; the command `onceedit` in a folder and a home of the test's own, with small
models and an edited version.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from onceedit_ray.cli import main
from tests.command_line import Command, Place, build_foreign
from tests.families import build_family


@pytest.fixture(scope="session", autouse=True)
def one_core() -> Iterator[None]:
    """Code that would use every core uses one, since pytest-xdist starts a process for each core.

    `use_threads` sets the number of torch's threads, and it stays set for all later tests of a process. With a thread
    for each core in each process, threads that wait spin on a core that another process needs.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "cpu_count", lambda: 1)
        yield


@pytest.fixture(scope="module")
def models_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cli-models")
    for seed, family in enumerate(("llama", "mistral", "gpt2")):
        build_family(family, folder / family, seed=seed)
    build_foreign(folder / "foreign")
    return folder


@pytest.fixture(scope="module")
def edited_home(models_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home in which `onceedit edit` has been run; tests work on copies."""
    home, folder = tmp_path_factory.mktemp("cli-home"), tmp_path_factory.mktemp("cli-edit")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ONCEEDIT_HOME", str(home))
        assert main(["edit", "--config", Place(home, models_folder, folder).run_file()]) == 0
    return home


@pytest.fixture
def place(edited_home: Path, models_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    """A home with one version, a folder to work in."""
    shutil.copytree(edited_home, tmp_path / "home")
    (tmp_path / "work").mkdir()
    monkeypatch.setenv("ONCEEDIT_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path / "work")
    yield Place(tmp_path / "home", models_folder, tmp_path / "work")


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str]) -> Command:
    """Runs a command; its exit code, stdout and stderr."""

    def run(*arguments: str) -> tuple[int, str, str]:
        capsys.readouterr()
        code = main(arguments)
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    return run
