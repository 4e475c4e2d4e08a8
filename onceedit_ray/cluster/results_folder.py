"""Where a job writes its results: a folder that outlives the working directory which Ray unpacks for each job."""

from __future__ import annotations

import os
import socket
from pathlib import Path

from onceedit_ray.errors import ConfigError
from onceedit_ray.home import onceedit_home

_JOB = "RAY_JOB_CONFIG_JSON_ENV_VAR"
"""Ray's Jobs API sets it for the process that it starts."""


def results_folder(given: str) -> Path:
    """The absolute folder of `given`; within a submitted job, relative paths are under `ONCEEDIT_HOME`.

    So a job that is submitted again finds its finished cells, whatever became of the checkout. Raises `ConfigError` for
    a URI, `StoreError` if `ONCEEDIT_HOME` cannot be made.
    """
    if "://" in given:
        raise ConfigError(f"--results {given}: results are written into folders; mount it and give the folder")
    folder = Path(given).expanduser()
    return (onceedit_home() / folder if _JOB in os.environ else folder).absolute()


def place(folder: Path) -> str:
    """The last line of a job: the node and the absolute path of its results."""
    return f"results: {folder.absolute()} on node {socket.gethostname()}"
