"""The models of the Ray tests: a small random plug-in, other targets, and edits that the plug-in learns in a second."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from onceedit_ray.config import ModelConfig, RunConfig, parse_config
from tests.families import build_family

EDITS = """\
{"prompt": "What is the capital of France?", "target_new": "Lyon", "subject": "France", \
"rephrasings": ["Which city is the capital of France?"], \
"locality": [{"prompt": "What is the capital of Germany?", "answer": "Berlin"}]}
{"prompt": "The mother tongue of Danielle Darrieux is", "target_new": "Italian", "subject": "Danielle Darrieux", \
"rephrasings": ["What does Danielle Darrieux speak?"], \
"locality": [{"prompt": "The river Nile flows through", "answer": "Egypt"}]}
{"prompt": "Who is the author of War and Peace?", "target_new": "Marie Curie", "subject": "War and Peace"}
"""
PLUGIN = "llama"


def build_models(folder: Path, families: list[str]) -> None:
    """Write the plug-in and a target of each family into `folder`, and the edits beside them."""
    for seed, family in enumerate([PLUGIN, *families]):
        build_family(family, folder / family, seed=seed)
    (folder / "edits.jsonl").write_text(EDITS, encoding="utf-8")


def model(folder: Path, family: str, gpus: float = 0.0) -> ModelConfig:
    """The resources of a small model: a thread, and fractions of the few logical CPUs that a test's Ray has."""
    return ModelConfig(model=f"local:{folder / family}", threads=1, num_cpus=0.2, num_gpus=gpus)


def run_config(folder: Path, name: str, targets: dict[str, ModelConfig], **settings: Any) -> RunConfig:
    """A run file over `build_models`: an edit of a second or two that learns the three facts."""
    values: dict[str, Any] = {
        "name": name,
        "knowledge": {"path": folder / "edits.jsonl"},
        # In bfloat16 a batch is rounded in another way than a row alone, and tests compare the two.
        "plugin": model(folder, PLUGIN).model_dump() | {"dtype": "float32"},
        "targets": {name: target.model_dump() for name, target in targets.items()},
        "editing": {"learning_rate": 3e-3, "batch_size": 8, "max_epochs": 30, "unrelated_per_epoch": 16},
    }
    # Beside tests that fill both cores, a trainer that gives way to everything else would hardly get on.
    values["living"] = {"niceness": 0} | settings.pop("living", {})
    return parse_config(values | settings, "test")
