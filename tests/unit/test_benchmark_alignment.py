"""The alignment benchmark runs, and its results are finite numbers. Speed is not tested."""

from __future__ import annotations

import math
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch

from benchmarks import alignment as benchmark


def test_a_tiny_run_gives_finite_figures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    benchmark.main(["--quick", "--random", "1600", "400", "16", "--results", str(tmp_path)])
    rows = pq.read_table(tmp_path / "alignment.parquet").to_pylist()
    sizes = [(row["vocabulary"], row["anchors"]) for row in rows]
    assert sizes == [(50, 50), (100, 100), (200, 200), (400, 400)]
    for row in rows:
        figures = [value for value in row.values() if not isinstance(value, str)]
        assert all(math.isfinite(value) and value > 0 for value in figures)
        assert row["entries"] == row["vocabulary"] * row["anchors"]
        assert "core" in row["machine"]
    assert (tmp_path / "alignment.png").read_bytes().startswith(b"\x89PNG")
    out = capsys.readouterr().out
    assert rows[0]["machine"] in out
    assert len([line for line in out.splitlines() if line.lstrip()[:3] in {"50 ", "100", "200", "400"}]) == 4


def test_a_part_has_the_anchors_it_says() -> None:
    whole = benchmark.random_embeddings(100, 20, 4)
    assert benchmark.part(whole, 100, 20) is whole
    small = benchmark.part(whole, 30, 10)
    assert (len(small.E_VD), len(small.anchor_ids_A)) == (30, 10)
    # Anchors of the part are every second anchor of the whole.
    assert torch.equal(small.E_VD[small.anchor_ids_A], whole.E_VD[whole.anchor_ids_A[::2]])
