"""`scripts/local_ray.py` returns the exit code of its command; its Ray listens on the loopback and ends with it."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from urllib.parse import urlsplit

import psutil
import ray

from tests.paths import ROOT
from tests.patience import PATIENCE
from tests.ray.warm_workers import COLD

# What runs beside the local Ray: tells its address and the addresses its processes listen on, and fails with code 7.
COMMAND = """
import json, os, sys, psutil
head = next(p for p in psutil.Process(os.getppid()).children() if p.pid != os.getpid())
tree = [head, *head.children(recursive=True)]
listening = {c.laddr.ip for p in tree for c in p.net_connections() if c.status == psutil.CONN_LISTEN}
print(json.dumps([os.environ["RAY_API_SERVER_ADDRESS"], [p.pid for p in tree], sorted(listening)]))
sys.exit(7)
"""


@ray.remote
def answer() -> int:
    return 42


def test_a_local_ray_comes_and_goes_alone(ray_session: None) -> None:
    script = [COLD, str(ROOT / "scripts" / "local_ray.py"), "--", COLD, "-c", COMMAND]
    run = subprocess.run(script, env=os.environ, capture_output=True, text=True, timeout=2 * PATIENCE, check=False)
    assert run.returncode == 7, run.stdout + run.stderr
    address, pids, listening = json.loads(run.stdout.splitlines()[-1])

    assert len(pids) > 3
    assert {ip.removeprefix("::ffff:") for ip in listening} == {"127.0.0.1"}
    assert [pid for pid in pids if psutil.pid_exists(pid)] == []
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", urlsplit(address).port)) != 0
    assert ray.get(answer.remote()) == 42, "the Ray that was there before is still there"


def test_a_command_is_required() -> None:
    run = subprocess.run(
        [sys.executable, str(ROOT / "scripts" / "local_ray.py")], capture_output=True, text=True, check=False
    )
    assert run.returncode == 2
    assert "usage" in run.stderr
