"""Files and folders that appear whole or not at all: written beside their place, forced to the disk, then renamed.

What is being written carries the process and the host that write it in its name, so that what a killed process leaves
behind can be told from what a living one is still writing. Knows nothing about what is written.
"""

from __future__ import annotations

import contextlib
import glob
import os
import re
import shutil
import socket
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from onceedit_ray.errors import StoreError

_NAME = re.compile(r"\.staging-(?P<id>.+)-(?P<pid>\d+)@(?P<host>.+)")
_ABANDONED_AFTER = 86_400.0
"""Seconds after which what another host began to write counts as left behind; writing takes minutes at most."""

# Names that this process is writing now: a name with our process id but not in here was left by an earlier process
# that had the same id, as happens in every restarted container.
_in_progress: set[str] = set()
_lock = threading.Lock()


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path beside `path`, moved onto it when the block ends well and removed otherwise.

    A reader sees the old file or the new one, never a part. What killed processes left of `path` is removed too.
    Raises `StoreError` where the disk refuses.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        remove_leftovers(path.parent, path.name)
        with _private(path) as temporary:
            yield temporary
            put_in_place(temporary, path)
    except OSError as error:
        cause = error.strerror or error
        raise StoreError(f"cannot write {path}: {cause}; free space or choose another folder") from error


@contextmanager
def new_folder(path: Path, is_whole: Callable[[Path], bool] = Path.is_dir) -> Iterator[Path]:
    """An empty folder beside `path`, moved there when the block ends well and removed otherwise.

    A folder that is there by then, made by another process, stays if it `is_whole` and is replaced if it is not. What
    killed processes left of `path` is removed too. Raises `OSError` where the disk refuses.
    """
    with scratch_folder(path.parent, path.name) as folder:
        yield folder
        try:
            put_in_place(folder, path)
        except OSError:
            if is_whole(path):
                return
            with _private(path) as damaged:
                os.rename(path, damaged)
                put_in_place(folder, path)


@contextmanager
def scratch_folder(parent: Path, id: str) -> Iterator[Path]:
    """An empty folder in `parent` that is removed in the end, and what killed processes left of the same `id` as well.

    Raises `OSError` where the disk refuses.
    """
    parent.mkdir(parents=True, exist_ok=True)
    remove_leftovers(parent, id)
    with _private(parent / id) as folder:
        folder.mkdir()
        yield folder


def put_in_place(source: Path, target: Path) -> None:
    """Rename a file or folder, on the disk as a whole before it has its new name; raises `OSError`."""
    for path in [*source.rglob("*"), source] if source.is_dir() else [source]:
        sync(path)
    os.replace(source, target)
    sync(target.parent)


def remove_leftovers(folder: Path, id: str = "") -> None:
    """Remove what killed processes left in `folder`; where an `id` is given, what they left of this one only."""
    with contextlib.suppress(OSError):
        for path in folder.glob(f".staging-{glob.escape(id)}*" if id else ".staging-*"):
            if is_stale(path.name) or _is_old(path):
                _discard(path)


def staging_name(id: str) -> str:
    """`.staging-<id>-<process id>@<host>`."""
    return f".staging-{id}-{os.getpid()}@{socket.gethostname()}"


@contextmanager
def in_progress(name: str) -> Iterator[bool]:
    """Marks a staging name as being written by this process; yields False if another thread has it already."""
    with _lock:
        is_ours = name not in _in_progress
        _in_progress.add(name)
    try:
        yield is_ours
    finally:
        if is_ours:
            with _lock:
                _in_progress.discard(name)


def is_stale(name: str) -> bool:
    """Whether `name` is a staging name whose writer, a process of this host, is no more.

    Nothing can be known of other hosts' processes, so their folders are never stale here.
    """
    match = _NAME.fullmatch(name)
    if match is None or match["host"] != socket.gethostname():
        return False
    process = int(match["pid"])
    if process == os.getpid():
        with _lock:
            return name not in _in_progress
    return not _is_alive(process)


def sync_tree(folder: Path) -> None:
    """Force every file and folder under `folder`, and itself, to the disk; files lose their write permission."""
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            sync(path)
            path.chmod(path.stat().st_mode & ~0o222)
        elif path.is_dir():
            sync(path)
    sync(folder)


def sync(path: Path) -> None:
    """Force a file's content, or a folder's own entries (names made, moved and removed in it), to the disk."""
    if sys.platform == "win32" and path.is_dir():  # which has no way to open a folder
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def _private(path: Path) -> Iterator[Path]:
    """A staging path beside `path` that no other thread or process has; whatever lies there at the end is removed."""
    # The random part keeps two threads that write the same file apart.
    name = staging_name(f"{path.name}-{uuid.uuid4().hex[:8]}")
    with in_progress(name):
        try:
            yield path.with_name(name)
        finally:
            _discard(path.with_name(name))


def _discard(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
        return
    with contextlib.suppress(OSError):
        path.unlink(missing_ok=True)


def _is_old(path: Path) -> bool:
    with contextlib.suppress(OSError):  # another process may be removing it too
        return _NAME.fullmatch(path.name) is not None and time.time() - path.stat().st_mtime > _ABANDONED_AFTER
    return False


def _is_alive(process: int) -> bool:
    if sys.platform == "win32":  # where signal 0 would end the process
        return True
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True
