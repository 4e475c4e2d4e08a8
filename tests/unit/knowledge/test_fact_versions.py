"""Revisions of the fact store as versions: named, listed, activated, and active as soon as they are committed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from pyarrow import fs

from onceedit_ray.errors import StoreError
from onceedit_ray.knowledge.edit import Edit
from onceedit_ray.knowledge.store import KnowledgeStore
from tests.paths import ROOT
from tests.small_versions import EDITS, manifest, names, weights

NEW = Edit(prompt="V?", target_new="W")


@pytest.fixture
def store(tmp_path: Path) -> KnowledgeStore:
    """A store with a version for a reader, taken up by the fact store."""
    store = KnowledgeStore(tmp_path / "store")
    store.commit(manifest("one", settings={"editor": "reader", "reader": "r"}), EDITS, lambda folder: None)
    with store.facts() as facts:
        store.take_up(store.get("one"), facts)
    return store


def test_a_revision_is_a_version_and_active_when_it_is_committed(store: KnowledgeStore, tmp_path: Path) -> None:
    assert store.active_id() == "one"
    before = names(tmp_path / "store" / "versions")
    with store.facts() as facts:
        facts.add([NEW], report={"learnt": 1.0})
        assert store.active_id() == "one.r2"
    version = KnowledgeStore(tmp_path / "store").active()
    assert version is not None and version == store.get("one.r2")
    assert version.edits() == [*EDITS, NEW] and version.manifest.edits == 3
    assert version.path == store.get("one").path, "which names the reader"
    assert (version.manifest.parents, version.manifest.report) == (["one"], {"learnt": 1.0})
    assert [each.id for each in store.versions()] == ["one", "one.r2"]
    assert [each.id for each in store.versions(revisions=0)] == ["one"]
    assert names(tmp_path / "store" / "versions") == before, "an edit writes no files but the store's"
    with pytest.raises(StoreError, match=r"no version 'one\.r3'; did you mean"):
        store.get("one.r3")


def test_going_back_to_a_revision_and_to_a_folder(store: KnowledgeStore) -> None:
    store.commit(manifest("trained"), EDITS, weights)
    with store.facts() as facts:
        facts.add([NEW])
        facts.remove([facts.live()[0].id])
    assert store.active_id() == "one.r3"
    assert store.activate("one.r2").edits() == [*EDITS, NEW] and store.active_id() == "one.r2"
    assert store.activate("trained").id == "trained" == store.active_id()
    assert store.activate("one.r3").id == "one.r3" == store.active_id(), "the newest one is not restored again"
    assert store.activate("one").path.name == "one" and store.active_id() == "one"
    assert [edit.prompt for edit in store.get("one.r3").edits()] == ["S is", "V?"]


def test_a_version_can_be_sent_where_the_store_is_not(store: KnowledgeStore, tmp_path: Path) -> None:
    with store.facts() as facts:
        facts.add([NEW])
        ids = [stored.id for stored in facts.live()]
    version = store.get("one.r2").load()
    (tmp_path / "store" / "facts.db").unlink()
    assert [stored.id for stored in version.stored()] == ids and version.edits() == [*EDITS, NEW]
    folder = store.get("one")
    assert folder.load() is folder and [stored.id for stored in folder.stored()] == [edit.prompt for edit in EDITS]


def test_without_the_folder_that_names_the_reader_a_revision_says_so(store: KnowledgeStore) -> None:
    with store.facts() as facts:
        facts.add([NEW])
    store.get("one").path.rename(Path(store.root) / "elsewhere")
    with pytest.raises(StoreError, match="no version 'one'"):
        store.active()


def test_facts_need_a_local_disk(tmp_path: Path) -> None:
    remote = KnowledgeStore(str(tmp_path), fs.SubTreeFileSystem(str(tmp_path), fs.LocalFileSystem()))
    with pytest.raises(StoreError, match="set ONCEEDIT_HOME to a folder of one"):
        remote.facts()


WRITER = """
import sys
from pathlib import Path
from onceedit_ray.knowledge.edit import Edit
from onceedit_ray.knowledge.store import KnowledgeStore
store = KnowledgeStore(Path(sys.argv[1]))
facts = store.facts()
for number in range(100000):
    change = facts.add([Edit(prompt=f"{number}?", target_new="x")])
    store.follow_facts()
    print(change.revision, flush=True)
"""


def test_a_killed_writer_leaves_what_it_answered_active(store: KnowledgeStore) -> None:
    child = subprocess.Popen([sys.executable, "-c", WRITER, store.root], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    told = [int(child.stdout.readline()) for _ in range(5)]
    child.kill()
    told += [int(line) for line in child.stdout.read().split()]
    child.wait()
    version = store.active()
    assert version is not None
    # At most the one edit that was under way was committed and not answered.
    assert told[-1] <= version.revision <= told[-1] + 1
    assert len(version.edits()) == version.manifest.edits == version.revision + 1
