"""A grid over small random models: edits of one token, methods that learn them in a second, and files beside them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from onceedit_ray.comparison.grid_config import GridConfig
from onceedit_ray.config import parse_as
from tests.families import SENTENCES, build_family
from tests.small_edits import EDITS, UNRELATED

FT_L = {"label": "FT-L", "method": "ft-l", "settings": {"steps": 3}}
GRACE = {"label": "GRACE", "method": "grace", "settings": {"steps": 30}}
ONCEEDIT = {"label": "OnceEdit", "method": "onceedit"}


def write_files(folder: Path, families: Sequence[str]) -> None:
    """Models of the families, `edits.jsonl`, `training.jsonl` and `texts.txt`, all in `folder`."""
    for seed, family in enumerate(families):
        build_family(family, folder / family, seed=seed)
    probe = {"prompt": "The longest river is the", "answer": "Nile"}
    rows = [
        {
            "prompt": edit.prompt,
            "target_new": edit.target_new,
            "rephrasings": [f"Say: {edit.prompt}"],
            "locality": [probe],
        }
        for edit in EDITS
    ]
    (folder / "edits.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    training = [{"prompt": text, "target_new": "Rome", "locality": [probe]} for text in UNRELATED]
    (folder / "training.jsonl").write_text("".join(json.dumps(row) + "\n" for row in training), encoding="utf-8")
    (folder / "texts.txt").write_text("\n".join(SENTENCES) + "\n", encoding="utf-8")


def values(folder: Path, families: Sequence[str], methods: Sequence[dict[str, Any]], **changes: Any) -> dict[str, Any]:
    """The settings of such a grid, as a file would hold them."""
    on = {"threads": 1, "num_cpus": 0.5}
    return {
        "name": "small",
        "table": {"number": 1, "score": True, "frequency": True},
        "datasets": {
            "zsre": {
                "path": str(folder / "edits.jsonl"),
                "training": str(folder / "training.jsonl"),
                "unrelated": [str(folder / "texts.txt")],
            }
        },
        "plugin": {"model": f"local:{folder / 'llama'}", **on},
        "targets": {name: {"model": f"local:{folder / name}", **on} for name in families},
        "rows": list(methods),
        "editing": {"learning_rate": 3e-3, "max_epochs": 2, "min_epochs": 1, "unrelated_per_epoch": 8},
        "corpus": [str(folder / "texts.txt")],
        "evaluation": {"general_limit": 2, "drift_limit": 2, "drift_tokens": 4},
    } | changes


def grid(folder: Path, families: Sequence[str], methods: Sequence[dict[str, Any]], **changes: Any) -> GridConfig:
    """The same, checked."""
    return parse_as(GridConfig, values(folder, families, methods, **changes), "test")
