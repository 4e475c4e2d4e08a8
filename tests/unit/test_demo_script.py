"""`scripts/demo.sh`: what of the job's output is shown. Its programs are stand-ins; CI runs it with the real ones."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.paths import ROOT

JOB = """\
Job submission server address: http://127.0.0.1:1

-------------------------------------------------------
Job 'raysubmit_1' submitted successfully
-------------------------------------------------------

Tailing logs until the job exits (disable with --no-wait):
2026-11-30 10:00:00,000\tINFO worker.py:2013 -- Connected to Ray cluster.
(HostedModel pid=7) Loading weights
scoring qwen: 10/10 [00:05]

qwen: generation
average   0.250   0.917

gemma: generation
average   0.200   0.900

results: /r/quickstart on node here

------------------------------
Job 'raysubmit_1' succeeded
------------------------------
"""
TABLES = JOB[JOB.index("qwen: generation") : JOB.index("\n\n------------------------------\nJob 'raysubmit_1' succ")]


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """The script, with programs that print what the real ones would."""
    (tmp_path / "scripts").mkdir()
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    shutil.copy(ROOT / "scripts" / "demo.sh", tmp_path / "scripts" / "demo.sh")
    (tmp_path / "run.yaml").write_text("")
    (tmp_path / "job.out").write_text(JOB)
    program(tmp_path, "onceedit", 'echo "onceedit $*"')
    program(tmp_path, "python", "cat job.out")
    return tmp_path


def program(checkout: Path, name: str, does: str) -> None:
    path = checkout / ".venv" / "bin" / name
    path.write_text(f"#!/usr/bin/env bash\n{does}\n")
    path.chmod(0o755)


def run(checkout: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {"PATH": "/usr/bin:/bin", "ONCEEDIT_RESULTS": str(checkout / "results")}
    script = str(checkout / "scripts" / "demo.sh")
    return subprocess.run(["bash", script, *arguments], capture_output=True, text=True, env=environment)


def test_the_jobs_own_words_go_to_a_log(checkout: Path) -> None:
    done = run(checkout, "run.yaml")
    assert (done.returncode, done.stderr) == (0, "")
    _, shown = done.stdout.split("== 2/3 edit and evaluate on a local Ray, about two minutes")
    assert shown == (
        f" (log: {checkout}/results/demo.log)\n{TABLES}\n"
        "== 3/3 ask those that are not the plug-in's model in chat, before and after\nonceedit demo --config run.yaml\n"
    )
    assert (checkout / "results" / "demo.log").read_text() == JOB


def test_verbose_shows_them(checkout: Path) -> None:
    done = run(checkout, "--verbose", "run.yaml")
    assert done.returncode == 0 and JOB in done.stdout
    assert done.stdout.endswith("onceedit demo --config run.yaml --verbose\n")


def test_a_job_that_fails_shows_its_log_and_ends_with_its_code(checkout: Path) -> None:
    program(checkout, "python", 'echo "(HostedModel pid=7) killed"; exit 3')
    done = run(checkout, "run.yaml")
    assert done.returncode == 3 and "(HostedModel pid=7) killed" in done.stdout and "== 3/3" not in done.stdout
