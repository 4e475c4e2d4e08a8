"""A folder that is written in private and then appears whole, or not at all.

A staging folder carries the id, the process and the host that write it, so that what a killed process leaves behind
can be told from what a living one is still writing. Knows nothing about what is written.
"""

from __future__ import annotations

import os
import re
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_NAME = re.compile(r"\.staging-(?P<id>.+)-(?P<pid>\d+)@(?P<host>.+)")

# Names that this process is writing now: a folder with our process id but not in here was left by an earlier process
# that had the same id, as happens in every restarted container.
_in_progress: set[str] = set()
_lock = threading.Lock()


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
