"""Committing a version: it is complete or absent, whatever fails meanwhile."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from onceedit_ray.errors import StoreError
from onceedit_ray.files import staging_name
from onceedit_ray.knowledge.store import KnowledgeStore
from tests.paths import ROOT
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


def test_a_root_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "store").write_text("x")
    store = KnowledgeStore(tmp_path / "store")
    with pytest.raises(StoreError) as caught:
        store.commit(manifest("v"), EDITS, weights)
    assert "untouched" in one_line(caught)
    assert (tmp_path / "store").read_text() == "x"


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


def commit_until(ended_by: signal.Signals, root: Path, meanwhile: Callable[[], None]) -> None:
    """Another process commits version "two" and is ended by a signal while it writes the weights."""
    script = """
import signal, sys, time
from pathlib import Path
from tests.small_versions import EDITS, manifest, weights
from onceedit_ray.knowledge.store import KnowledgeStore
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell starts background jobs with it ignored
def write(folder):
    weights(folder)
    print("writing", flush=True)
    time.sleep(60)
KnowledgeStore(Path(sys.argv[1])).commit(manifest("two"), EDITS, write)
"""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", script, str(root)]
    pipe, quiet = subprocess.PIPE, subprocess.DEVNULL
    with subprocess.Popen(command, stdout=pipe, stderr=quiet, text=True, env=environment, cwd=ROOT) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "writing\n"
        meanwhile()
        process.send_signal(ended_by)


def test_a_killed_commit_is_invisible_and_swept_by_the_next(held: KnowledgeStore, tmp_path: Path) -> None:
    def look() -> None:
        assert [version.id for version in held.versions()] == ["one"]
        assert held.sweep() == []

    commit_until(signal.SIGKILL, tmp_path / "store", look)
    assert [version.id for version in held.versions()] == ["one"]
    assert [name for name in names(tmp_path) if "staging" in name]
    held.commit(manifest("two"), EDITS, weights)
    assert not [name for name in names(tmp_path) if "staging" in name]


def test_control_c_leaves_the_store_as_it_was(held: KnowledgeStore, tmp_path: Path) -> None:
    before = names(tmp_path)
    commit_until(signal.SIGINT, tmp_path / "store", lambda: None)
    assert names(tmp_path) == before
