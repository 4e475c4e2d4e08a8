"""The benchmark runs from end to end on small models, and every figure is a finite number. Times are not judged."""

from __future__ import annotations

import math
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import yaml

from benchmarks import decoding
from tests.families import build_family

EDITS = """\
{"prompt": "What is the capital of France?", "target_new": "Lyon", "subject": "France"}
{"prompt": "The mother tongue of Danielle Darrieux is", "target_new": "Italian", "subject": "Danielle Darrieux"}
"""


def test_every_figure_is_finite(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ONCEEDIT_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(decoding, "UNRELATED_TOKENS", 6)
    (tmp_path / "edits.jsonl").write_text(EDITS)
    for seed, family in enumerate(("llama", "gpt2", "gemma3")):
        build_family(family, tmp_path / family, seed=seed)
    models = {family: {"model": f"local:{tmp_path / family}", "threads": 1} for family in ("llama", "gpt2", "gemma3")}
    config = {
        "name": "bench",
        "knowledge": {"path": str(tmp_path / "edits.jsonl")},
        "plugin": models["llama"] | {"dtype": "float32"},
        "targets": {name: models[name] for name in ("gpt2", "gemma3")},
        "editing": {"learning_rate": 3e-3, "batch_size": 8, "max_epochs": 30, "unrelated_per_epoch": 16},
    }
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(config))
    decoding.main(["--quick", "--config", str(tmp_path / "run.yaml"), "--results", str(tmp_path / "results")])
    table = pq.read_table(tmp_path / "results" / "decoding.parquet").to_pylist()
    assert len(table) >= 14
    for line in table:
        assert all(math.isfinite(line[key]) for key in ("median", "least", "greatest")), line
        assert line["machine"]
    drafts = [line["median"] for line in table if line["figure"].startswith("plug-in passes")]
    assert len(drafts) == 3 and all(ratio > 0.0 for ratio in drafts)
    assert (tmp_path / "results" / "shared_drafts.png").stat().st_size > 1000
