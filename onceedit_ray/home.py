"""Where large things live: weights, versions, caches. Never in the repository."""

from __future__ import annotations

import os
import sys
from pathlib import Path


def onceedit_home() -> Path:
    """`ONCEEDIT_HOME`, or the platform's user cache; created on first use."""
    configured = os.environ.get("ONCEEDIT_HOME")
    if configured:
        home = Path(configured).expanduser()
    elif sys.platform == "darwin":
        home = Path.home() / "Library" / "Caches" / "onceedit"
    elif sys.platform == "win32":
        home = Path(os.environ.get("LOCALAPPDATA", Path.home())) / "onceedit"
    else:
        home = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "onceedit"
    home = home.absolute()
    home.mkdir(parents=True, exist_ok=True)
    return home
