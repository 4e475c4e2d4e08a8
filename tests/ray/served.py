"""The Serve application, up on a free port of this machine."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from ray import serve

from onceedit_ray.cluster.serve import APP_NAME, ServeArgs, application
from onceedit_ray.config import RunConfig


@contextlib.contextmanager
def served(config: RunConfig | None, folder: Path, **keys_and_limits: Any) -> Iterator[str]:
    """Its address, while the block runs; `keys_and_limits` are fields of `ServeArgs`, which may serve no run file."""
    if config is not None:
        (folder / "run.yaml").write_text(yaml.safe_dump(config.model_dump(mode="json")))
    args = ServeArgs(config=None if config is None else folder / "run.yaml", **keys_and_limits)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    serve.start(http_options={"host": "127.0.0.1", "port": port})
    try:
        serve.run(application(args), name=APP_NAME)
        yield f"http://127.0.0.1:{port}"
    finally:
        serve.shutdown()
