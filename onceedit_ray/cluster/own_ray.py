"""The environment variables of a Ray that accepts only the processes of the command that starts it.

Ray reads them when it is imported, so this module does not import Ray and is called before any module that does. It
does not start Ray.
"""

from __future__ import annotations

import os
import secrets

_SETTINGS = {
    "RAY_AUTH_MODE": "token",
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # otherwise Ray listens on all network interfaces
    "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH": "onceedit_ray.serving.proxy_guard.middlewares",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_worker_niceness": "0",  # otherwise actors that answer have as low a priority as editing
}


def prepare_environment() -> None:
    """Set the variables for the Ray that this process will start, with a new token; variables already set are kept."""
    for name, value in _SETTINGS.items():
        os.environ.setdefault(name, value)
    os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
