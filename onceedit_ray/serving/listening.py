"""Whether a command can listen at an address: found out before anything is loaded."""

from __future__ import annotations

import socket

from onceedit_ray.errors import ConfigError


def free_port(host: str, port: int, option: str = "--port") -> int:
    """`port`, or any free port if it is 0; raises `ConfigError` if `port` is taken. option: names the port."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.create_server((host.strip("[]"), port), family=family) as listener:
            return int(listener.getsockname()[1])
    except (OSError, OverflowError) as error:
        raise ConfigError(f"{host}:{port} cannot be listened on ({error}); choose another with {option}") from None
