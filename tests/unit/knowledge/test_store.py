"""The knowledge store: committed versions can be read, and every altered file is detected."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from pyarrow import fs
from safetensors.numpy import load_file

from onceedit_ray.errors import StoreError
from onceedit_ray.knowledge.store import KnowledgeStore
from tests.small_versions import EDITS, failing, manifest, names, one_line, weights


@pytest.fixture
def store(tmp_path: Path) -> KnowledgeStore:
    return KnowledgeStore(tmp_path / "store")


@pytest.fixture
def held(store: KnowledgeStore) -> KnowledgeStore:
    """A store with one active version."""
    store.commit(manifest("one"), EDITS, weights)
    store.activate("one")
    return store


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
    assert load_file(found.path / "model.safetensors")["w"].tolist() == [0, 1, 2, 3]
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


def test_each_line_of_versions_has_a_last_active_one(held: KnowledgeStore) -> None:
    """Two run files share a store: what is activated in the line of one leaves the other's alone."""
    for id in ("other", "one-edited", "unused"):
        held.commit(manifest(id), EDITS, weights)
    held.activate("other")
    held.activate("one-edited", line="one")
    assert held.line_of("one-edited") == "one" and held.line_of("unused") == "unused"
    assert held.latest(held.get("one")).id == "one-edited"
    assert held.latest(held.get("other")).id == "other"
    assert held.latest(held.get("unused")).id == "unused"
    held.activate("one", line="one")
    assert held.latest(held.get("one")).id == "one"


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
    assert names(tmp_path / "store") == sorted([*before, "lines/two"])
    with pytest.raises(StoreError, match="no version 'tow'; did you mean 'two'"):
        held.activate("tow")
    assert held.active_id() == "two"


@pytest.mark.parametrize("id", ["../one", "", ".hidden", "a/b", "-x", "a\n"])
def test_ids_cannot_leave_the_store(held: KnowledgeStore, id: str) -> None:
    with pytest.raises(ValueError):
        manifest(id)
    with pytest.raises(StoreError, match="no version"):
        held.get(id)


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


def test_an_unknown_filesystem() -> None:
    with pytest.raises(StoreError, match="opening the store failed"):
        KnowledgeStore("nowhere://bucket/store")


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
