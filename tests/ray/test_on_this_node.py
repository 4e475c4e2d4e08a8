"""A process with a home of its own fetches models and versions from the node of a Ray with another home."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import pytest

from onceedit_ray.cluster.on_this_node import SentVersion, have_reader, have_version, node_id, sent, version_here
from onceedit_ray.errors import ModelError, StoreError
from onceedit_ray.knowledge.store import open_store
from onceedit_ray.knowledge.version import Version
from onceedit_ray.reader.adapter import (
    FILES,
    MANIFEST,
    Adapter,
    ReaderManifest,
    find_adapter,
    keep_adapter,
    open_adapter,
)
from onceedit_ray.reader.plugin import write_pointer
from tests.small_versions import EDITS, manifest, weights

NO_NODE = "0" * 56


@pytest.fixture
def made(ray_session: None) -> Version:
    """A version in the store of the node."""
    return open_store().find("sent") or open_store().commit(manifest("sent"), EDITS, weights)


@pytest.fixture
def elsewhere(made: Version, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """This process has another home than the node."""
    monkeypatch.setenv("ONCEEDIT_HOME", str(tmp_path))
    return tmp_path


def test_a_version_is_fetched_by_its_id_from_the_node_that_is_named_or_from_any(made: Version, elsewhere: Path) -> None:
    found = have_version("sent", node_id())
    assert elsewhere in found.path.parents and found.manifest == made.manifest and found.edits() == EDITS
    with pytest.raises(StoreError, match=rf"^{elsewhere}/knowledge: has no version 'none', and no other node "):
        have_version("none", node_id())


def test_a_version_that_was_sent_is_taken_where_it_is_on_its_own_node(made: Version) -> None:
    assert version_here(sent(made)) == made and version_here(made.path) == made.path


def test_another_version_of_the_same_id_is_refused(made: Version, elsewhere: Path) -> None:
    """As if it had been trained on two machines, where rounding differs."""
    open_store().commit(manifest("sent"), EDITS, lambda folder: (folder / "x.safetensors").write_bytes(b"other"))
    with pytest.raises(StoreError, match=rf"^{elsewhere}/.*/sent holds another version 'sent' than the node that sent"):
        version_here(SentVersion(made, NO_NODE))


def test_a_reader_is_fetched_with_its_version(
    ray_session: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "reader"
    folder.mkdir()
    for name in FILES:
        (folder / name).write_text(f"the content of {name}")
    sums = {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in FILES}
    described = ReaderManifest(base_model="m", base_digest="d", files=sums)
    (folder / MANIFEST).write_text(described.model_dump_json())
    reader = open_adapter(folder)
    keep_adapter(reader)  # in the home of the node
    version = tmp_path / "version"
    version.mkdir()
    write_pointer(version, reader)
    monkeypatch.setenv("ONCEEDIT_HOME", str(tmp_path / "home"))
    have_reader(version, node_id())
    found = find_adapter(reader.digest)
    assert tmp_path / "home" in found.folder.parents and found.manifest == described
    other = replace(reader, manifest=described.model_copy(update={"files": {}}))
    assert isinstance(other, Adapter)
    write_pointer(version, other)
    with pytest.raises(ModelError, match=r"^the reader \w{12} of this version is not here; "):
        have_reader(version, node_id())
