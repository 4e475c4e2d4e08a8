"""The arguments of the Ray Serve application."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from onceedit_ray.location import LocalFile
from onceedit_ray.serving.limits import Limits
from onceedit_ray.validation import Strict


class ServeArgs(Strict):
    """The arguments of the application.

    config: the run file whose plug-in and targets are served; None serves `servers` alone. servers: more targets, which
    servers have: by name, the settings of a run file's entry. version: of the plug-in; None takes the run file's own.
    keys_file: API keys, one in each line, in addition to those in the environment of the replicas. edit_keys_file: keys
    for editing, likewise. admin_keys_file: keys for adding and removing targets, likewise. engine_keys: the environment
    variables that an added target may name as its `key_env`, each as NAME=https://host. replicas: of the ingress.
    coordinators: how many share the requests over the same models. request_log: whether each request is written as a
    line of JSON to the replicas' output.
    """

    config: LocalFile | None = Path("configs/quickstart.yaml")
    servers: dict[str, dict[str, str]] = Field(default_factory=dict)
    version: str | None = None
    keys_file: LocalFile | None = None
    edit_keys_file: LocalFile | None = None
    admin_keys_file: LocalFile | None = None
    engine_keys: tuple[str, ...] = ()
    replicas: int = Field(1, ge=1)
    coordinators: int = Field(1, ge=1)
    limits: Limits = Limits()
    request_log: bool = True
