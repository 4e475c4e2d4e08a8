"""A small server on a port of this machine, and public clients in an environment of their own (`make test-clients`)."""

from __future__ import annotations

import json
import os
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import uvicorn

from onceedit_ray.serving.ingress import build_ingress
from onceedit_ray.serving.keys import Keys
from onceedit_ray.serving.limits import Limits
from tests.patience import PATIENCE
from tests.small_ingress import small_backend
from tests.small_system import TaughtModels

ROOT = Path(__file__).parents[2]
PYTHON = Path(os.environ.get("ONCEEDIT_CLIENTS_VENV", ROOT / ".venv-clients")) / "bin" / "python"
KEY = "a-key-of-the-test"

Client = Callable[..., Any]


@pytest.fixture(scope="session")
def address(models: TaughtModels) -> Iterator[str]:
    """The address of two small targets behind the ingress, in a thread of this process."""
    limits = Limits(temperature=0.0, max_tokens=64, chat_tokens=8)
    server = uvicorn.Server(
        uvicorn.Config(build_ingress(small_backend(models), limits, Keys([KEY])), "127.0.0.1", 0, log_level="warning")
    )
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    deadline = time.monotonic() + PATIENCE
    while not server.started:
        assert time.monotonic() < deadline, "the server does not start"
        time.sleep(0.05)
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    server.should_exit = True
    thread.join(30)


@pytest.fixture
def client(address: str, tmp_path: Path) -> Client:
    """Runs a script in the clients' environment, with `ADDRESS`, `KEY` and arguments; returns the JSON it prints."""

    def run(package: str, script: str, **given: Any) -> Any:
        if not PYTHON.exists():
            pytest.skip(f"no environment of clients at {PYTHON.parent.parent}; `make test-clients` makes it")
        found = subprocess.run([PYTHON, "-c", f"import {package}"], capture_output=True, check=False)
        if found.returncode:
            pytest.skip(f"the environment of clients has no {package}; `make test-clients` installs it")
        variables = {"ADDRESS": address, "KEY": KEY, **given}
        head = "\n".join(f"{name} = {value!r}" for name, value in variables.items())
        quiet = {"HOME": str(tmp_path), "NO_PROXY": "127.0.0.1", "HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1",
                 "LITELLM_LOCAL_MODEL_COST_MAP": "True", "LLM_USER_PATH": str(tmp_path), "PATH": os.environ["PATH"],
                 "OPENAI_API_KEY": KEY}  # fmt: skip
        done = subprocess.run(
            [PYTHON, "-c", f"{head}\n{script}"], capture_output=True, text=True, env=quiet, cwd=tmp_path, timeout=300,
            check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-3000:]
        return json.loads(done.stdout.strip().splitlines()[-1])

    return run
