"""A commit and an activation are killed at the lines that the store runs: whole or absent, and the next succeeds."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from onceedit_ray.errors import StoreError
from onceedit_ray.knowledge.store import KnowledgeStore
from tests.small_versions import EDITS, manifest, names, weights

WRITERS = ("store.py", "files.py", "location.py", "manifest.py")
"""The files whose lines are counted: everything that writes a version is called from them."""


def lines_of(work: Callable[[], object], killed_at: int = 0) -> int:
    """The number of lines that `work` runs in `WRITERS`; this process is killed before line `killed_at`."""
    count = 0

    def trace(frame: FrameType, event: str, argument: Any) -> Any:
        nonlocal count
        if os.path.basename(frame.f_code.co_filename) not in WRITERS:
            return None
        if event == "line":
            count += 1
            if count == killed_at:
                os.kill(os.getpid(), signal.SIGKILL)
        return trace

    sys.settrace(trace)
    try:
        work()
    finally:
        sys.settrace(None)
    return count


def killed(work: Callable[[], object], at: int) -> None:
    """Run `work` in a copy of this process that is killed before its line `at`."""
    process = os.fork()
    if process == 0:
        try:
            lines_of(work, at)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == -signal.SIGKILL


@pytest.fixture
def store(tmp_path: Path) -> KnowledgeStore:
    held = KnowledgeStore(tmp_path / "store")
    held.commit(manifest("one"), EDITS, weights)
    held.activate("one")
    return held


# The default run kills at every fifth line, `make test-exhaustive` at each.
each_or_some_lines = pytest.mark.parametrize("step", [5, pytest.param(1, marks=pytest.mark.exhaustive)])


@each_or_some_lines
def test_a_commit_killed_at_any_line_leaves_a_whole_version_or_none(
    store: KnowledgeStore, tmp_path: Path, step: int
) -> None:
    lines = lines_of(lambda: store.commit(manifest("counted"), EDITS, weights))
    shutil.rmtree(tmp_path / "store" / "versions" / "counted")
    assert lines > 60, "the lines that write are counted"
    seen = set()
    for at in [*range(1, lines, step), lines]:
        id = f"at-{at}"
        store.sweep()
        killed(lambda id=id: store.commit(manifest(id), EDITS, weights), at)  # type: ignore[misc]
        found = {version.id for version in store.versions()}
        seen.add(id in found)
        if id in found:
            assert store.get(id).edits() == EDITS, "verified by checksum"
        else:
            assert store.commit(manifest(id), EDITS, weights).id == id, "nothing that is left stands in the way"
        assert store.active() == store.get("one")
        shutil.rmtree(tmp_path / "store" / "versions" / id)  # a version more would be a line more
    assert seen == {True, False}
    store.sweep()
    assert not [name for name in names(tmp_path) if "staging" in name]


@each_or_some_lines
def test_an_activation_killed_at_any_line_leaves_the_old_or_the_new_version_active(
    store: KnowledgeStore, tmp_path: Path, step: int
) -> None:
    store.commit(manifest("two"), EDITS, weights)
    lines = lines_of(lambda: store.activate("two"))
    seen = set()
    for at in [*range(1, lines, step), lines]:
        store.activate("one")
        killed(lambda: store.activate("two"), at)
        seen.add(store.active_id())
        assert store.active() == store.get(str(store.active_id()))
    assert seen == {"one", "two"}
    store.sweep()
    assert not [name for name in names(tmp_path) if "staging" in name]


def as_nobody(root: Path) -> str:
    """The error of a commit by a user who may not write; root may write everywhere."""
    reading, writing = os.pipe()
    process = os.fork()
    if process == 0:
        try:
            if os.geteuid() == 0:
                os.setuid(65534)
            KnowledgeStore(root).commit(manifest("two"), EDITS, weights)
        except StoreError as error:
            os.write(writing, str(error).encode())
        finally:
            os._exit(0)
    os.close(writing)
    os.waitpid(process, 0)
    with os.fdopen(reading) as pipe:
        return pipe.read()


def test_a_disk_that_may_only_be_read_is_one_line_and_changes_nothing() -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "store"
        held = KnowledgeStore(root)
        held.commit(manifest("one"), EDITS, weights)
        os.chmod(folder, 0o755)
        before = names(root)
        for path in (root, root / "versions"):
            path.chmod(0o555)
        said = as_nobody(root)
        assert "'two' failed" in said and "can be reached and written" in said and "\n" not in said
        assert names(root) == before
        for path in (root, root / "versions"):
            path.chmod(0o755)


@pytest.mark.parametrize("call", ["fsync", "replace", "mkdir", "open", "chmod"])
def test_a_disk_that_fills_up_at_any_call_leaves_nothing(
    store: KnowledgeStore, tmp_path: Path, call: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each call of this name fails once, from the first to the last."""
    before, real = names(tmp_path), getattr(os, call)
    calls = 0
    fails_at = 0

    def full(*args: Any, **named: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == fails_at:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(*args, **named)

    monkeypatch.setattr(os, call, full)
    while True:
        calls, fails_at = 0, fails_at + 1
        try:
            store.commit(manifest(f"full-{fails_at}"), EDITS, weights)
        except StoreError as error:
            assert "the disk is full" in str(error) and "\n" not in str(error)
            monkeypatch.setattr(os, call, real)
            assert names(tmp_path) == before
            monkeypatch.setattr(os, call, full)
            continue
        break
    assert fails_at > 1 or call == "replace", "the call is made at least once"
