"""Checks by its processes whether the Ray that this process started still runs: a dead Ray cannot be asked."""

from __future__ import annotations

from collections.abc import Iterable

import psutil

_NEEDED = ("raylet", "gcs_server")


def ray_processes(started: Iterable[psutil.Process]) -> dict[str, psutil.Process]:
    """The essential ones, by name, of the processes that a Ray has started."""
    return {process.name(): process for process in started if process.name() in _NEEDED}


def first_dead(processes: dict[str, psutil.Process]) -> str | None:
    """The name of the first process that has ended; None while all run."""
    return next((name for name, process in processes.items() if not _runs(process)), None)


def _runs(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
