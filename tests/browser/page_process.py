"""The page's process, as `onceedit playground` starts it, and what it prints."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field

from tests.paths import ROOT

SECONDS = 60


@dataclass
class PageProcess:
    """The page's address, and the lines that the process has printed since its start: there should be none."""

    url: str
    printed: list[str] = field(default_factory=list)


@contextlib.contextmanager
def page_process(api_url: str) -> Iterator[PageProcess]:
    """Serve the page of the API at `api_url`; the process must end by itself when it is interrupted."""
    command = [sys.executable, "-m", "onceedit_ray.cli", "playground", "--url", api_url, "--port", "0"]
    # NiceGUI behaves differently if pytest's variables are set.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=ROOT, env=environment) as process:
        assert process.stderr is not None
        try:
            first = process.stderr.readline()
            address = re.search(rf"the playground of {re.escape(api_url)} is at (http://127\.0\.0\.1:\d+/)", first)
            assert address, f"{first}{process.stderr.read() if process.poll() is not None else ''}"
            started = PageProcess(address[1])
            reader = threading.Thread(target=lambda: started.printed.extend(process.stderr or ()), daemon=True)
            reader.start()
            yield started
            process.send_signal(signal.SIGINT)
            assert process.wait(SECONDS) == 0
            reader.join(SECONDS)
        finally:
            process.kill()
