"""From a run file to a version in the store: it is made once, found again, and never incomplete."""

from __future__ import annotations

import errno
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from onceedit_ray.config import RunConfig, parse_config
from onceedit_ray.editing import training
from onceedit_ray.editing.editors import Epoch, Outcome
from onceedit_ray.editing.run import edit_plugin, recipe_of
from onceedit_ray.errors import ConfigError, ConflictError, DataError, ModelError, StoreError
from onceedit_ray.home import onceedit_home
from onceedit_ray.knowledge.prompt_files import shipped_prompts
from onceedit_ray.knowledge.run_data import general_prompts, selected_edits, unrelated_prompts
from onceedit_ray.knowledge.selection import data_hash
from onceedit_ray.knowledge.store import KnowledgeStore, open_store
from onceedit_ray.models.assembly import open_codec
from onceedit_ray.models.sources import resolve
from onceedit_ray.progress import Count, Progress
from tests.families import build_family

EDITS = [
    {"prompt": "What is the capital of France?", "target_new": "Lyon", "subject": "France"},
    {"prompt": "The mother tongue of Antonio is", "target_new": "Polish", "rephrasings": ["What does Antonio speak?"]},
]
EDITING = {"max_epochs": 1, "min_epochs": 1, "unrelated_per_epoch": 4, "learning_rate": 1e-3, "precision": "float32"}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_family("llama", tmp_path_factory.mktemp("editing") / "llama", seed=7)


@pytest.fixture
def edits(tmp_path: Path) -> Path:
    return written(tmp_path / "edits.jsonl", EDITS)


@pytest.fixture
def store(tmp_path: Path) -> KnowledgeStore:
    return KnowledgeStore(tmp_path / "store")


def written(path: Path, edits: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(edit) + "\n" for edit in edits))
    return path


def config(base: Path, edits: Path, editing: dict[str, Any] | None = None, **changes: Any) -> RunConfig:
    values = {
        "name": "small",
        "knowledge": {"path": str(edits)},
        "plugin": {"model": f"local:{base}", "threads": 1},
        "targets": {"one": {"model": "no/such-model"}},
        "editing": EDITING | (editing or {}),
    }
    return parse_config(values | changes, "test")


def contents(folder: Path) -> dict[str, str]:
    """Every file under a folder, hidden ones too, and what it holds."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def silent(line: str) -> None:
    """A progress callback that does nothing."""


# --- the version -----------------------------------------------------------------------------------------------------


def test_a_version_is_committed_and_made_active(base: Path, edits: Path, store: KnowledgeStore) -> None:
    lines: list[str] = []
    version = edit_plugin(config(base, edits, {"seed": 5}), store, lines.append)
    assert store.active_id() == version.id
    assert version.id.startswith("small-")

    manifest = store.get(version.id).manifest
    assert manifest.base_digest == resolve(f"local:{base}").digest
    assert (manifest.editor, manifest.seed, manifest.edits) == ("onceedit", 5, 2)
    assert (manifest.settings["learning_rate"], manifest.settings["view"]) == (1e-3, "short")
    assert len(manifest.losses) == 1 and manifest.losses[0]["edit_loss"] > 0
    assert set(manifest.gate) == {"recall", "false_alarms", "complete"}
    assert version.edits() == selected_edits(config(base, edits).knowledge)
    assert manifest.data_hash == data_hash(version.edits())

    codec = open_codec(version.path)
    assert codec.weight_id is not None, "the version's own tokenizer has the gate's token"
    changed = load_file(version.path / "model.safetensors")["model.embed_tokens.weight"]
    before = load_file(base / "model.safetensors")["model.embed_tokens.weight"]
    assert len(changed) > codec.weight_id and not changed[: len(before)].equal(before)
    assert any(str(line).startswith("epochs of llama: 1/1, edit loss ") for line in lines)
    assert lines[-1].startswith(f"version {version.id}: ")


def test_the_same_run_file_makes_the_same_weights(base: Path, edits: Path, tmp_path: Path) -> None:
    versions = [edit_plugin(config(base, edits), KnowledgeStore(tmp_path / name), silent) for name in ("a", "b")]
    first, second = (version.manifest.files["model.safetensors"].sha256 for version in versions)
    assert first == second
    assert versions[0].id == versions[1].id


def test_a_version_made_before_is_used_again(
    base: Path, edits: Path, store: KnowledgeStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The version does not depend on targets, strategies and scores; it becomes the active one again."""
    version = edit_plugin(config(base, edits), store, silent)
    other = edit_plugin(config(base, edits, {"seed": 1}), store, silent)
    assert other.id != version.id and store.active_id() == other.id

    monkeypatch.setattr(training, "load_model", None)  # nothing is loaded, let alone trained
    changed = config(
        base, edits, targets={"two": {"model": "other/one"}}, fusion={"threshold": 0.9}, evaluation={"shape": "chat"}
    )
    lines: list[str] = []
    assert edit_plugin(changed, store, lines.append) == version
    assert store.active_id() == version.id
    assert len(store.versions()) == 2
    assert any("made before" in line for line in lines)


def test_a_version_is_found_again_when_its_files_have_moved(
    untrained: None, base: Path, edits: Path, store: KnowledgeStore, tmp_path: Path
) -> None:
    """The files must hold the same. The expected id was computed when they had other paths."""
    here, there = tmp_path / "here.txt", tmp_path / "there.jsonl"
    here.write_text("Who wrote Hamlet?\n", encoding="utf-8")
    version = edit_plugin(config(base, edits, {"unrelated": [here]}), store, silent)
    there.write_text('{"prompt": "Who wrote Hamlet?"}\n', encoding="utf-8")
    here.unlink()
    moved = config(base, edits, {"unrelated": [there]})
    assert recipe_of(moved, selected_edits(moved.knowledge)).id != version.id, "paths are part of an id, as ever"
    assert edit_plugin(moved, store, silent) == version
    there.write_text('{"prompt": "Who wrote Faust?"}\n', encoding="utf-8")
    assert edit_plugin(moved, store, silent).id != version.id
    assert edit_plugin(config(base, edits, {"unrelated": [there], "seed": 1}), store, silent).id != version.id


class Untrained:
    """An editor that changes nothing, for tests in which weights play no part."""

    def __init__(self, *args: object, context: int | None = None) -> None:
        pass

    def run(self, report: Callable[[Epoch], None]) -> Outcome:
        epoch = Epoch(1, 0.5, 0.5, learnt=0.5, recall=1.0, false_alarms=0.0, seconds=0.0)
        report(epoch)
        return Outcome([epoch], complete=False, seconds=0.0)


@pytest.fixture
def untrained(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training.EDITORS, "get", lambda name: Untrained)


def test_whatever_goes_into_a_version_makes_another(
    untrained: None, base: Path, edits: Path, tmp_path: Path, store: KnowledgeStore
) -> None:
    unrelated = tmp_path / "unrelated.txt"
    unrelated.write_text("how far is the moon?\n")
    configs = [
        config(base, edits),
        config(base, edits, {"learning_rate": 2e-3}),
        config(base, edits, {"unrelated": [str(unrelated)]}),
        config(base, edits, plugin={"model": f"local:{base}", "view": "question"}),
        config(base, edits, plugin={"model": f"local:{base}", "context": 200}),
        config(base, edits, name="other"),
        config(base, written(tmp_path / "fewer.jsonl", EDITS[:1])),
        config(base, written(tmp_path / "reordered.jsonl", EDITS[::-1])),
        config(build_family("llama", tmp_path / "base", seed=8), edits),
    ]
    ids = [edit_plugin(one, store, silent).id for one in configs]
    assert len(set(ids)) == len(configs) == len(store.versions())
    unrelated.write_text("how far is the sun?\n")
    assert edit_plugin(configs[2], store, silent).id not in ids, "what a file holds counts, not its name"


def test_what_was_not_learnt_is_said(untrained: None, base: Path, edits: Path, store: KnowledgeStore) -> None:
    lines: list[str] = []
    version = edit_plugin(config(base, edits), store, lines.append)
    assert "50% of the edits learnt after the last epoch" in lines[-1]
    assert version.manifest.gate["complete"] is False


# --- what goes wrong -------------------------------------------------------------------------------------------------


@pytest.fixture
def before(untrained: None, base: Path, edits: Path, store: KnowledgeStore) -> dict[str, str]:
    """What the store holds before something goes wrong: one version, active."""
    edit_plugin(config(base, edits), store, silent)
    return contents(Path(store.root))


def interrupt_at(prefix: str) -> Progress:
    def progress(update: str | Count) -> None:
        if str(update).startswith(prefix):
            raise KeyboardInterrupt

    return progress


@pytest.mark.parametrize("line", ["editing llama", "epochs of llama: 1"])
def test_ctrl_c_while_editing_leaves_the_store_whole(
    line: str, before: dict[str, str], base: Path, edits: Path, store: KnowledgeStore
) -> None:
    with pytest.raises(KeyboardInterrupt):
        edit_plugin(config(base, edits, {"seed": 1}), store, interrupt_at(line))
    assert contents(Path(store.root)) == before


def test_ctrl_c_in_the_middle_of_a_step_leaves_the_store_whole(
    before: dict[str, str], base: Path, edits: Path, store: KnowledgeStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()  # the real editor

    def interrupted(self: Tensor, *args: object, **kwargs: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Tensor, "backward", interrupted)
    with pytest.raises(KeyboardInterrupt):
        edit_plugin(config(base, edits, {"seed": 1}), store, silent)
    assert contents(Path(store.root)) == before


@pytest.mark.parametrize("saved", [PreTrainedModel, PreTrainedTokenizerBase])
def test_ctrl_c_while_committing_leaves_the_store_whole(
    saved: type, before: dict[str, str], base: Path, edits: Path, store: KnowledgeStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(self: object, folder: Path, **_: object) -> None:
        (Path(folder) / "half-written.json").write_text("{")
        raise KeyboardInterrupt

    monkeypatch.setattr(saved, "save_pretrained", interrupted)
    with pytest.raises(KeyboardInterrupt):
        edit_plugin(config(base, edits, {"seed": 1}), store, silent)
    assert contents(Path(store.root)) == before


def test_a_full_disk_is_one_line_and_costs_no_version(
    before: dict[str, str], base: Path, edits: Path, store: KnowledgeStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: object, folder: Path, **_: object) -> None:
        (Path(folder) / "model.safetensors").write_bytes(b"half of it")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(PreTrainedModel, "save_pretrained", full)
    with pytest.raises(StoreError, match="disk is full; free some space") as caught:
        edit_plugin(config(base, edits, {"seed": 1}), store, silent)
    assert "\n" not in str(caught.value) and "versions made before are untouched" in str(caught.value)
    assert contents(Path(store.root)) == before
    assert [store.active_id()] == [version.id for version in store.versions()]


def test_nothing_is_loaded_or_made_for_bad_input(
    base: Path, edits: Path, tmp_path: Path, store: KnowledgeStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "load_model", None)
    conflict = written(tmp_path / "conflict.jsonl", [*EDITS, {"prompt": EDITS[0]["prompt"], "target_new": "Nice"}])
    for bad, error in (
        (config(base, tmp_path / "missing.jsonl"), DataError),
        (config(base, conflict), ConflictError),
        (config(base, edits, {"unrelated": [str(tmp_path / "missing.txt")]}), DataError),
        (config(tmp_path / "nowhere", edits), ModelError),
    ):
        with pytest.raises(error) as caught:
            edit_plugin(bad, store, silent)
        assert "\n" not in str(caught.value)
    assert contents(Path(store.root)) == {}


@pytest.mark.parametrize("changes", [{"editing": EDITING | {"editor": "rome"}}, {"plugin": {"view": "short story"}}])
def test_an_unknown_name_is_refused_before_training(
    changes: dict[str, Any], base: Path, edits: Path, store: KnowledgeStore
) -> None:
    plugin = {"model": f"local:{base}", "threads": 1} | changes.get("plugin", {})
    with pytest.raises(ConfigError, match="known are"):
        edit_plugin(config(base, edits, changes.get("editing"), plugin=plugin), store, interrupt_at("epoch"))
    assert contents(Path(store.root)) == {}


def test_a_long_name_is_refused_before_training(base: Path, edits: Path) -> None:
    """A version is named after its run, and its name has a limit, which is checked before the work."""
    with pytest.raises(ConfigError, match="name"):
        config(base, edits, name="n" * 95)


# --- prompts and places ----------------------------------------------------------------------------------------------


def test_shipped_prompts_are_trained_on_or_scored_never_both() -> None:
    (trained,), scored = unrelated_prompts([]), general_prompts(None, 10_000)
    assert not set(trained) & set(scored)
    assert sorted(trained + scored) == sorted(shipped_prompts())
    assert len(trained) > 5 * len(scored) > 0


def test_files_are_origins_of_their_own(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("one\ntwo\n")
    (tmp_path / "b.txt").write_text("three\n")
    pools = unrelated_prompts([tmp_path / "a.txt", tmp_path / "b.txt"])
    assert pools[:2] == [["one", "two"], ["three"]] and len(pools) == 3
    assert general_prompts(tmp_path / "a.txt", 1) == ["one"]
    assert general_prompts(tmp_path / "a.txt", 0) == []


def test_the_store_is_in_the_home() -> None:
    assert Path(open_store().root) == onceedit_home() / "knowledge"
