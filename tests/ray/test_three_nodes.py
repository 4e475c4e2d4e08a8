"""Three nodes, targets on two of them, one killed in mid-answer: each request ends with its text or one clear error.

The cluster runs in another process (`three_nodes.py`), so that the Ray that the other tests share does not change.
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
from tests.ray.separate_homes import OUTCOME
from tests.ray.small_fleet import build_models
from tests.ray.three_nodes import TARGETS


@pytest.fixture(scope="module")
def outcome(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("three")
    build_models(folder, list(TARGETS))
    script = [sys.executable, "-m", "tests.ray.three_nodes", str(folder)]
    run = subprocess.run(
        script, cwd=ROOT, env=os.environ, capture_output=True, text=True, timeout=2 * PATIENCE, check=False
    )
    assert run.returncode == 0, run.stdout[-2000:] + run.stderr[-4000:]
    return json.loads((folder / OUTCOME).read_text())


def test_each_target_is_on_a_node_of_its_own(outcome: dict[str, Any]) -> None:
    assert len(set(outcome["nodes"])) == 2


def test_each_answer_meanwhile_is_the_right_one_or_one_clear_error(outcome: dict[str, Any]) -> None:
    assert len(outcome["rounds"]) >= 2
    for answers in outcome["rounds"]:
        for asked, text in answers.items():
            assert text == outcome["before"][asked] or (text.startswith("error: ") and "\n" not in text), asked
        other = [asked for asked in answers if asked.startswith(TARGETS[1])]
        assert all(answers[asked] == outcome["before"][asked] for asked in other), "its node has not died"


def test_later_answers_are_right_on_another_node(outcome: dict[str, Any]) -> None:
    assert outcome["after"] == outcome["before"]
    assert outcome["now"][TARGETS[0]] not in outcome["nodes"]
    assert outcome["now"][TARGETS[1]] == outcome["nodes"][1]
