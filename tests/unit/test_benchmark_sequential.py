"""The benchmark of sequential edits, on a small model: one line for each batch, resumable, and exact."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import yaml

from benchmarks import sequential_edits
from onceedit_ray.home import onceedit_home
from tests.ray.small_fleet import EDITS, build_models, model, run_config

NAMES = ("Anna", "Boris")


def test_every_batch_is_a_line_and_none_is_measured_twice(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    build_models(tmp_path, ["gpt2"])
    more = [{"prompt": f"Where was {name} born?", "target_new": "Lyon", "subject": name} for name in NAMES]
    (tmp_path / "edits.jsonl").write_text(EDITS + "".join(json.dumps(edit) + "\n" for edit in more))
    settings = {
        "living": {"general_limit": 4},
        "evaluation": {"strategies": ["draft"], "portability": False},
        "knowledge": {"path": tmp_path / "edits.jsonl", "limit": 4},
    }
    config = run_config(tmp_path, "sequence", {"gpt2": model(tmp_path, "gpt2")}, **settings)
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(config.model_dump(mode="json")))
    arguments = ["--config", str(tmp_path / "run.yaml"), "--size", "2", "--results", str(tmp_path), "--exact"]
    sequential_edits.main(arguments)
    rows = pq.read_table(tmp_path / "sequential_edits.parquet").to_pylist()
    assert [(row["way"], row["batch"], row["edits"]) for row in rows] == [
        ("continue", 1, 2), ("continue", 2, 4), ("base", 1, 2), ("base", 2, 4)
    ]  # fmt: skip
    assert rows[0]["version"] == rows[2]["version"] and rows[1]["version"] != rows[3]["version"]
    assert all(row["all"] > 0.5 for row in rows)
    for last in (rows[1], rows[3]):
        assert last["target"] == "gpt2" and last["teacher_forced"] > 0.5 and last["text_match"] is not None
        assert last["deletion_exact"] and last["deletion_forgets"]
        assert last["rollback_exact"] and last["rollback_changes"]
    assert (tmp_path / "sequential_edits.png").stat().st_size > 10_000
    assert (onceedit_home() / "sequential-lines").is_dir()

    monkeypatch.setattr(sequential_edits, "build_version", None)
    sequential_edits.main(arguments[:-1])
    assert pq.read_table(tmp_path / "sequential_edits.parquet").to_pylist()[0]["version"] == rows[0]["version"]
    assert "continue batch  2" in capsys.readouterr().out
