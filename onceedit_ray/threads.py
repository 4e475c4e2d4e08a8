"""How the threads of a computation wait for one another; OpenMP reads it when torch is imported.

By default a thread that waits for its team spins. Alone on its cores a process gains by it: decoding, whose products
are small, takes a fifth to a third less. Beside any other process a team is held up by each of its threads that is not
running just then: an edit of the quickstart, a minute's work, was not through its second epoch in ten. Training has
large products, gains nothing by spinning and always runs beside something, so what trains lets its threads sleep.
"""

from __future__ import annotations

import os

SLEEPING = {"OMP_WAIT_POLICY": "passive"}
"""The environment of a process that trains."""


def let_threads_sleep() -> None:
    """Let the threads of this process, and of those it starts, sleep while they wait; before torch is imported.

    What the user set stays.
    """
    for name, value in SLEEPING.items():
        os.environ.setdefault(name, value)
