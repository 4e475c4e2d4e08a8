"""`onceedit compare`: a grid in processes of this machine, in which one cell fails."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from onceedit_ray.cli import main
from onceedit_ray.comparison.cell_store import CellStore
from onceedit_ray.comparison.cells import cells_of
from onceedit_ray.comparison.grid_config import load_grid
from tests.small_grid import FT_L, values, write_files


def test_a_cell_that_fails_leaves_the_others_alone_and_is_tried_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_files(tmp_path, ["llama", "gpt2"])
    rome = {"label": "ROME", "method": "rome", "settings": {"texts": 1}}  # one text is too few for its statistic
    run_file, results = tmp_path / "grid.yaml", tmp_path / "results"
    run_file.write_text(yaml.safe_dump(values(tmp_path, ["gpt2"], [rome, FT_L])), encoding="utf-8")
    assert main(["validate", str(run_file)]) == 0
    assert capsys.readouterr().out == f"{run_file}: valid, 2 cells\n"
    assert main(["validate", str(run_file), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"file": str(run_file), "valid": True, "kind": "grid", "cells": 2}
    arguments = ["compare", "--config", str(run_file), "--results", str(results), "--at-once", "2"]
    assert main([*arguments[:-1], "0"]) == 0, "nothing is computed, what is finished is reported"
    assert "0 of 2 cells are computed." in (results / "small" / "report.md").read_text(encoding="utf-8")
    assert "0 of 2 cells were finished before" in capsys.readouterr().err
    assert main(arguments) == 1
    said = capsys.readouterr().err
    assert "0 of 2 cells were finished before" in said and "give more texts" in said
    report = (results / "small" / "report.md").read_text(encoding="utf-8")
    assert "1 of 2 cells are computed, 1 failed." in report and "ROME · gpt2 · zsre: the corpus has" in report
    store = CellStore(results)
    done = {cell.row: store.get(cell.id) for cell in cells_of(load_grid(run_file))}
    assert [row for row, result in done.items() if result] == ["FT-L"]
    assert main(arguments) == 1
    assert "1 of 2 cells were finished before" in capsys.readouterr().err
    assert {cell.row: store.get(cell.id) for cell in cells_of(load_grid(run_file))} == done, "none was computed again"


def test_a_run_file_is_no_grid_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_file = tmp_path / "run.yaml"
    run_file.write_text("name: x\nknowledge: {path: a}\nplugin: b\ntargets: {c: d}\n", encoding="utf-8")
    assert main(["compare", "--config", str(run_file)]) == 2
    assert f"is a run file; use `onceedit evaluate --config {run_file}`" in capsys.readouterr().err
