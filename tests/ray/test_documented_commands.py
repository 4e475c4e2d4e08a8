"""The commands of the pages run, one after another, over small models with the names that the pages use.

The run files have the documented names and lie in a folder of the test's; addresses are those of its servers. What a
command would do for minutes is cut short by more options behind those that the page shows.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import pytest
import yaml

from onceedit_ray.cli import main
from onceedit_ray.config import RunConfig
from onceedit_ray.models.sources import resolve
from onceedit_ray.reader.training_run import ReaderSettings, train_reader
from tests import small_grid
from tests.documented_commands import COMMANDS, RUN_HERE, Shown
from tests.paths import ROOT
from tests.patience import PATIENCE
from tests.ray.real_plugin import goes_on, link_plugin, needs_plugin
from tests.ray.serving_command import serving
from tests.ray.small_fleet import EDITS, PLUGIN, build_models, model, run_config
from tests.reader_source import material
from tests.stand_in_server import StandIn, running

TARGETS = {"gemma": "gemma3", "qwen": "qwen2", "smollm2": "mistral"}
SHORT = {
    "onceedit reader train": ["--steps", "1", "--batch-size", "2", "--rank", "2", "--threads", "1"],
    "python -m benchmarks.conversations": ["--limit", "1", "--config", "conversations.yaml", "--results", "tables"],
}
"""What is added to the commands that begin so."""
BOUNDS = {"learnt": 0.0, "kept": 0.0, "false_alarms": 1.0, "near_misses": 1.0}
SERVE = "onceedit serve"
OF_A_SERVER = ("onceedit models add", "onceedit models remove")
HERE = [each for each in COMMANDS if not each.why and not each.run_by and each.line.startswith(RUN_HERE)]


def lines(*beginnings: str, pages: str = "") -> list[Shown]:
    """Commands that begin so, each once: a run file that the reader is to choose is the quickstart's."""
    found = [each for each in HERE if each.line.startswith(beginnings) and pages in each.page]
    return list({chosen(each.words): each for each in found}.values())


def cut_short(command: Shown) -> list[str]:
    return next((more for start, more in SHORT.items() if command.line.startswith(start)), [])


def chosen(words: list[str]) -> str:
    return " ".join(words).replace("FILE", "configs/quickstart.yaml")


@pytest.fixture(scope="module")
def folder(onceedit_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the commands run: run files, edits, a grid, the job, a reader of one step."""
    folder = tmp_path_factory.mktemp("documented")
    build_models(folder, sorted(TARGETS.values()))
    base = resolve(f"local:{folder / PLUGIN}")
    settings = ReaderSettings(steps=1, batch_size=2, rank=2, frozen_layers=1)
    train_reader(base, material(), settings, folder / "reader", threads=1)
    (folder / "my_edits.jsonl").write_text(EDITS, encoding="utf-8")
    (folder / "configs").mkdir()
    for file, name, edits in (
        ("my.yaml", "my-edits", folder / "my_edits.jsonl"),
        ("configs/quickstart.yaml", "quickstart", folder / "my_edits.jsonl"),
        ("quickstart.yaml", "new", folder / "my_edits.jsonl"),
        ("conversations.yaml", "conversations", ROOT / "data/conversations/edits.jsonl"),
    ):
        run = run_file(folder, name, edits).model_dump(mode="json")
        (folder / file).write_text(yaml.safe_dump(run), encoding="utf-8")
    small_grid.write_files(folder, ["llama", "gpt2"])
    grid = small_grid.values(folder, ["gpt2"], [small_grid.FT_L, small_grid.ONCEEDIT], scales={"small": {"records": 1}})
    (folder / "configs/paper_table1.yaml").write_text(yaml.safe_dump(grid), encoding="utf-8")
    for name in ("jobs", "benchmarks", "data"):
        (folder / name).symlink_to(ROOT / name)
    return folder


def run_file(folder: Path, name: str, edits: Path) -> RunConfig:
    return run_config(
        folder,
        name,
        {target: model(folder, family) for target, family in TARGETS.items()},
        knowledge={"path": edits},
        living=BOUNDS,
        editing={"editor": f"reader:{folder / 'reader'}"},
        fusion={"strategy": "selective", "max_new_tokens": 4, "threshold": 1.0},  # no near miss may open the gate
        evaluation={"general_limit": 1, "drift_limit": 1, "drift_tokens": 2, "gate_shapes": ["raw"]},
    )


@pytest.mark.parametrize(
    "command",
    [each for each in HERE if each.line.startswith("onceedit ") and not each.line.startswith((SERVE, *OF_A_SERVER))],
    ids=str,
)
def test_a_command_of_onceedit(command: Shown, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    arguments = [f"local:{folder / PLUGIN}" if word == "my-org/my-plugin" else word for word in command.words[1:]]
    assert main([*arguments, *cut_short(command)]) == 0


@pytest.mark.parametrize("command", lines("python"), ids=str)
def test_a_program_of_the_checkout(command: Shown, folder: Path) -> None:
    done = subprocess.run(
        [sys.executable, *command.words[1:], *cut_short(command)],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=2 * PATIENCE,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@dataclass
class Server:
    """A running system, and what stands for the ids that a page leaves out. place: the folder of what it says."""

    address: str
    place: Path

    def asked(self, words: list[str]) -> tuple[int, str]:
        """The status and the body of a call with curl."""
        arguments = [self.filled(word) for word in words[1:]]
        if "-w" in arguments:
            place = arguments.index("-w")
            del arguments[place : place + 2]
        done = subprocess.run(
            ["curl", *arguments, "-w", "\n%{http_code}"], capture_output=True, text=True, timeout=120, check=True
        )
        body, _, status = done.stdout.rpartition("\n")
        return int(status), body

    def filled(self, word: str) -> str:
        for documented in ("http://127.0.0.1:8000", "localhost:8000"):
            word = word.replace(documented, self.address)
        if "batch_…" in word:
            return word.replace("batch_…", self.listed("edits")[0]["batch"])
        if "edit_…" in word:
            return word.replace("edit_…", self.listed("edits")[0]["id"])
        if "quickstart-…" in word:
            own = [version["id"] for version in self.listed("versions") if version["id"].startswith("quickstart-")]
            return word.replace("quickstart-…", own[-1])
        return word

    def listed(self, what: str) -> list[dict[str, Any]]:
        response = httpx2.get(f"{self.address}/v1/{what}", trust_env=False, timeout=60)
        assert response.status_code == 200, response.text
        data: list[dict[str, Any]] = response.json()["data"]
        return data


@pytest.fixture(scope="module")
def server(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The documented server with the playground: without that option it is the server that the pages show, too."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert main(["edit", "--config", "configs/quickstart.yaml"]) == 0
    shown = lines(f"{SERVE} --config")
    (command,) = [each for each in shown if each.words[-1] == "--playground"]
    assert {chosen(each.words) for each in shown} == {line := chosen(command.words), line.removesuffix(" --playground")}
    words = [*command.words[2:], "0"]  # at any port
    words[words.index("--config") + 1] = str(folder / "configs/quickstart.yaml")
    place = tmp_path_factory.mktemp("server")
    with serving(words, place) as (process, address):
        yield Server(address, place)
        process.terminate()


@pytest.mark.parametrize("command", [each for each in lines("curl") if "engines" not in each.page], ids=str)
def test_a_call_with_curl(command: Shown, server: Server) -> None:
    status, body = server.asked(command.words)
    expected = 404 if "gpt-5" in command.line else 201 if '"target_new"' in command.line else 200
    assert status == expected, body


def test_the_page_is_served_beside(server: Server) -> None:
    until = time.monotonic() + PATIENCE
    while "the playground of http://" not in (said := (server.place / "err").read_text()):
        assert time.monotonic() < until, said
        time.sleep(0.5)


@pytest.mark.weights
@needs_plugin
def test_before_servers_that_run(onceedit_home: Path, tmp_path: Path) -> None:
    link_plugin(onceedit_home)
    (serve,) = lines(f"{SERVE} --target", pages="engines")
    with running(StandIn(goes_on)) as first, running(StandIn(goes_on)) as second, running(StandIn(goes_on)) as third:
        urls = {f"http://127.0.0.1:{8001 + place}/v1": url for place, url in enumerate((first, second, third))}

        def filled(words: list[str]) -> list[str]:
            for documented, url in urls.items():
                words = [word.replace(documented, url) for word in words]
            return words

        with serving(filled(serve.words)[2:], tmp_path) as (process, address):
            here = Server(address, tmp_path)
            for command in lines("curl", pages="engines"):
                status, body = here.asked(command.words)
                assert status == 201, body
            for command in lines(*OF_A_SERVER):
                assert main([*filled(command.words)[1:], "--server", f"{address}/v1"]) == 0
            process.terminate()
