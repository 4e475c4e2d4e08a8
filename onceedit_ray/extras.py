"""The extras of the installation: which packages each needs, and whether they are there. Nothing is imported."""

from __future__ import annotations

from importlib.util import find_spec

from onceedit_ray.errors import ConfigError

EXTRAS = {
    "serve": ("ray", "fastapi"),
    "plots": ("matplotlib",),
    "playground": ("nicegui", "openai", "httpx2"),
}
"""By the name of the extra in `pyproject.toml`, the modules of its packages."""


def has_extra(extra: str) -> bool:
    """Whether the packages of an extra are installed."""
    return not _missing(extra)


def check_extra(extra: str, what: str) -> None:
    """Raise `ConfigError` if packages of an extra are missing; `what` needs them, such as "the playground"."""
    if missing := _missing(extra):
        raise ConfigError(f"{what} needs {', '.join(missing)}; install its extra: pip install 'onceedit-ray[{extra}]'")


def _missing(extra: str) -> list[str]:
    return [name for name in EXTRAS[extra] if find_spec(name) is None]
