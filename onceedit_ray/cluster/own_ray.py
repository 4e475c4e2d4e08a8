"""The environment of a Ray that only the processes of the command that starts it may talk to.

Ray reads it when it is imported, so this module imports no Ray and is called before anything that does. It knows
nothing about how that Ray is started.
"""

from __future__ import annotations

import os
import secrets

_SETTINGS = {
    "RAY_AUTH_MODE": "token",
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # else Ray listens on every interface, for a Ray of this machine too
    "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH": "onceedit_ray.serving.proxy_guard.middlewares",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_worker_niceness": "0",  # else those that answer would be as nice as Ray can make them, and editing no nicer
}


def prepare_environment() -> None:
    """Set what the Ray that this process will start is to read, a token of its own included; what is set stays."""
    for name, value in _SETTINGS.items():
        os.environ.setdefault(name, value)
    os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
