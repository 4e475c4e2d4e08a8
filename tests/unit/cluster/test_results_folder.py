"""The results of a job do not lie in Ray's scratch folder."""

import socket
from pathlib import Path

from onceedit_ray.cluster.results_folder import job_results, place


def test_a_job_writes_under_the_home(monkeypatch, tmp_path):
    monkeypatch.setenv("ONCEEDIT_HOME", str(tmp_path))
    monkeypatch.delenv("RAY_JOB_CONFIG_JSON_ENV_VAR", raising=False)
    assert job_results("results").folder == Path.cwd() / "results"
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    assert job_results("results").folder == tmp_path / "results"
    assert job_results("/mnt/results").folder == Path("/mnt/results")


def test_the_last_line_names_node_and_path(monkeypatch, tmp_path):
    node = socket.gethostname()
    assert place(job_results("/mnt/results"), "qs") == f"results: /mnt/results/qs on node {node}"
    assert place(job_results("/mnt/results")) == f"results: /mnt/results on node {node}"


def test_the_last_line_names_a_uri(monkeypatch, tmp_path):
    monkeypatch.setenv("ONCEEDIT_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    uri = f"file://{tmp_path}/shared"
    assert place(job_results(uri), "qs") == f"results: {uri}/qs"
