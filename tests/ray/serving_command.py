"""`onceedit serve` in a process of its own, until it is told to end."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import httpx2
import psutil

from benchmarks.supervised import AGENTS
from onceedit_ray.serving.listening import free_port
from tests.paths import ROOT
from tests.patience import PATIENCE
from tests.ray.warm_workers import COLD

SERVE = "import sys; from onceedit_ray.cli import main; sys.exit(main(sys.argv[1:]))"


def named(processes: list[psutil.Process]) -> dict[psutil.Process, str]:
    """Those that still run, with their names."""
    found = {}
    for one in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            found[one] = one.name()
    return found


def healthy(address: str) -> dict[str, str]:
    """The states of the models at `/health`, once it says "ok": a busy machine may say "unhealthy" for a while."""
    until = time.monotonic() + PATIENCE
    while (answer := httpx2.get(f"{address}/health", trust_env=False, timeout=60)).status_code != 200:
        assert time.monotonic() < until, answer.text
        time.sleep(0.5)
    states: dict[str, str] = answer.json()["models"]
    return states


@contextlib.contextmanager
def serving(arguments: Sequence[str], folder: Path) -> Iterator[tuple[psutil.Process, str]]:
    """The command with these arguments, once it serves, and its address; what it says is in `out` and `err`.

    The block ends the command, which this waits for.
    """
    port = free_port("127.0.0.1", 0)
    command = [COLD, "-c", SERVE, "serve", *arguments, "--port", str(port)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    environment.pop("PYTEST_CURRENT_TEST", None)  # with it NiceGUI would wait for a test of its own
    with (folder / "out").open("w") as out, (folder / "err").open("w") as err:
        process = subprocess.Popen(command, stdout=out, stderr=err, env=environment, cwd=ROOT)
    known = psutil.Process(process.pid)
    tree: dict[psutil.Process, str] = {}
    try:
        until = time.monotonic() + PATIENCE
        while not re.search("^serving ", (folder / "out").read_text() + (folder / "err").read_text(), re.MULTILINE):
            assert process.poll() is None and time.monotonic() < until, (folder / "err").read_text()[-2000:]
            with contextlib.suppress(httpx2.TransportError):  # while it starts, each answer is JSON already
                httpx2.get(f"http://127.0.0.1:{port}/v1/models", trust_env=False, timeout=60).json()
            time.sleep(0.2)
        tree = named(known.children(recursive=True))
        yield known, f"http://127.0.0.1:{port}"
        process.wait(PATIENCE)
        # Ray 2.60 leaves its two agents behind when its driver is killed; they hold no model and none of our ports.
        _, left = psutil.wait_procs([one for one, name in tree.items() if name not in AGENTS], timeout=PATIENCE)
        assert not left, "every other process of its Ray ends"
    finally:
        process.kill()
        process.wait()
        for one in tree:
            with contextlib.suppress(psutil.NoSuchProcess):
                one.kill()
