"""Where a job writes its results: a place that outlives the working directory which Ray unpacks for each job."""

from __future__ import annotations

import os
import socket

from onceedit_ray.home import onceedit_home
from onceedit_ray.location import is_uri
from onceedit_ray.results import Results

_JOB = "RAY_JOB_CONFIG_JSON_ENV_VAR"
"""Ray's Jobs API sets it for the process that it starts."""


def job_results(given: str) -> Results:
    """The results at `given`, a path or a URI; within a submitted job, relative paths are under `ONCEEDIT_HOME`.

    So a job that is submitted again finds its finished cells, whatever became of the checkout. Raises `StoreError` if
    `ONCEEDIT_HOME` cannot be made, or the URI not written.
    """
    return Results(given, onceedit_home() if _JOB in os.environ else None)


def place(results: Results, name: str = "") -> str:
    """The last line of a job: the URI of its results, or the node and the absolute path."""
    where = results.named(name) if name else results.place
    return f"results: {where}" if is_uri(where) else f"results: {where} on node {socket.gethostname()}"
