"""Atomic writes of files and folders: written beside their final path, synchronised to the disk, then renamed.

A temporary name holds the process id and the host of its writer. So a file that a killed process left behind can be
told from a file that a running process is still writing. This module does not know what is written.
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
"""Seconds after which a temporary file of another host counts as left behind; a write takes minutes at most."""

# Names that this process is writing now: a name with our process id but not in here was left by an earlier process
# that had the same id, as happens in every restarted container.
_in_progress: set[str] = set()
_lock = threading.Lock()


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path beside `path`, renamed to `path` if the block succeeds and removed otherwise.

    A reader sees the old file or the new file, never a part. Temporary files of `path` that killed processes left are
    removed too. Raises `StoreError` if the file cannot be written.
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
    """An empty folder beside `path`, renamed to `path` if the block succeeds and removed otherwise.

    If another process has made the folder meanwhile, it stays if `is_whole` accepts it and is replaced otherwise.
    Temporary folders of `path` that killed processes left are removed too. Raises `OSError` if the folder cannot be
    written.
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
    """An empty folder in `parent`, removed at the end, together with those of the same `id` that killed processes left.

    Raises `OSError` if the folder cannot be made.
    """
    parent.mkdir(parents=True, exist_ok=True)
    remove_leftovers(parent, id)
    with _private(parent / id) as folder:
        folder.mkdir()
        yield folder


def put_in_place(source: Path, target: Path) -> None:
    """Rename a file or folder after all of it is synchronised to the disk; raises `OSError`."""
    for path in [*source.rglob("*"), source] if source.is_dir() else [source]:
        sync(path)
    os.replace(source, target)
    sync(target.parent)


def remove_leftovers(folder: Path, id: str = "") -> None:
    """Remove what killed processes left in `folder`; with an `id`, only what they left of this id."""
    with contextlib.suppress(OSError):
        for path in folder.glob(f".staging-{glob.escape(id)}*" if id else ".staging-*"):
            if is_stale(path.name) or _is_old(path):
                _discard(path)


def staging_name(id: str) -> str:
    """`.staging-<id>-<process id>@<host>`."""
    return f".staging-{id}-{os.getpid()}@{socket.gethostname()}"


@contextmanager
def in_progress(name: str) -> Iterator[bool]:
    """Mark a staging name as being written by this process; yields False if another thread is writing it already."""
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
    """Whether `name` is a staging name whose writer, a process of this host, has ended.

    Processes of other hosts cannot be checked, so their folders never count as stale here.
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
    """Synchronise `folder` and everything in it to the disk; the files lose their write permission."""
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            sync(path)
            path.chmod(path.stat().st_mode & ~0o222)
        elif path.is_dir():
            sync(path)
    sync(folder)


def sync(path: Path) -> None:
    """Synchronise to the disk a file's content, or a folder's entries (names made, renamed and removed in it)."""
    if sys.platform == "win32" and path.is_dir():  # which has no way to open a folder
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def _private(path: Path) -> Iterator[Path]:
    """A staging path beside `path` that no other thread or process uses; it is removed at the end."""
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
