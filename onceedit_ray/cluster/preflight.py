"""Checks each node that will hold an actor before anything is trained or loaded: that its home can be written, and that
it finds or fetches what the actor is loaded from.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import ray

from onceedit_ray.cluster.calls import fetch
from onceedit_ray.cluster.on_this_node import Weights, names_the_node, node_id, on_node, weights_here
from onceedit_ray.errors import StoreError
from onceedit_ray.home import onceedit_home
from onceedit_ray.knowledge.run_data import unrelated_prompts
from onceedit_ray.progress import Progress, silent


def check_nodes(
    needs: Mapping[str, Sequence[Weights]],
    files: Mapping[str, Sequence[Path | str]] | None = None,
    progress: Progress = silent,
) -> None:
    """Check all nodes at the same time; models of the catalogue and of the hub are fetched where they are missing.

    Args:
        needs: by Ray's id of a node, what its actors are loaded from. files: likewise, files of prompts read there.

    Raises:
        OnceEditError: of the first node on which something is missing; with several nodes the message names it.
    """
    if len(needs) > 1:
        progress(f"checking the homes and the models of {len(needs)} nodes")
    files, own = files or {}, node_id()
    tasks = [
        _check_there.options(**on_node(node)).remote(list(each), files.get(node, ()))
        for node, each in needs.items()
        if node != own
    ]
    if own in needs:
        _check(needs[own], files.get(own, ()))
    fetch(tasks)


def _check(weights: Sequence[Weights], files: Sequence[Path | str]) -> None:
    with names_the_node():
        home = onceedit_home()
        try:
            tempfile.TemporaryFile(dir=home).close()
        except OSError as error:
            raise StoreError(
                f"{home} cannot be written ({error.strerror or error}); set ONCEEDIT_HOME there to a folder you own"
            ) from None
        unrelated_prompts(files)
        for each in weights:
            weights_here(each)


_check_there = ray.remote(_check)
