"""A run file over three small random models, for the benchmarks' tests."""

from __future__ import annotations

from pathlib import Path

import yaml

from tests.families import build_family

EDITS = """\
{"prompt": "What is the capital of France?", "target_new": "Lyon", "subject": "France"}
{"prompt": "The mother tongue of Danielle Darrieux is", "target_new": "Italian", "subject": "Danielle Darrieux"}
"""


def small_run_file(folder: Path) -> Path:
    """Write models, edits and run file into `folder`: a Llama plug-in, GPT-2 and Gemma 3 targets."""
    (folder / "edits.jsonl").write_text(EDITS)
    for seed, family in enumerate(("llama", "gpt2", "gemma3")):
        build_family(family, folder / family, seed=seed)
    models = {family: {"model": f"local:{folder / family}", "threads": 1} for family in ("llama", "gpt2", "gemma3")}
    config = {
        "name": "bench",
        "knowledge": {"path": str(folder / "edits.jsonl")},
        "plugin": models["llama"] | {"dtype": "float32"},
        "targets": {name: models[name] for name in ("gpt2", "gemma3")},
        "editing": {"learning_rate": 3e-3, "batch_size": 8, "max_epochs": 30, "unrelated_per_epoch": 16},
    }
    (folder / "run.yaml").write_text(yaml.safe_dump(config))
    return folder / "run.yaml"
