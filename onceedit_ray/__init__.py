"""OnceEdit on Ray: correct a fact once, and every large language model you run answers with it."""

from __future__ import annotations

import importlib

__version__ = "0.1.0"


def __getattr__(name: str) -> object:
    """Import `OnceEdit` when it is first used, so that importing the package loads neither torch nor Ray."""
    if name == "OnceEdit":
        return getattr(importlib.import_module("onceedit_ray.api"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
