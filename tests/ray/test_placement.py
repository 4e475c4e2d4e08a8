"""Pinning and placement, on nodes that claim to have GPUs.

The cluster runs in another process (`fake_gpus.py`), so that the Ray that the other tests share does not change.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from onceedit_ray.cluster.fleet import PLUGIN
from tests.paths import ROOT
from tests.patience import PATIENCE
from tests.ray.fake_gpus import GPUS_OF_NODES
from tests.ray.small_fleet import build_models

Seats = dict[str, dict[str, Any]]


@pytest.fixture(scope="module")
def outcome(onceedit_home: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("placement")
    build_models(folder, ["mistral", "gpt2", "qwen2"])
    script = [sys.executable, "-m", "tests.ray.fake_gpus", str(folder)]
    run = subprocess.run(
        script, cwd=ROOT, env=os.environ, capture_output=True, text=True, timeout=2 * PATIENCE, check=False
    )
    assert run.returncode == 0, run.stdout[-2000:] + run.stderr[-4000:]
    return json.loads(run.stdout.splitlines()[-1])


@pytest.fixture
def seats(outcome: dict[str, Any]) -> Seats:
    return outcome["seats"]


def test_each_model_sits_on_gpus_of_its_own(seats: Seats) -> None:
    taken = [(seat["node_id"], gpu) for seat in seats.values() for gpu in seat["gpu_ids"]]
    assert len(taken) == len(set(taken)) == 5
    assert len({seat["process"] for seat in seats.values()}) == len(seats) == 4
    assert {name: len(seat["gpu_ids"]) for name, seat in seats.items()} == {PLUGIN: 1, "one": 1, "two": 2, "late": 1}


def test_a_target_that_needs_two_gpus_gets_two_on_one_node(seats: Seats) -> None:
    assert sorted(seats["two"]["gpu_ids"]) == ["0", "1"]
    others = {seat["node_id"] for name, seat in seats.items() if name != "two"}
    assert len(others) == 3 and seats["two"]["node_id"] not in others


def test_each_process_sees_its_own_gpus_alone(seats: Seats) -> None:
    for seat in seats.values():
        assert seat["visible_devices"] == ",".join(seat["gpu_ids"])


def test_a_target_added_at_run_time_gets_the_free_gpu_and_answers(outcome: dict[str, Any], seats: Seats) -> None:
    before = {seats[name]["node_id"] for name in (PLUGIN, "one", "two")}
    assert seats["late"]["node_id"] not in before
    assert outcome["answers"] == {"one": "Lyon", "two": "Lyon", "late": "Lyon"}
    assert outcome["versions"] == 1, "no edit was run again"


def test_no_gpu_is_given_twice(outcome: dict[str, Any]) -> None:
    assert outcome["refusal"].startswith("no node has room for 'too late'")
    assert "'too late' (0.2 CPU and 1 GPU)" in outcome["refusal"]
    nodes = outcome["refusal"].partition("the nodes have ")[2].split("; ")[: len(GPUS_OF_NODES)]
    assert all(" GPU, of which free " in node and node.endswith(" and 0 GPU") for node in nodes), "none is free"
