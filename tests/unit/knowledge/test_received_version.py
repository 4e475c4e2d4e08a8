"""A version that comes in pieces from another machine's store is taken in whole, or not at all."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from onceedit_ray.errors import StoreError
from onceedit_ray.knowledge import received_version
from onceedit_ray.knowledge.received_version import Piece, pieces_of, take_in
from onceedit_ray.knowledge.store import KnowledgeStore
from onceedit_ray.knowledge.version import Version
from tests.small_versions import EDITS, manifest, names, weights


@pytest.fixture
def made(tmp_path: Path) -> Version:
    return KnowledgeStore(tmp_path / "there").commit(manifest("v1"), EDITS, weights)


@pytest.fixture
def here(tmp_path: Path) -> KnowledgeStore:
    return KnowledgeStore(tmp_path / "here")


def test_it_arrives_as_it_was_made(made: Version, here: KnowledgeStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(received_version, "PIECE", 100)
    pieces = list(pieces_of(made))
    assert pieces[0][0] == "manifest.json" and max(len(content) for _, content in pieces) == 100
    found = take_in(here, "v1", pieces)
    assert found.manifest == made.manifest and found.edits() == EDITS
    assert names(found.path) == names(made.path)
    assert here.get("v1") == found, "its checksums are right"


def test_one_that_is_there_stays(made: Version, here: KnowledgeStore) -> None:
    first = take_in(here, "v1", pieces_of(made))
    stamp = first.path.stat().st_ino
    assert take_in(here, "v1", pieces_of(made)).path.stat().st_ino == stamp


def altered(made: Version) -> Iterator[Piece]:
    for name, content in pieces_of(made):
        yield name, content.replace(b"a", b"b") if name == "tokenizer/vocab.txt" else content


def cut(made: Version) -> Iterator[Piece]:
    yield from list(pieces_of(made))[:-1]


def lost(made: Version) -> Iterator[Piece]:
    yield next(pieces_of(made))
    raise ConnectionError("the node died")


@pytest.mark.parametrize("damaged", [altered, cut, lost])
def test_nothing_is_left_of_one_that_is_not_whole(damaged, made: Version, here: KnowledgeStore) -> None:
    with pytest.raises(StoreError) as caught:
        take_in(here, "v1", damaged(made))
    assert "\n" not in str(caught.value)
    assert names(Path(here.root) / "versions") == [] and here.find("v1") is None


def test_a_full_or_unwritable_disk_is_one_line(made: Version, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match=r"file/home/versions/v1: .* cannot be copied there \(Not a directory\)"):
        take_in(KnowledgeStore(tmp_path / "file" / "home"), "v1", pieces_of(made))
