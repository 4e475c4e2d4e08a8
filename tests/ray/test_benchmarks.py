"""The benchmarks that start a Ray of their own run from end to end on small models. Times are not judged."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests.bench_run import small_run_file
from tests.paths import ROOT
from tests.patience import PATIENCE


@pytest.mark.parametrize(
    ("name", "lines"),
    [("transport", ["base plug-in", "gemma3"]), ("onboarding", ["of gpt2", "fine-tuning", "coordinator"])],
)
def test_figures_are_finite(name: str, lines: list[str], tmp_path: Path) -> None:
    run_file = small_run_file(tmp_path)
    command = [sys.executable, "-m", f"benchmarks.{name}", "--quick", "--config", run_file, "--results", tmp_path]
    home = {"ONCEEDIT_HOME": str(tmp_path / "home")}
    done = subprocess.run(
        command, cwd=ROOT, env=os.environ | home, capture_output=True, text=True, timeout=2 * PATIENCE
    )
    assert done.returncode == 0, done.stdout + done.stderr
    table = pq.read_table(tmp_path / f"{name}.parquet").to_pylist()
    for line in table:
        assert all(math.isfinite(value) and value > 0 for value in line.values() if isinstance(value, float)), line
    assert all(any(word in str(line) for line in table) for word in lines), table
