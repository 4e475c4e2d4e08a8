"""`onceedit serve` when Ray, or the command itself, is killed: one line, an end, and no process that stays."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import httpx2
import psutil
import pytest
import yaml

from onceedit_ray.config import RunConfig
from onceedit_ray.editing.run import edit_plugin
from onceedit_ray.knowledge.store import open_store
from tests.paths import ROOT
from tests.patience import PATIENCE
from tests.ray.serving_command import SERVE, healthy, named, serving
from tests.ray.small_fleet import build_models, model, run_config
from tests.ray.warm_workers import COLD


@pytest.fixture(scope="module")
def config(onceedit_home: Path, tmp_path_factory: pytest.TempPathFactory) -> RunConfig:
    folder = tmp_path_factory.mktemp("command")
    build_models(folder, ["mistral"])
    config = run_config(folder, "command", {"mistral": model(folder, "mistral")})
    edit_plugin(config, open_store())
    return config


@contextlib.contextmanager
def served_by(config: RunConfig, folder: Path) -> Iterator[tuple[psutil.Process, str]]:
    """The command over a run file, written to `run.yaml`."""
    (folder / "run.yaml").write_text(yaml.safe_dump(config.model_dump(mode="json")))
    with serving(["--config", str(folder / "run.yaml")], folder) as command:
        yield command


def test_it_says_few_lines_and_then_one_of_json_for_each_request(config: RunConfig, tmp_path: Path) -> None:
    with served_by(config, tmp_path) as (command, address), httpx2.Client(trust_env=False, timeout=60) as http:
        asked = {"model": "mistral", "prompt": "Who leads?", "max_tokens": 2}
        assert http.post(f"{address}/v1/completions", json=asked).status_code == 200
        assert http.post(f"{address}/v1/completions", json={"model": "nobody"}).status_code == 400
        port = address.rpartition(":")[2]
        again = [COLD, "-c", SERVE, "serve", "--config", str(tmp_path / "run.yaml"), "--port", port]
        second = subprocess.run(again, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": str(ROOT)})
        assert second.returncode == 2 and second.stdout == ""
        (line,) = second.stderr.splitlines()
        assert "already in use" in line and "--port" in line
        said = (tmp_path / "err").read_text()
        metrics = re.search(r"^metrics: (\S+)", said, re.MULTILINE)
        assert metrics is not None
        until = time.monotonic() + PATIENCE
        while "ray_onceedit_requests_total" not in http.get(metrics[1]).text:
            assert time.monotonic() < until, "Ray exports what replicas count after some seconds"
            time.sleep(1)
        lost = next(one for one in command.children(recursive=True) if one.name().startswith("ray::HostedModel"))
        lost.kill()
        assert http.post(f"{address}/v1/completions", json=asked).status_code == 200, "it is started again"
        command.terminate()
    written = [json.loads(line) for line in (tmp_path / "out").read_text().splitlines()]
    lines = [line for line in written if line["route"] != "/v1/models"]  # asked while it started
    assert [(line["route"], line["status"]) for line in lines] == [
        ("/v1/completions", status) for status in (200, 400, 200)
    ]
    assert len((tmp_path / "err").read_text().splitlines()) < 10, said


def test_what_cannot_be_loaded_is_one_line(config: RunConfig, tmp_path: Path) -> None:
    run = config.model_dump(mode="json")
    run["targets"]["mistral"]["model"] = f"local:{tmp_path / 'nowhere'}"
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(run))
    command = [COLD, "-c", SERVE, "serve", "--config", str(tmp_path / "run.yaml"), "--port", "0"]
    ended = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": str(ROOT)})
    assert ended.returncode == 2 and len(ended.stderr.splitlines()) < 10
    assert ended.stderr.splitlines()[-1].startswith("error: the server could not be started: ")
    assert "there is no folder" in ended.stderr.splitlines()[-1]


@pytest.mark.parametrize("name", ["raylet", "gcs_server"])
def test_after_a_death_of_ray_the_command_ends_with_one_line(config: RunConfig, tmp_path: Path, name: str) -> None:
    with served_by(config, tmp_path) as (command, address), httpx2.Client(trust_env=False, timeout=60) as http:
        healthy(address)
        tree = named(command.children(recursive=True))
        next(one for one, called in tree.items() if called == name).kill()
        until = time.monotonic() + PATIENCE
        while command.is_running() and command.status() != psutil.STATUS_ZOMBIE:
            assert time.monotonic() < until, "the command does not end"
            with contextlib.suppress(httpx2.ConnectError, httpx2.ReadError, httpx2.RemoteProtocolError):
                assert http.get(f"{address}/health").json()["status"] in ("ok", "unhealthy"), "it never hangs"
            time.sleep(0.5)
    said = [line for line in (tmp_path / "err").read_text().splitlines() if f"{name} has died" in line]
    assert len(said) == 1 and "start the command again" in said[0]
    assert not psutil.wait_procs(list(tree), timeout=PATIENCE)[1], "not even Ray's agents stay"


def test_a_raylet_that_dies_while_the_models_load_ends_the_command(config: RunConfig, tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(config.model_dump(mode="json")))
    command = [COLD, "-c", SERVE, "serve", "--config", str(tmp_path / "run.yaml"), "--port", "0"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    ) as process:
        until = time.monotonic() + PATIENCE
        while not (tree := named(psutil.Process(process.pid).children(recursive=True))) or not any(
            name.startswith("ray::ServeController") for name in tree.values()
        ):
            assert process.poll() is None and time.monotonic() < until
            time.sleep(0.1)
        next(one for one, name in tree.items() if name == "raylet").kill()
        try:
            _, said = process.communicate(timeout=PATIENCE)
        finally:
            process.kill()
    assert process.returncode == 2 and "raylet has died" in said.splitlines()[-1], said


def test_of_a_command_that_is_killed_nothing_stays(config: RunConfig, tmp_path: Path) -> None:
    with served_by(config, tmp_path) as (command, _):
        command.send_signal(signal.SIGKILL)
