"""The results of a job do not lie in Ray's scratch folder."""

import os
import socket
from pathlib import Path

import pytest

from onceedit_ray.cluster.results_folder import place, results_folder
from onceedit_ray.errors import ConfigError, StoreError
from onceedit_ray.home import onceedit_home


def test_a_job_writes_under_the_home(monkeypatch, tmp_path):
    monkeypatch.setenv("ONCEEDIT_HOME", str(tmp_path))
    monkeypatch.delenv("RAY_JOB_CONFIG_JSON_ENV_VAR", raising=False)
    assert results_folder("results") == Path.cwd() / "results"
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    assert results_folder("results") == tmp_path / "results"
    assert results_folder("/mnt/results") == Path("/mnt/results")


def test_the_last_line_names_node_and_path():
    assert place(Path("/mnt/results/qs")) == f"results: /mnt/results/qs on node {socket.gethostname()}"


def test_uris_are_refused_and_nothing_is_made(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ONCEEDIT_HOME", "s3://bucket/home")
    with pytest.raises(StoreError, match=r"ONCEEDIT_HOME=s3://bucket/home: .* mount it"):
        onceedit_home()
    with pytest.raises(ConfigError, match=r"--results s3://bucket/results: .* mount it"):
        results_folder("s3://bucket/results")
    assert os.listdir(tmp_path) == []
