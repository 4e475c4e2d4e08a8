"""The knowledge store: whole versions or none, whatever goes wrong while one is written."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from pyarrow import fs
from safetensors.torch import load_file, save_file
from tests.paths import ROOT

from onceedit_ray.errors import StoreError
from onceedit_ray.knowledge.edit import Edit, Probe
from onceedit_ray.knowledge.manifest import Manifest
from onceedit_ray.knowledge.selection import data_hash
from onceedit_ray.knowledge.staging import staging_name
from onceedit_ray.knowledge.store import KnowledgeStore

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
    save_file({"w": torch.arange(4.0)}, folder / "model.safetensors")
    (folder / "tokenizer").mkdir()
    (folder / "tokenizer" / "vocab.txt").write_text("a\n")


def failing(error: BaseException) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        weights(folder)
        raise error

    return write


def names(root: Path) -> list[str]:
    return sorted(str(path.relative_to(root)) for path in root.rglob("*"))


@pytest.fixture
def store(tmp_path: Path) -> KnowledgeStore:
    return KnowledgeStore(tmp_path / "store")


@pytest.fixture
def held(store: KnowledgeStore) -> KnowledgeStore:
    """A store with one active version."""
    store.commit(manifest("one"), EDITS, weights)
    store.activate("one")
    return store


def one_line(error: pytest.ExceptionInfo[StoreError]) -> str:
    assert "\n" not in str(error.value)
    return str(error.value)


def test_an_empty_store(store: KnowledgeStore) -> None:
    assert store.versions() == []
    assert store.active() is None
    assert store.sweep() == []
    with pytest.raises(StoreError, match="no version 'one'; there are none yet"):
        store.get("one")


def test_a_version_comes_back_as_it_was_committed(store: KnowledgeStore, tmp_path: Path) -> None:
    made = store.commit(manifest("v1", parents=["v0"]), EDITS, weights)
    found = KnowledgeStore(str(tmp_path / "store")).get("v1")
    assert found == made
    assert found.path == tmp_path / "store" / "versions" / "v1" == found.download(tmp_path / "unused")
    assert found.edits() == EDITS
    assert torch.equal(load_file(found.path / "model.safetensors")["w"], torch.arange(4.0))
    assert set(found.manifest.files) == {"model.safetensors", "tokenizer/vocab.txt", "edits.parquet"}
    assert found.manifest.losses == [{"edit": 0.1 + 0.2, "gate": 1e-9}]
    assert names(tmp_path / "store" / "versions") == [
        "v1",
        "v1/edits.parquet",
        "v1/manifest.json",
        "v1/model.safetensors",
        "v1/tokenizer",
        "v1/tokenizer/vocab.txt",
    ]
    assert all(path.stat().st_mode & 0o222 == 0 for path in found.path.rglob("*") if path.is_file())


def test_versions_are_listed_by_age(store: KnowledgeStore) -> None:
    for id, day in (("b", 1), ("a", 2), ("c", 3)):
        store.commit(manifest(id, created=datetime(2026, 1, day, tzinfo=UTC)), EDITS, weights)
    assert [version.id for version in store.versions()] == ["b", "a", "c"]


def test_activation_moves_the_pointer_and_nothing_else(held: KnowledgeStore, tmp_path: Path) -> None:
    held.commit(manifest("two"), EDITS, weights)
    assert held.active_id() == "one"
    before = names(tmp_path / "store")
    assert held.activate("two").id == "two"
    active = held.active()
    assert active is not None and active.id == "two"
    assert names(tmp_path / "store") == before
    with pytest.raises(StoreError, match="no version 'tow'; did you mean 'two'"):
        held.activate("tow")
    assert held.active_id() == "two"


@pytest.mark.parametrize("id", ["../one", "", ".hidden", "a/b", "-x", "a\n"])
def test_ids_cannot_leave_the_store(held: KnowledgeStore, id: str) -> None:
    with pytest.raises(ValueError):
        manifest(id)
    with pytest.raises(StoreError, match="no version"):
        held.get(id)


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        OSError(errno.EDQUOT, "Disk quota exceeded"),
        RuntimeError("Error while serializing: I/O error: No space left on device (os error 28)"),  # safetensors' words
    ],
)
def test_disk_full_is_one_line_and_leaves_nothing(held: KnowledgeStore, tmp_path: Path, error: Exception) -> None:
    before = names(tmp_path)
    with pytest.raises(StoreError, match="disk is full") as caught:
        held.commit(manifest("two"), EDITS, failing(error))
    assert "'two'" in one_line(caught)
    assert names(tmp_path) == before
    assert held.active() == held.get("one")


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(1), ZeroDivisionError()])
def test_interruption_comes_through_and_leaves_nothing(
    held: KnowledgeStore, tmp_path: Path, error: BaseException
) -> None:
    before = names(tmp_path)
    with pytest.raises(type(error)):
        held.commit(manifest("two"), EDITS, failing(error))
    assert names(tmp_path) == before
    held.commit(manifest("two"), EDITS, weights)


def test_failing_rename_leaves_nothing(held: KnowledgeStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = names(tmp_path)

    def refuse(path: Path) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr("onceedit_ray.knowledge.store.sync_tree", refuse)
    with pytest.raises(StoreError, match="Input/output error"):
        held.commit(manifest("two"), EDITS, weights)
    assert names(tmp_path) == before


def test_a_taken_id_is_refused_before_anything_is_written(held: KnowledgeStore, tmp_path: Path) -> None:
    before = names(tmp_path)
    with pytest.raises(StoreError, match="exists already"):
        held.commit(manifest("one"), EDITS, failing(AssertionError("was asked to write")))
    assert names(tmp_path) == before


def test_of_two_commits_of_one_id_one_wins(held: KnowledgeStore, tmp_path: Path) -> None:
    def overtaken(folder: Path) -> None:
        weights(folder)
        # What another process would do meanwhile.
        os.rename(tmp_path / "store" / "versions" / "one", tmp_path / "store" / "versions" / "two")

    with pytest.raises(StoreError, match="'two' exists already"):
        held.commit(manifest("two"), EDITS, overtaken)
    assert not [name for name in names(tmp_path) if "staging" in name]


def test_two_threads_cannot_commit_one_id_at_once(held: KnowledgeStore) -> None:
    refused: list[str] = []

    def second() -> None:
        with pytest.raises(StoreError) as caught:
            held.commit(manifest("two"), EDITS, weights)
        refused.append(one_line(caught))

    def first(folder: Path) -> None:
        thread = threading.Thread(target=second)
        thread.start()
        thread.join()
        weights(folder)

    held.commit(manifest("two"), EDITS, first)
    assert "being committed already" in refused[0]
    assert held.get("two").edits() == EDITS


def test_the_manifest_must_tell_of_these_edits(store: KnowledgeStore, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="its manifest tells of 2 edits"):
        store.commit(manifest("v"), EDITS[:1], weights)
    with pytest.raises(StoreError, match="with hash"):
        store.commit(manifest("v"), EDITS[::-1], weights)
    assert names(tmp_path) == []


def test_weights_must_be_safetensors(store: KnowledgeStore) -> None:
    with pytest.raises(StoreError, match=r"no \.safetensors file"):
        store.commit(manifest("v"), EDITS, lambda folder: None)
    assert store.versions() == []


def test_a_diverged_edit_is_refused(store: KnowledgeStore) -> None:
    with pytest.raises(StoreError, match="not finite"):
        store.commit(manifest("v", losses=[{"edit": float("nan")}]), EDITS, weights)
    with pytest.raises(StoreError, match="not finite"):
        store.commit(manifest("v", gate={"raw": {"mean": float("inf")}}), EDITS, weights)
    assert store.versions() == []


def rewrite(path: Path, source: bytes) -> None:
    path.chmod(0o644)
    path.write_bytes(source)


@pytest.mark.parametrize("name", ["model.safetensors", "edits.parquet", "tokenizer/vocab.txt"])
def test_altered_cut_and_missing_files_are_found(held: KnowledgeStore, name: str) -> None:
    path = held.get("one").path / name
    whole = path.read_bytes()
    rewrite(path, whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(StoreError, match=f"{name}: was altered"):
        held.get("one")
    held.get("one", verify=False)
    rewrite(path, whole[:-1])
    with pytest.raises(StoreError, match=f"{name}: has {len(whole) - 1} bytes instead of {len(whole)}"):
        held.get("one", verify=False)
    path.unlink()
    with pytest.raises(StoreError, match=f"{name}: is missing") as caught:
        held.active(verify=False)
    assert "restore" in one_line(caught)


def test_added_files_are_found(held: KnowledgeStore) -> None:
    (held.get("one").path / "adapter.safetensors").write_bytes(b"x")
    with pytest.raises(StoreError, match=r"adapter\.safetensors: is no part of the version"):
        held.get("one")


def test_altered_and_cut_manifests_are_found(held: KnowledgeStore) -> None:
    path = held.get("one").path / "manifest.json"
    whole = path.read_bytes()
    content = json.loads(whole)
    for source, expected in [
        (whole.replace(b'"seed": 1', b'"seed": 2'), "altered after it was written"),
        (json.dumps(content | {"more": 1}).encode(), "altered after it was written"),
        (whole[:-30], "not a whole manifest"),
        (whole.replace(b'"seed": 1', b'"seed": NaN'), "not a whole manifest"),
        (b"[]", "not a whole manifest"),
        (b"\xff", "not a whole manifest"),
        (b"", "not a whole manifest"),
    ]:
        rewrite(path, source)
        with pytest.raises(StoreError, match=expected) as caught:
            held.get("one")
        assert "manifest.json" in one_line(caught)
    path.unlink()
    with pytest.raises(StoreError, match=r"manifest\.json: is missing"):
        held.versions()


def test_a_renamed_version_and_a_dangling_pointer_are_found(held: KnowledgeStore, tmp_path: Path) -> None:
    os.rename(tmp_path / "store" / "versions" / "one", tmp_path / "store" / "versions" / "uno")
    with pytest.raises(StoreError, match="belongs to version 'one'"):
        held.get("uno")
    with pytest.raises(StoreError, match="active: names version 'one', which is not there") as caught:
        held.active()
    one_line(caught)


def test_a_root_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "store").write_text("x")
    store = KnowledgeStore(tmp_path / "store")
    with pytest.raises(StoreError) as caught:
        store.commit(manifest("v"), EDITS, weights)
    assert "untouched" in one_line(caught)
    assert (tmp_path / "store").read_text() == "x"


def test_an_unknown_filesystem() -> None:
    with pytest.raises(StoreError, match="opening the store failed"):
        KnowledgeStore("nowhere://bucket/store")


def test_sweep_spares_the_living(held: KnowledgeStore, tmp_path: Path) -> None:
    versions = tmp_path / "store" / "versions"
    host = staging_name("x").partition("@")[2]
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    stale = [f".staging-a-b-{ended.pid}@{host}", staging_name("left-by-an-earlier-process-with-our-id")]
    spared = [f".staging-a-{os.getppid()}@{host}", f".staging-a-{ended.pid}@elsewhere", ".staging-odd"]
    for name in stale + spared:
        (versions / name).mkdir()
        (versions / name / "half").write_text("x")
    pointer = f".staging-active-{ended.pid}@{host}"
    (tmp_path / "store" / pointer).write_text("one")

    def commit_meanwhile(folder: Path) -> None:
        assert held.sweep() == []  # the version that is being written stays
        weights(folder)

    assert held.sweep() == sorted([*stale, pointer])
    held.commit(manifest("two"), EDITS, commit_meanwhile)
    assert sorted(path.name for path in versions.iterdir()) == sorted([*spared, "one", "two"])
    assert [version.id for version in held.versions()] == ["one", "two"]


def test_a_killed_commit_is_invisible_and_swept_by_the_next(held: KnowledgeStore, tmp_path: Path) -> None:
    script = """
import sys, time
from pathlib import Path
from tests.unit.test_store import EDITS, manifest, weights
from onceedit_ray.knowledge.store import KnowledgeStore
def write(folder):
    weights(folder)
    print("writing", flush=True)
    time.sleep(60)
KnowledgeStore(Path(sys.argv[1])).commit(manifest("two"), EDITS, write)
"""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", script, str(tmp_path / "store")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment, cwd=ROOT) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "writing\n"
        assert held.sweep() == []
        process.send_signal(signal.SIGKILL)
    assert [version.id for version in held.versions()] == ["one"]
    assert [name for name in names(tmp_path) if "staging" in name]
    held.commit(manifest("two"), EDITS, weights)
    assert not [name for name in names(tmp_path) if "staging" in name]


def subtree(tmp_path: Path) -> fs.FileSystem:
    (tmp_path / "remote").mkdir()
    return fs.SubTreeFileSystem(str(tmp_path / "remote"), fs.LocalFileSystem())


def in_memory(tmp_path: Path) -> fs.FileSystem:
    return fs.FileSystem.from_uri("mock:///")[0]


@pytest.mark.parametrize("filesystem_of", [subtree, in_memory])
def test_other_filesystems(tmp_path: Path, filesystem_of: Callable[[Path], fs.FileSystem]) -> None:
    filesystem = filesystem_of(tmp_path)
    store = KnowledgeStore("team/store", filesystem=filesystem)

    def listing() -> list[str]:
        return sorted(info.path for info in filesystem.get_file_info(fs.FileSelector("team", recursive=True)))

    version = store.commit(manifest("one"), EDITS, weights)
    store.activate("one")
    assert store.active() == version == store.get("one")
    assert version.edits() == EDITS
    before = listing()
    assert [path for path in before if "staging" in path] == []
    for error in (KeyboardInterrupt(), OSError(errno.ENOSPC, "No space left on device")):
        with pytest.raises((KeyboardInterrupt, StoreError)):
            store.commit(manifest("two"), EDITS, failing(error))
        assert listing() == before
    with pytest.raises(StoreError, match="exists already"):
        store.commit(manifest("one"), EDITS, weights)

    copy = version.download(tmp_path / "cache")
    assert copy == version.download(tmp_path / "cache") == tmp_path / "cache" / "one"
    assert load_file(copy / "model.safetensors")["w"].tolist() == [0, 1, 2, 3]
    assert pq.read_table(copy / "edits.parquet").num_rows == 2
    assert [path.name for path in (tmp_path / "cache").iterdir()] == ["one"]
    (copy / "model.safetensors").write_bytes(b"x")
    with pytest.raises(StoreError, match=r"model\.safetensors: has 1 bytes"):
        version.download(tmp_path / "cache")
