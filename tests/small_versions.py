"""A small version of the plug-in, for the tests of the knowledge store."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from onceedit_ray.errors import StoreError
from onceedit_ray.knowledge.edit import Edit, Probe
from onceedit_ray.knowledge.manifest import Manifest
from onceedit_ray.knowledge.selection import data_hash

EDITS = [
    Edit(prompt="Q?", target_new="A", locality=(Probe(prompt="R?", answer="B"),)),
    Edit(prompt="S is", target_new=" T", rephrasings=("U is",)),
]


def manifest(id: str, **changes: Any) -> Manifest:
    fields: dict[str, Any] = {
        "id": id,
        "base_model": "smol",
        "base_digest": "0" * 64,
        "editor": "onceedit",
        "settings": {"lr": 1e-4, "betas": (0.9, 0.999), "epochs_by_stage": {10: 1, 2: 3}},
        "seed": 1,
        "data_hash": data_hash(EDITS),
        "edits": len(EDITS),
        "losses": [{"edit": 0.1 + 0.2, "gate": 1e-9}],
        "gate": {"raw": {"edits": 1.0}},
        "seconds": 1.5,
    }
    return Manifest(**(fields | changes))


def weights(folder: Path) -> None:
    save_file({"w": np.arange(4.0)}, folder / "model.safetensors")
    (folder / "tokenizer").mkdir()
    (folder / "tokenizer" / "vocab.txt").write_text("a\n")


def failing(error: BaseException) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        weights(folder)
        raise error

    return write


def names(root: Path) -> list[str]:
    return sorted(str(path.relative_to(root)) for path in root.rglob("*"))


def one_line(error: pytest.ExceptionInfo[StoreError]) -> str:
    assert "\n" not in str(error.value)
    return str(error.value)
