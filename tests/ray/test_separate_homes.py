"""Nodes whose homes are their own: a job, what is refused before training, and a node that dies in mid-answer.

The cluster runs in another process (`separate_homes.py`), so that the Ray that the other tests share does not change.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import pytest

from tests.paths import ROOT
from tests.patience import PATIENCE
from tests.ray.separate_homes import FIRST, HEAD, OUTCOME
from tests.ray.small_fleet import build_models


@pytest.fixture(scope="module")
def outcome(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("homes")
    build_models(folder, ["mistral", "qwen2"])
    script = [sys.executable, "-m", "tests.ray.separate_homes", str(folder)]
    run = subprocess.run(
        script, cwd=ROOT, env=os.environ, capture_output=True, text=True, timeout=3 * PATIENCE, check=False
    )
    assert run.returncode == 0, run.stdout[-2000:] + run.stderr[-4000:]
    return json.loads((folder / OUTCOME).read_text())


def test_a_job_edits_on_one_node_and_decodes_on_another(outcome: dict[str, Any]) -> None:
    job = outcome["job"]
    assert {"report.md", "summary.json", "records.parquet"} <= set(job["files"]), "on the driver's node"
    assert job["targets"] == ["far", "near"]
    assert "checking the homes and the models of 2 nodes" in job["said"]


def test_every_node_has_its_home_at_the_same_path_if_it_may_be_mounted(outcome: dict[str, Any]) -> None:
    if not outcome["mounts"]:
        pytest.skip("this user may mount nothing: the homes have paths of their own")
    assert outcome["seen"] == [], "outside the nodes the folder is empty"


def test_the_version_is_the_same_in_both_stores(outcome: dict[str, Any]) -> None:
    job = outcome["job"]
    assert job["homes"][HEAD]["versions"] == job["homes"][FIRST]["versions"] == [job["version"]]
    assert job["made"][0] == job["made"][1], "made on one node, and copied"


def test_a_model_is_converted_once_in_each_home(outcome: dict[str, Any]) -> None:
    homes = outcome["job"]["homes"]
    assert homes[HEAD]["models"] == homes[FIRST]["models"] and len(homes[HEAD]["models"]) == 1


def test_an_edit_while_serving_is_made_there_and_comes_back(outcome: dict[str, Any]) -> None:
    living, first = outcome["living"], outcome["job"]["version"]
    assert living["reason"] is None
    both = sorted([first, living["version"]])
    assert len(both) == 2 and living["homes"] == {HEAD: both, FIRST: both}


def test_a_cluster_that_is_too_small_is_told_before_training(outcome: dict[str, Any]) -> None:
    said = outcome["too small"]
    assert said.startswith("no node has room for ") and " within 15 s; " in said
    assert "'large' (0.2 CPU and 8 GPU)" in said.partition(" within ")[0]
    assert "; all together need 0.5 CPU and 9 GPU; the nodes have " in said
    assert said.count(": 2 CPU, of which free ") == 1 and ": 1 CPU and 2 GPU, of which free " in said
    assert outcome["versions"] == outcome["living"]["homes"][HEAD], "nothing was trained"


def test_a_home_that_cannot_be_made_is_told_before_training_with_node_and_path(outcome: dict[str, Any]) -> None:
    said = outcome["broken home"]
    assert said.startswith("node ") and "a file/home cannot be made (Not a directory)" in said and "\n" not in said


def test_a_node_that_dies_in_mid_answer_changes_no_answer(outcome: dict[str, Any]) -> None:
    lost = outcome["lost"]
    assert not lost["hung"] and len(lost["answers"]) >= lost["known"] + 2, "it died while answers were asked for"
    assert all(answer == lost["answers"][0] for answer in lost["answers"])
    near, far = lost["answers"][0]
    assert "Lyon" in near and len(far) > 32
    assert len(set(lost["before"].values())) == 1 and not set(lost["before"].values()) & set(lost["after"].values())


def test_the_node_that_takes_over_has_fetched_version_and_model(outcome: dict[str, Any]) -> None:
    job = outcome["job"]
    assert outcome["lost"]["home"] == {"versions": [job["version"]], "models": job["homes"][HEAD]["models"]}
