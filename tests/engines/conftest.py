"""llama.cpp's server on a port of this machine, on real weights; its environment is made by `make test-engines`."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

from onceedit_ray.serving.listening import free_port
from tests.paths import FETCHED_HOME, ROOT

PYTHON = Path(os.environ.get("ONCEEDIT_ENGINES_VENV", ROOT / ".venv-engines")) / "bin" / "python"
START_SECONDS = 300.0
SERVER = """
import sys, time, xllamacpp
options = xllamacpp.CommonParams()
options.model.path, options.port = sys.argv[1], int(sys.argv[2])
options.hostnames = ["127.0.0.1"]
options.n_ctx, options.n_parallel, options.warmup = 4096, 2, False
options.cpuparams.n_threads = options.cpuparams_batch.n_threads = 2
server = xllamacpp.Server(options)
while True:
    time.sleep(60)
"""


@pytest.fixture(scope="session")
def real_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A home with the models that were fetched, and a knowledge store of its own."""
    home = tmp_path_factory.mktemp("engines-home")
    for kept in ("models", "readers", "gguf", "checksums", "alignments"):
        if (FETCHED_HOME / kept).is_dir():
            (home / kept).symlink_to(FETCHED_HOME / kept)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ONCEEDIT_HOME", str(home))
        yield home


@pytest.fixture(scope="session")
def llamacpp(real_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The url of llama.cpp's server with the GGUF of Qwen2.5-Coder-0.5B-Instruct, as the catalogue has it."""
    found = sorted((FETCHED_HOME / "gguf").glob("qwen2.5-coder-0.5b-*.gguf"))
    if not found or not PYTHON.exists():
        pytest.skip(
            f"no environment of engines at {PYTHON.parents[1]}, or no GGUF under {FETCHED_HOME}: `make test-engines`"
        )
    port = free_port("127.0.0.1", 0)
    log = tmp_path_factory.mktemp("llamacpp") / "log"
    with log.open("w") as out:
        process = subprocess.Popen([PYTHON, "-c", SERVER, found[0], str(port)], stdout=out, stderr=out)
        try:
            _wait(process, f"http://127.0.0.1:{port}/health", log)
            yield f"http://127.0.0.1:{port}/v1"
        finally:
            process.terminate()
            process.wait(30)


def _wait(process: subprocess.Popen[bytes], health: str, log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        assert process.poll() is None, log.read_text()[-2000:]
        try:
            if httpx2.get(health, trust_env=False, timeout=5).status_code == 200:
                return
        except httpx2.HTTPError:
            pass
        time.sleep(0.5)
    raise AssertionError(f"llama.cpp's server did not start: {log.read_text()[-2000:]}")
