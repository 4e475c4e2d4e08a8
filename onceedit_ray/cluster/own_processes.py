"""Checks by its processes whether the Ray that this process started still runs: a dead Ray cannot be asked."""

from __future__ import annotations

import psutil

_NEEDED = ("raylet", "gcs_server")


def ray_processes() -> dict[str, psutil.Process]:
    """The essential processes, by name, of the Ray that this process has just started."""
    return {child.name(): child for child in psutil.Process().children(recursive=True) if child.name() in _NEEDED}


def first_dead(processes: dict[str, psutil.Process]) -> str | None:
    """The name of the first process that has ended; None while all run."""
    return next((name for name, process in processes.items() if not _runs(process)), None)


def _runs(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
