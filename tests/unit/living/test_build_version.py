"""Versions built for a served plug-in, on a small model: learning, judging, refusing, and exact forgetting."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from onceedit_ray.config import RunConfig
from onceedit_ray.editing.run import recipe_of
from onceedit_ray.fusion.system import open_screen
from onceedit_ray.home import onceedit_home
from onceedit_ray.knowledge.edit import Edit
from onceedit_ray.knowledge.run_data import selected_edits
from onceedit_ray.knowledge.store import KnowledgeStore
from onceedit_ray.living import build_version as module
from onceedit_ray.living.build_version import BuiltVersion, build_version
from tests.ray.small_fleet import build_models, run_config

WEIGHTS = "model.safetensors"
LOOSE = {"learnt": 0.9, "kept": 0.9, "locality": 0.0, "false_alarms": 1.0, "near_misses": 1.0, "general_limit": 8}
"""The gate of a random model of two layers separates little; what it learns it says."""


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> RunConfig:
    folder = tmp_path_factory.mktemp("making")
    build_models(folder, [])
    return run_config(folder, "living", {"unused": module.ModelConfig(model="no/such-model")}, living=LOOSE)


@pytest.fixture(scope="module")
def edits(config: RunConfig) -> list[Edit]:
    return selected_edits(config.knowledge)


@pytest.fixture
def store(tmp_path: Path) -> KnowledgeStore:
    return KnowledgeStore(tmp_path / "store")


def with_bounds(config: RunConfig, **bounds: Any) -> RunConfig:
    return config.model_copy(update={"living": config.living.model_copy(update=bounds)})


def weights_of(store: KnowledgeStore, made: BuiltVersion) -> str:
    assert made.reason is None, made.reason
    return store.get(made.version).manifest.files[WEIGHTS].sha256


def test_a_version_says_for_what_it_was_accepted(config: RunConfig, edits: list[Edit], store: KnowledgeStore) -> None:
    told: list[tuple[str, float]] = []
    made = build_version(config, store, edits[:2], None, edits[:2], lambda step, share: told.append((step, share)))
    assert made.reason is None
    assert made.report["learnt"] >= 0.9 and made.report["kept"] is None
    assert (made.report["new_edits"], made.report["old_edits"], made.report["general_prompts"]) == (2, 0, 8)
    assert made.report["bounds"] == {name: bound for name, bound in LOOSE.items() if name != "general_limit"}
    assert all(0.0 <= made.report[f"{kind}_open"] <= 1.0 for kind in ("near_misses", "tasks"))
    version = store.get(made.version)
    assert version.manifest.report == made.report and version.manifest.parents == [] and version.edits() == edits[:2]
    steps = [step for step, _ in told]
    assert steps == sorted(steps, reverse=True) and told[0] == ("training", 0.0) and told[-1] == ("evaluating", 1.0)
    assert list((onceedit_home() / "drafts").iterdir()) == []


def test_a_refused_version_leaves_a_report_and_no_weights(
    config: RunConfig, edits: list[Edit], store: KnowledgeStore
) -> None:
    short = config.model_copy(update={"editing": config.editing.model_copy(update={"max_epochs": 1, "min_epochs": 1})})
    made = build_version(with_bounds(short, learnt=1.0), store, edits, None, edits)
    assert made.reason is not None and made.reason.startswith("reliability of the new edits 0.")
    assert made.report["learnt"] < 1.0
    assert store.versions() == [] and list((onceedit_home() / "drafts").iterdir()) == []


@pytest.mark.parametrize(
    ("bound", "value", "said"),
    [
        ("false_alarms", 0.0, "of unrelated prompts"),
        ("locality", 1.0, "locality"),
        ("near_misses", 0.25, "1.000 of other requests about a live subject"),
        ("near_misses", 0.25, "1.000 of tasks on a text"),
    ],
)
def test_each_bound_can_refuse(
    config: RunConfig, edits: list[Edit], store: KnowledgeStore, bound: str, value: float, said: str
) -> None:
    """An untrained gate opens for everything, and the plug-in's answers replace the target's own."""
    untrained = config.editing.model_copy(update={"weight_loss": 0.0, "max_epochs": 8})
    bare = config.model_copy(
        update={
            "editing": untrained,
            "fusion": config.fusion.model_copy(update={"threshold": 0.0, "screen": "none"}),
        }
    )
    made = build_version(with_bounds(bare, **{bound: value}), store, edits, None, edits)
    assert made.reason is not None and said in made.reason and store.versions() == []


def test_a_deleted_edit_leaves_the_version_that_never_knew_it(
    config: RunConfig, edits: list[Edit], tmp_path: Path
) -> None:
    store, elsewhere = KnowledgeStore(tmp_path / "a"), KnowledgeStore(tmp_path / "b")
    without, all_of_them = edits[:2], edits
    build_version(config, store, all_of_them, None, all_of_them)
    deleted = build_version(config, store, without, None, ())
    never = build_version(config, elsewhere, without, None, without)
    assert deleted.version == never.version and weights_of(store, deleted) == weights_of(elsewhere, never)


def test_going_on_learns_the_new_and_keeps_the_old(config: RunConfig, edits: list[Edit], store: KnowledgeStore) -> None:
    first = build_version(config, store, edits[:2], None, edits[:2])
    parent = store.get(first.version)
    second = build_version(config, store, edits, parent, edits[2:])
    assert second.reason is None and second.report["learnt"] >= 0.9 and second.report["kept"] >= 0.9
    assert (second.report["new_edits"], second.report["old_edits"]) == (1, 2)
    manifest = store.get(second.version).manifest
    assert manifest.parents == [first.version] and manifest.edits == 3
    assert second.version != recipe_of(config, edits).id, "another way, another version"
    other = recipe_of(with_bounds(config, rehearsal=5), edits, parent)
    assert other.id != second.version and other.new == (edits[2],) and other.known == tuple(edits[:2])


def test_a_version_made_before_is_neither_trained_nor_judged_again(
    config: RunConfig, edits: list[Edit], store: KnowledgeStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = build_version(config, store, edits[:1], None, edits[:1])
    monkeypatch.setattr(module, "train", None)
    monkeypatch.setattr(module, "open_decoder", None)
    assert build_version(config, store, edits[:1], None, edits[:1]) == made


def test_nothing_known_is_a_version_too(config: RunConfig, edits: list[Edit], store: KnowledgeStore) -> None:
    made = build_version(config, store, [], None, [])
    version = store.get(made.version)
    assert version.edits() == [] and (made.report["learnt"], made.report["kept"]) == (None, None)
    screen = open_screen(version.path, config.fusion)
    assert screen is not None and not screen.mentions(edits[0].prompt)
