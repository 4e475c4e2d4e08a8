"""Whether the Ray that this process started still runs, seen from its processes: a dead one answers no question."""

from __future__ import annotations

import psutil

_NEEDED = ("raylet", "gcs_server")


def ray_processes() -> dict[str, psutil.Process]:
    """The processes without which a Ray does not run, by name, of the one that this process has just started."""
    return {child.name(): child for child in psutil.Process().children(recursive=True) if child.name() in _NEEDED}


def first_dead(processes: dict[str, psutil.Process]) -> str | None:
    """The name of a process that has ended; None while all run."""
    return next((name for name, process in processes.items() if not _runs(process)), None)


def _runs(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
