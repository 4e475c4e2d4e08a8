"""Processes that see other folders at the same paths, as on another machine: mount namespaces of Linux."""

from __future__ import annotations

import contextlib
import ctypes
import os
from collections.abc import Iterator
from pathlib import Path

NEW_MOUNTS = 0x00020000  # CLONE_NEWNS, of sched.h
_LIBC = ctypes.CDLL(None, use_errno=True)
_OWN_FOLDER = 0x0200  # CLONE_FS
_ALONE = 0x4000 | 0x40000  # MS_REC | MS_PRIVATE, of sys/mount.h: what is mounted in it is not seen elsewhere
_BOUND = 0x1000  # MS_BIND


@contextlib.contextmanager
def mounted(source: Path, at: Path) -> Iterator[None]:
    """While the block runs, `at` is the folder `source` for this thread; for processes that it starts, for ever.

    Raises `PermissionError` if this user may mount nothing; on a system other than Linux `OSError`.
    """
    folder, before = Path.cwd(), os.open("/proc/thread-self/ns/mnt", os.O_RDONLY)
    try:
        _check(_LIBC.unshare(NEW_MOUNTS))
        _check(_LIBC.mount(b"none", b"/", None, _ALONE, None))
        _check(_LIBC.mount(os.fsencode(source), os.fsencode(at), None, _BOUND, None))
        yield
    finally:
        join_mounts(before)
        os.close(before)
        os.chdir(folder)


def may_mount(folder: Path) -> bool:
    """Whether `mounted` works here; `folder` is one that may be mounted."""
    try:
        with mounted(folder, folder):
            return True
    except OSError:
        return False


def join_mounts(namespace: int) -> None:
    """Let this thread see the folders of `namespace`, an open /proc/…/ns/mnt."""
    if os.fstat(namespace).st_ino != os.stat("/proc/thread-self/ns/mnt").st_ino:
        _check(_LIBC.unshare(_OWN_FOLDER))  # Linux asks for it if the process has other threads
        _check(_LIBC.setns(namespace, NEW_MOUNTS))


def _check(code: int) -> None:
    if code != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
