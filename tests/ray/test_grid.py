"""A grid as Ray tasks on small models: it is killed and resumed, and one of its cells fails."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from datetime import datetime
from pathlib import Path

import pytest
import ray
import yaml

from jobs.edit_and_eval import main
from onceedit_ray.cluster.grid import on_ray
from onceedit_ray.comparison.cell_store import CellStore
from onceedit_ray.comparison.cells import Cell, cells_of
from onceedit_ray.comparison.grid_config import load_grid
from onceedit_ray.comparison.run_grid import run_grid
from onceedit_ray.progress import Count
from tests.paths import ROOT
from tests.patience import PATIENCE
from tests.small_grid import FT_L, GRACE, ONCEEDIT, grid, values, write_files

TARGETS = ["gpt2", "mistral"]
ROME = {"label": "ROME", "method": "rome", "settings": {"texts": 1}}  # one text is too few for its statistic


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("grid")
    write_files(folder, ["llama", *TARGETS])
    return folder


def finished(results: Path, cells: list[Cell]) -> list[str]:
    return [cell.id for cell in cells if CellStore(results).get(cell.id)]


def test_a_killed_run_goes_on_and_finished_cells_are_never_run_again(
    ray_session: None, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run_file, results = tmp_path / "grid.yaml", tmp_path / "results"
    methods = [FT_L, GRACE, ROME, ONCEEDIT]
    run_file.write_text(yaml.safe_dump(values(folder, TARGETS, methods)), encoding="utf-8")
    arguments = ["--config", str(run_file), "--results", str(results)]
    address = ray.get_runtime_context().gcs_address
    cells = cells_of(load_grid(run_file))
    killed = subprocess.Popen(
        [sys.executable, str(ROOT / "jobs" / "edit_and_eval.py"), *arguments],
        env={**os.environ, "RAY_ADDRESS": address, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        until = time.monotonic() + PATIENCE
        while not finished(results, cells) and killed.poll() is None and time.monotonic() < until:
            time.sleep(0.1)
    finally:
        killed.kill()
        killed.wait()
    before = {
        cell: (CellStore(results).folder(cell) / "cell.json").stat().st_mtime_ns for cell in finished(results, cells)
    }
    assert before and len(before) < len(cells), "killed in the middle"
    monkeypatch.setattr(sys, "argv", ["edit_and_eval.py", *arguments])
    assert main() == 1, "ROME's cells fail"
    said = capsys.readouterr().out
    assert f"of {len(cells)} cells were finished before" in said and "0 of" not in said.splitlines()[0]
    for cell, stamp in before.items():
        assert (CellStore(results).folder(cell) / "cell.json").stat().st_mtime_ns == stamp
    failed = [cell.id for cell in cells if cell.row == "ROME"]
    assert sorted(finished(results, cells)) == sorted(cell.id for cell in cells if cell.id not in failed)
    report = (results / "small" / "report.md").read_text(encoding="utf-8")
    assert "6 of 8 cells are computed, 2 failed." in report
    assert "ROME · gpt2 · zsre: the corpus has" in report and "give more texts" in said
    versions = {
        result.edit_id for cell in cells if cell.row == "OnceEdit" and (result := CellStore(results).get(cell.id))
    }
    assert len(versions) == 1, "the plug-in was edited once for both targets"


def test_times_are_measured_one_after_another(ray_session: None, folder: Path, tmp_path: Path) -> None:
    cells = cells_of(grid(folder, ["gpt2"], [FT_L, ONCEEDIT], table={"layout": "cost"}))
    updates: list[str | Count] = []
    run = run_grid(cells, tmp_path, on_ray, updates.append, one_at_a_time=True)
    assert run.results.keys() == {cell.id for cell in cells} and not run.failures
    assert sum(": done; " in str(update) for update in updates) == 2
    first, second = sorted(run.results.values(), key=lambda result: result.finished)
    began = datetime.fromisoformat(second.finished).timestamp() - sum(second.seconds.values())
    assert began >= datetime.fromisoformat(first.finished).timestamp() - 1, "to the second"


def test_bad_input_is_one_line_before_any_task(
    ray_session: None, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run_file = tmp_path / "grid.yaml"
    content = values(folder, TARGETS, [{"label": "x", "method": "romme"}])
    run_file.write_text(yaml.safe_dump(content), encoding="utf-8")
    for arguments, said in (
        ([], "did you mean 'rome'?"),
        (["--scale", "tiny"], "small has no scale 'tiny': known are none"),
    ):
        monkeypatch.setattr(sys, "argv", ["x", "--config", str(run_file), "--results", str(tmp_path / "r"), *arguments])
        assert main() == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith("error: ") and said in line
    assert not (tmp_path / "r").exists()
