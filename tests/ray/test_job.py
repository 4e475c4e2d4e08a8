"""The job from a run file to `results/<run>/`, on small models: everything is written, and an edit is made once."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import ray
import yaml
from ray.util import placement_group_table

from jobs.edit_and_eval import main
from onceedit_ray.cluster.job import run_job
from onceedit_ray.config import RunConfig
from onceedit_ray.editing.run import own_version
from onceedit_ray.errors import ModelError
from onceedit_ray.evaluation.evaluate_targets import EvaluationResults
from onceedit_ray.evaluation.records import gate_records_from, read_gate_records, read_records, records_from
from onceedit_ray.knowledge.manifest import Manifest
from onceedit_ray.knowledge.store import open_store
from onceedit_ray.results import Results
from tests.ray.small_fleet import build_models, model, run_config

TARGETS = ["mistral", "gpt2"]
SETTINGS = ("teacher_forced", "generation", "text_match")
COMMAND = "ray job submit -- python jobs/edit_and_eval.py --config small.yaml"


@dataclass
class Job:
    """A job that was run: its run file, its results and output, and the version that it made."""

    config: RunConfig
    outcome: EvaluationResults
    lines: list[str]
    manifest: Manifest


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("job")
    build_models(folder, TARGETS)
    return folder


@pytest.fixture(scope="module")
def job(ray_session: None, onceedit_home: Path, folder: Path) -> Job:
    config = run_config(
        folder,
        "job",
        {family: model(folder, family) for family in TARGETS},
        editing={"max_epochs": 2, "min_epochs": 1, "unrelated_per_epoch": 8},
        evaluation={"general_limit": 3, "drift_limit": 2, "drift_tokens": 4, "gate_shapes": ["raw", "chat"]},
    )
    lines: list[str] = []
    active = open_store().active_id()
    outcome = run_job(config, Results(folder / "results"), COMMAND, lines.append)
    assert open_store().active_id() == active, "an evaluation activates nothing"
    return Job(config, outcome, lines, own_version(config, open_store()).manifest)


def test_the_results_are_complete(job: Job, folder: Path) -> None:
    assert job.outcome.folder == folder / "results" / "job"
    names = {path.name for path in job.outcome.folder.iterdir()}
    assert names == {"records.parquet", "gate.parquet", "summary.json", "report.md", "scores.png", "gate.png"}
    report = (job.outcome.folder / "report.md").read_text(encoding="utf-8")
    assert COMMAND in report and "mistral" in report and "gpt2" in report
    assert "mistral" in job.outcome.table and "Lyon" in job.outcome.table


def test_a_row_for_every_record_target_strategy_and_property(job: Job) -> None:
    records = records_from(read_records(job.outcome.folder / "records.parquet"))
    probes = {"reliability": 3, "generality": 2, "locality": 2}
    for target in TARGETS:
        for setting in ("teacher_forced", "generation"):
            for strategy in ("unedited", "draft"):
                found = [
                    record.property
                    for record in records
                    if (record.target, record.setting, record.strategy) == (target, setting, strategy)
                    and record.property != "general"
                ]
                assert {prop: found.count(prop) for prop in set(found)} == probes
    drift = [record for record in records if record.property == "general"]
    assert len(drift) == 2 * len(TARGETS) and {record.strategy for record in drift} == {"draft"}
    gate = gate_records_from(read_gate_records(job.outcome.folder / "gate.parquet"))
    assert len(gate) == (3 + 2 + 2 + 3) * 2


def test_the_summary_has_the_documented_shape(job: Job) -> None:
    summary = json.loads((job.outcome.folder / "summary.json").read_text(encoding="utf-8"))
    assert {"plugin", "edits", "edit_seconds", "targets", "gate", "drift"} <= set(summary)
    assert (summary["plugin"], summary["edits"]) == (job.manifest.id, 3)
    assert summary["edit_seconds"] == job.manifest.seconds > 0
    assert set(summary["targets"]) == set(TARGETS)
    for strategies in summary["targets"].values():
        for setting in SETTINGS:
            scores = strategies["draft"][setting]
            assert set(scores) == {"reliability", "generality", "locality", "average"}
            assert all(0 <= score <= 1 for score in scores.values())
    assert set(summary["gate"]["shapes"]) == {"raw", "chat"}
    assert summary["drift"]["mistral"]["draft"]["n"] == 2


def test_the_version_is_committed_and_active(job: Job) -> None:
    assert job.manifest.id.startswith("job-") and job.manifest.edits == 3
    assert len(job.manifest.losses) == 2
    assert open_store().get(job.manifest.id).manifest == job.manifest


def test_progress_is_told(job: Job) -> None:
    said = "\n".join(map(str, job.lines))
    for words in (
        f"version {job.manifest.id} answers",
        "mistral is up (process ",
        "aligning the plug-in with gpt2",
        "evaluating gpt2: 9/9",
        "reading the gate",
    ):
        assert words in said, said


def test_nothing_of_it_is_left_running(job: Job) -> None:
    standing = [group for group in placement_group_table().values() if group["state"] != "REMOVED"]
    assert not [group for group in standing if "gpt2" in group["name"]]


def test_a_second_run_uses_the_version_for_whatever_target(job: Job, folder: Path) -> None:
    """One target fewer and another name for it: the plug-in is not edited again."""
    again = job.config.model_copy(update={"targets": {"other": job.config.targets["gpt2"]}})
    outcome = run_job(again, Results(folder / "again"), COMMAND, lambda line: None)
    assert outcome.summary["plugin"] == job.manifest.id
    assert outcome.summary["edit_seconds"] == job.manifest.seconds
    assert set(outcome.summary["targets"]) == {"other"}
    versions = [version for version in open_store().versions() if version.id.startswith("job-")]
    assert [version.manifest for version in versions] == [job.manifest]


def test_a_plugin_that_is_not_there_is_one_line(job: Job, folder: Path) -> None:
    nowhere = job.config.plugin.model_copy(update={"model": "./nowhere"})
    with pytest.raises(ModelError, match="there is no folder") as caught:
        run_job(job.config.model_copy(update={"plugin": nowhere}), Results(folder / "none"), COMMAND, lambda line: None)
    assert type(caught.value) is ModelError and "\n" not in str(caught.value)
    assert not (folder / "none").exists()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"fusoin": {}}, "did you mean 'fusion'?"),
        ({"knowledge": {"path": "missing.jsonl"}}, "missing.jsonl: no such file"),
        ({"targets": {"one": {"model": "smollm2-135"}}}, "did you mean 'smollm2-135m'?"),
    ],
    ids=["typo", "no data", "unknown model"],
)
def test_bad_input_exits_with_2_and_one_line_before_any_work(
    changes: dict[str, object],
    said: str,
    job: Job,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run_file = tmp_path / "run.yaml"
    values = {**job.config.model_dump(mode="json"), "editing": {"seed": 99}, **changes}
    run_file.write_text(yaml.safe_dump(values), encoding="utf-8")
    versions = len(open_store().versions())
    monkeypatch.setattr(ray, "init", lambda **_: None)  # the session's own Ray is there already
    monkeypatch.setattr(
        sys, "argv", ["edit_and_eval.py", "--config", str(run_file), "--results", str(tmp_path / "none")]
    )
    capsys.readouterr()
    assert main() == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ") and said in line
    assert not (tmp_path / "none").exists() and len(open_store().versions()) == versions
