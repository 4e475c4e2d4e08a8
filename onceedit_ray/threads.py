"""How OpenMP threads wait for each other; OpenMP reads the setting when torch is imported.

By default a waiting thread spins. This is faster if the process has its cores for itself: decoding, which has small
matrix products, takes 20 to 33 % less time. If other processes use the same cores, all threads of a team wait for each
thread that the system has not scheduled: an edit of the quickstart, which takes one minute, had not finished its second
epoch after ten. Training has large matrix products, gains nothing by spinning and always runs beside other processes,
so processes that train let their threads sleep.
"""

from __future__ import annotations

import os

SLEEPING = {"OMP_WAIT_POLICY": "passive"}
"""The environment of a process that trains."""


def let_threads_sleep() -> None:
    """Let waiting threads of this process and its children sleep; to be called before torch is imported.

    A setting of the user is kept.
    """
    for name, value in SLEEPING.items():
        os.environ.setdefault(name, value)
