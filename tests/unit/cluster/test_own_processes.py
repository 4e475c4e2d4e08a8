"""A dead process of Ray is detected, whether it was reaped or not."""

from __future__ import annotations

import subprocess
import sys
import time

import psutil

from onceedit_ray.cluster.own_processes import first_dead
from tests.patience import PATIENCE


def test_a_dead_process_is_named() -> None:
    children = [subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]) for _ in range(2)]
    processes = {
        name: psutil.Process(child.pid) for name, child in zip(("gcs_server", "raylet"), children, strict=True)
    }
    try:
        assert first_dead(processes) is None
        children[1].kill()
        deadline = time.monotonic() + PATIENCE
        while first_dead(processes) is None and time.monotonic() < deadline:
            time.sleep(0.01)
        assert first_dead(processes) == "raylet", "a zombie"
        children[1].wait()
        assert first_dead(processes) == "raylet", "gone"
    finally:
        for child in children:
            child.kill()
            child.wait()
