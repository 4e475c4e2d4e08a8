"""The folder of large files: weights, versions, caches. It is outside the repository."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from onceedit_ray.errors import StoreError
from onceedit_ray.location import refusal


def onceedit_home() -> Path:
    """`ONCEEDIT_HOME`, or the platform's user cache; created on first use; raises `StoreError` on failure."""
    configured = os.environ.get("ONCEEDIT_HOME")
    if configured and (reason := refusal(configured)):
        raise StoreError(f"ONCEEDIT_HOME: {reason}")
    if configured:
        home = Path(configured).expanduser()
    elif sys.platform == "darwin":
        home = Path.home() / "Library" / "Caches" / "onceedit"
    elif sys.platform == "win32":
        home = Path(os.environ.get("LOCALAPPDATA", Path.home())) / "onceedit"
    else:
        home = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "onceedit"
    home = home.absolute()
    try:
        home.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StoreError(f"{home} cannot be made ({error.strerror}); set ONCEEDIT_HOME to a folder you own") from None
    return home
