"""Runs the page's process beside a server: it starts when the server answers, and ends with the server."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Iterator

DEFAULT_PORT = 8080
END_SECONDS = 10.0
"""How long the process may take to end before it is killed."""
ANY_ADDRESS = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}


@contextlib.contextmanager
def page_process(host: str, port: int, page_port: int) -> Iterator[None]:
    """Serve the page for the API at `host`:`port` on 127.0.0.1:`page_port`, in a process that prints its address."""
    reachable = ANY_ADDRESS.get(host, f"[{host}]" if ":" in host else host)
    command = ["playground", "--url", f"http://{reachable}:{port}/v1", "--port", str(page_port)]
    process = subprocess.Popen([sys.executable, "-m", "onceedit_ray.cli", *command], stdin=subprocess.DEVNULL)
    try:
        yield
    finally:
        process.terminate()
        try:
            process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
