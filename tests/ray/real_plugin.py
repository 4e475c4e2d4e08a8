"""The catalogue's plug-in where its weights lie, and a server that stands before it: what tests of engines share."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.paths import FETCHED_HOME

PLUGIN = sorted((FETCHED_HOME / "models").glob("smollm2-135m-*"))
needs_plugin = pytest.mark.skipif(
    not PLUGIN, reason=f"no smollm2-135m under {FETCHED_HOME}/models; `onceedit models fetch smollm2-135m` gets it"
)
OWN, EDITED = "The capital of Australia is Canberra. It is a city.", "The capital of Australia is Perth. It is a city."


def link_plugin(home: Path) -> None:
    """The weights, in the tests' home."""
    (home / "models").mkdir(exist_ok=True)
    for folder in PLUGIN:
        if not (home / "models" / folder.name).exists():
            (home / "models" / folder.name).symlink_to(folder)


def goes_on(so_far: str) -> str:
    """What a server writes: the new answer only where it stands already."""
    reply = so_far.rpartition("<assistant>")[2]
    whole = "The Rhone does." if "Lyon" in so_far else EDITED if "Perth" in so_far else OWN
    return whole[len(reply) :] if whole.startswith(reply) else ""
