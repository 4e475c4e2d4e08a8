"""The Serve application, up on a free port of this machine.

Serve's controller and its HTTP proxy start once for the session's Ray; each application brings its own replicas.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from ray import serve

from onceedit_ray.cluster.serve import APP_NAME, application
from onceedit_ray.cluster.serve_args import ServeArgs
from onceedit_ray.config import RunConfig
from onceedit_ray.knowledge.version import Version
from onceedit_ray.serving.listening import free_port


@dataclass(frozen=True)
class Shared:
    """A served system that several tests ask. version: the one with which it began."""

    config: RunConfig
    version: Version
    address: str


@functools.cache
def serve_address() -> str:
    """The address of the HTTP proxy, which is started at the first call."""
    port = free_port("127.0.0.1", 0)
    serve.start(http_options={"host": "127.0.0.1", "port": port})
    return f"http://127.0.0.1:{port}"


@contextlib.contextmanager
def served(config: RunConfig | None, folder: Path, **keys_and_limits: Any) -> Iterator[str]:
    """Its address, while the block runs; `keys_and_limits` are fields of `ServeArgs`, which may serve no run file."""
    if config is not None:
        (folder / "run.yaml").write_text(yaml.safe_dump(config.model_dump(mode="json")))
    args = ServeArgs(config=None if config is None else folder / "run.yaml", **keys_and_limits)
    address = serve_address()
    try:
        serve.run(application(args), name=APP_NAME)
        yield address
    finally:
        serve.delete(APP_NAME)
