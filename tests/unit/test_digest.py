"""Ids must not change, so that results kept under an id are found again. The literals were computed before `digest` was
one function, by the code that each caller had of its own."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

from pydantic import BaseModel

from onceedit_ray.baselines import Material
from onceedit_ray.baselines.mend_training import network_folder
from onceedit_ray.digest import digest
from onceedit_ray.editing.training import Recipe
from onceedit_ray.knowledge.edit import Edit
from onceedit_ray.knowledge.selection import data_hash


class Settings(BaseModel):
    """Settings of no real editor, so that a default that changes there changes nothing here."""

    editor: ClassVar[str] = "onceedit"
    rate: float = 1e-3
    layers: tuple[int, ...] = (2, 1)
    where: Path = Path("data/é.jsonl")
    checkpoint_every: int = 5


PLAIN = [1, "ft-l", {"b": [0.1, None, True], "a": "Zürich ∞"}, [["Où ?", "x"], []]]
EDITS = (Edit(prompt="Où est Zürich ?", target_new="là"),)


def test_plain_values() -> None:
    assert digest(PLAIN) == "fc70af01b8a1430e4b1895621b976e2059ed9753bc2cdad63c231a1d4dbe51cb"


def test_settings_and_paths() -> None:
    value = [Settings(), Path("a/é"), {"z": Settings(rate=2), "a": 1}]
    assert digest(value) == "9688d5c01c141ee68fb58f1da360db7e3d14c73cd1d50d3efd16c36999cfa709"


def test_the_id_of_a_version() -> None:
    parts: dict[str, Any] = {
        "plugin": SimpleNamespace(view="qa", context=None),
        "living": SimpleNamespace(rehearsal=0.5),
    }
    config: Any = SimpleNamespace(name="run", editing=Settings(), **parts)
    base: Any = SimpleNamespace(digest="0" * 64)
    parent: Any = SimpleNamespace(id="run-0123456789")
    unrelated = (("Où ?",), ["b"])
    assert Recipe(config, base, EDITS, unrelated).id == "run-32f17137c8"
    assert Recipe(config, base, EDITS, unrelated, parent).id == "run-bb93d868b1"


def test_data_and_networks_have_hashes_of_their_own() -> None:
    settings: Any = Settings()
    folder = network_folder(settings, Material((), EDITS, ("Où ?",), Path("cache"), "d"))
    assert folder == Path("cache/mend/e3aaa6b51c738c91f43d9cde")
    assert data_hash(EDITS) == "d51b7cc3273e7877cd175671e9bbf94e1163fcdfcad209e48f36131394de89d8"
