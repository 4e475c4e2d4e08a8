"""Data and results in an object store: moto's server, which speaks S3, in the environment of the clients."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml

from onceedit_ray.config import KnowledgeConfig
from onceedit_ray.errors import DataError, StoreError
from onceedit_ray.knowledge.run_data import selected_edits
from onceedit_ray.location import locate
from onceedit_ray.results import Results
from tests.clients.conftest import PYTHON
from tests.patience import PATIENCE
from tests.small_grid import GRACE, values, write_files

Uri = Callable[[str], str]
FILES = ("qs/*",)


@pytest.fixture(scope="module")
def uri() -> Iterator[Uri]:
    """Gives the URI of a name in a bucket of a server of this module."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [str(PYTHON), "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        _make_bucket(f"http://127.0.0.1:{port}/bucket")
        settings = f"endpoint_override=127.0.0.1:{port}&scheme=http&region=us-east-1"
        yield lambda name: f"s3://key:very-secret@{name}?{settings}"
    finally:
        server.terminate()
        server.wait()


def _make_bucket(address: str) -> None:
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            urllib.request.urlopen(urllib.request.Request(address, method="PUT"))
            return
        except OSError:
            assert time.monotonic() < deadline, "the server does not answer"
            time.sleep(0.2)


def test_results_are_copied_there_and_found_from_another_home(
    uri: Uri, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    large = bytes(range(256)) * (24 << 10)  # more than one part of an upload
    monkeypatch.setenv("ONCEEDIT_HOME", str(tmp_path / "one"))
    written = Results(uri("bucket/runs"))
    (written.folder / "qs").mkdir(parents=True)
    (written.folder / "qs" / "records.parquet").write_bytes(large)
    (written.folder / "qs" / "report.md").write_text("scores")
    written.publish(FILES)
    monkeypatch.setenv("ONCEEDIT_HOME", str(tmp_path / "two"))
    read = Results(uri("bucket/runs"))
    read.fetch(FILES)
    assert (read.folder / "qs" / "records.parquet").read_bytes() == large
    assert (read.folder / "qs" / "report.md").read_text() == "scores"
    assert read.named("qs") == "s3://bucket/runs/qs"


def test_a_bucket_that_is_missing_is_one_line_without_the_key(uri: Uri) -> None:
    with pytest.raises(StoreError, match=r"^the results at s3://nobucket/runs cannot be reached: ") as refused:
        Results(uri("nobucket/runs"))
    with pytest.raises(DataError, match=r"^s3://bucket/missing.jsonl: no such file") as missing:
        selected_edits(KnowledgeConfig(path=uri("bucket/missing.jsonl")))
    assert not any("\n" in str(error.value) or "very-secret" in str(error.value) for error in (refused, missing))


def test_a_comparison_begun_in_one_home_ends_in_another(uri: Uri, tmp_path: Path) -> None:
    """Its edits are read from the store, and its cell is computed once."""
    write_files(tmp_path, ["gpt2"])
    filesystem, inside = locate(uri("bucket/edits.jsonl"))
    with filesystem.open_output_stream(inside) as copy:
        copy.write((tmp_path / "edits.jsonl").read_bytes())
    grid = values(tmp_path, ["gpt2"], [GRACE])
    for dataset in grid["datasets"].values():
        dataset["path"] = uri("bucket/edits.jsonl")
    (tmp_path / "grid.yaml").write_text(yaml.safe_dump(grid))
    command = [sys.executable, "-m", "onceedit_ray", "compare", "--config", str(tmp_path / "grid.yaml")]
    said = []
    for home in ("one", "two"):
        variables = {**os.environ, "ONCEEDIT_HOME": str(tmp_path / home), "ONCEEDIT_RESULTS": uri("bucket/grids")}
        said.append(subprocess.run(command, env=variables, capture_output=True, text=True, check=True).stderr)
    assert "0 of 1 cells were finished before" in said[0] and "1 of 1 cells were finished before" in said[1]
    assert all("results: s3://bucket/grids/small" in each and "very-secret" not in each for each in said)
