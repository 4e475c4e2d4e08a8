"""The benchmark runs from end to end on small models, and every figure is a finite number. Times are not judged."""

from __future__ import annotations

import math
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from benchmarks import bench, decoding
from tests.bench_run import small_run_file


def test_every_figure_is_finite(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ONCEEDIT_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(bench, "UNRELATED_TOKENS", 6)
    monkeypatch.setattr(decoding, "QUICK_LARGE", {"hidden_size": 128, "num_hidden_layers": 2})
    run_file = small_run_file(tmp_path)
    decoding.main(["--quick", "--config", str(run_file), "--results", str(tmp_path / "results")])
    table = pq.read_table(tmp_path / "results" / "decoding.parquet").to_pylist()
    assert len(table) >= 14
    for line in table:
        assert all(math.isfinite(line[key]) for key in ("median", "least", "greatest")), line
        assert line["machine"]
    assert [line["figure"] for line in table if "DEEPEN as released, dense matrices" in line["figure"]]
    drafts = [line["median"] for line in table if line["figure"].startswith("plug-in passes")]
    assert len(drafts) == 3 and all(ratio > 0.0 for ratio in drafts)
    assert (tmp_path / "results" / "shared_drafts.png").stat().st_size > 1000
