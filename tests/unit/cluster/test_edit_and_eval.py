"""The job's command: a process that dies is one line, and exit code 2."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import ray
from ray.exceptions import ActorUnavailableError

from onceedit_ray.cluster import edit_and_eval
from tests.paths import ROOT


def test_a_dead_process_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    def killed(*arguments: object) -> None:
        raise ActorUnavailableError("WorkerCrashedError: The worker died unexpectedly.\n" + "more\n" * 68, None)

    monkeypatch.setattr(ray, "init", lambda **options: None)
    monkeypatch.setattr(edit_and_eval, "run_job", killed)
    run_file = str(ROOT / "configs" / "quickstart.yaml")
    monkeypatch.setattr(sys, "argv", ["edit_and_eval", "--config", run_file, "--results", str(tmp_path)])
    assert edit_and_eval.main() == 2
    said = capsys.readouterr()
    (line,) = said.err.splitlines()
    assert line.startswith("error: a process of this job has died") and "start the job again" in line
    assert said.out == ""


def test_a_run_file_at_a_uri_is_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["edit_and_eval", "--config", "s3://bucket/run.yaml"])
    assert edit_and_eval.main() == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: s3://bucket/run.yaml is a URI, and a local path is needed")
