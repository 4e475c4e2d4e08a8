"""A run for targets that servers have, without a run file: only the server of each target must be named."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from onceedit_ray.config import RunConfig, load_config, parse_config
from onceedit_ray.errors import ConfigError

KEYS = ("engine", "model", "key_env", "tokenizer")
"""What may follow a server's address."""
DEFAULTS: Mapping[str, Any] = {
    "name": "served",
    "knowledge": {},  # edits arrive by the API
    "plugin": "smollm2-135m",
    "editing": {"editor": "reader"},
    "fusion": {"strategy": "selective"},
    "living": {"locality": 0.8, "false_alarms": 0.1},  # what the small plug-in reaches, as in configs/quickstart.yaml
}


def servers_of(given: Sequence[str]) -> dict[str, dict[str, str]]:
    """The targets of `NAME=URL` arguments, each with keys such as `,model=...` after it if need be (`KEYS`); raises
    `ConfigError` for any other form.
    """
    found: dict[str, dict[str, str]] = {}
    for argument in given:
        address, *more = argument.split(",")
        name, is_given, url = address.partition("=")
        settings = {key: value for key, _, value in (part.partition("=") for part in more)}
        if not is_given or not name or not url or not all(settings.values()) or set(settings) - set(KEYS):
            raise ConfigError(
                f"'{argument}' names no target; write NAME=URL, such as llama=http://127.0.0.1:8000/v1, and after a "
                f"comma, if need be, one of {', '.join(f'{key}=...' for key in KEYS)}"
            )
        if name in found:
            raise ConfigError(f"target '{name}' is given twice; choose another name")
        found[name] = {"engine": "openai", "url": url, **settings}
    return found


def run_of(file: Path | None, servers: Mapping[str, Mapping[str, str]]) -> RunConfig:
    """The run of a file, with more targets; without a file the run has these targets alone.

    Raises `ConfigError` if the file is wrong, or has a target of the same name.
    """
    values = dict(DEFAULTS) if file is None else load_config(file).model_dump()
    own = values.get("targets") or {}
    if twice := [name for name in servers if name in own]:
        raise ConfigError(f"{file} has a target '{twice[0]}' already; choose another name")
    return parse_config({**values, "targets": {**own, **servers}}, str(file or "the targets"))
