"""A server that is started again whenever it ends, as systemd does with `Restart=always`; for `benchmarks.chaos`.

`python -m benchmarks.supervised RUN_FILE PORT SECONDS IN_FLIGHT` is that server: what `onceedit serve` runs, with a
limit of SECONDS for a request and of IN_FLIGHT requests at once.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import httpx2
import psutil

from onceedit_ray.serving.listening import free_port

RESTART_SECONDS = 1.0
START_SECONDS = 300.0
AGENTS = ("ray::RuntimeEnvAgent", "ray::DashboardAgent")
"""Ray 2.60 leaves them behind when its driver or its raylet is killed; they hold no model and none of our ports."""


@contextlib.contextmanager
def supervised(run_file: Path, seconds: float, in_flight: int) -> Iterator[str]:
    """The server, as a process of its own that is started again whenever it ends; gives its address.

    What it prints goes to `server.log` beside `run_file`. Raises `RuntimeError` if it does not serve within
    `START_SECONDS`.
    """
    port = free_port("127.0.0.1", 0)
    arguments = [str(run_file), str(port), str(seconds), str(in_flight)]
    ending, log = threading.Event(), run_file.parent / "server.log"
    command = [sys.executable, "-m", "benchmarks.supervised", *arguments]
    supervisor = threading.Thread(target=_keep_running, args=(command, log, ending))
    supervisor.start()
    try:
        address = f"http://127.0.0.1:{port}"
        if not _answers(f"{address}/health", START_SECONDS):
            raise RuntimeError(f"the server does not start; the end of its log:\n{log.read_text()[-2000:]}")
        yield address
    finally:
        ending.set()
        supervisor.join()


def _keep_running(command: Sequence[str], log: Path, ending: threading.Event) -> None:
    """Run the command again and again until `ending`, then terminate it."""
    while not ending.is_set():
        agents: set[psutil.Process] = set()
        with log.open("a") as out, subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT) as server:
            while server.poll() is None and not ending.wait(RESTART_SECONDS):
                agents |= _agents_of(server.pid)
            server.terminate()
        for agent in agents:
            with contextlib.suppress(psutil.NoSuchProcess):
                agent.kill()


def _agents_of(pid: int) -> set[psutil.Process]:
    found = set()
    with contextlib.suppress(psutil.NoSuchProcess):
        for child in psutil.Process(pid).children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):
                if child.name().startswith(AGENTS):
                    found.add(child)
    return found


def _answers(url: str, seconds: float) -> bool:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        with contextlib.suppress(httpx2.TransportError):
            if httpx2.get(url, trust_env=False, timeout=5).status_code == 200:
                return True
        time.sleep(0.5)
    return False


def main(arguments: Sequence[str]) -> int:
    """Serve until the process is terminated."""
    from onceedit_ray.cluster.own_ray import prepare_environment

    prepare_environment()
    from onceedit_ray.cluster.serve_args import ServeArgs  # after the environment, which Ray reads
    from onceedit_ray.cluster.serve_here import serve_here
    from onceedit_ray.errors import OnceEditError
    from onceedit_ray.serving.limits import Limits

    run_file, port, seconds, in_flight = arguments
    limits = Limits(seconds=float(seconds), in_flight=int(in_flight))
    try:
        serve_here(ServeArgs(config=Path(run_file), limits=limits), "127.0.0.1", int(port))
    except KeyboardInterrupt:
        return 0
    except OnceEditError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
