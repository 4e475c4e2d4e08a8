"""Which secrets of this machine a target that is added over the API may use, and for which server.

A secret is sent to the server whose target names it (`key_env`). The operator names the servers that may get each
variable, and so do the targets of the run file. So no caller can make this system send a secret to another address.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import httpx2

from onceedit_ray.config import ModelConfig
from onceedit_ray.errors import ConfigError

Origin = tuple[str, str, int | None]
"""Scheme, host and port."""
_PORTS = {"http": 80, "https": 443}


class EngineKeys:
    """Pairs of a variable and a server.

    Args:
        given: the operator's pairs, each `NAME=https://host`. served: the run's own targets that servers have.

    Raises `ConfigError` for a pair in another form.
    """

    def __init__(self, given: Iterable[str] = (), served: Mapping[str, ModelConfig] | None = None) -> None:
        self._allowed = {(each.key_env, origin_of(each.url)) for each in (served or {}).values() if each.key_env}
        for pair in given:
            name, _, url = pair.partition("=")
            if not name or not url:
                raise ConfigError(
                    f"'{pair}' names no server's key; write NAME=URL, such as KEY=https://llm.example.com"
                )
            self._allowed.add((name, origin_of(url)))

    def check(self, target: ModelConfig) -> None:
        """Raise `ConfigError` unless the target's server may get the secret that the target names."""
        origin = origin_of(target.url)
        if target.key_env and (target.key_env, origin) not in self._allowed:
            scheme, host, port = origin
            raise ConfigError(
                f"key_env '{target.key_env}' is not allowed for {scheme}://{host}:{port}: the operator of this server "
                f"allows it with `onceedit serve --engine-key {target.key_env}={scheme}://{host}:{port}`"
            )


def origin_of(url: str) -> Origin:
    """The server of an address, read as the HTTP client reads it; raises `ConfigError` if it is not a plain address."""
    try:
        parsed = httpx2.URL(url)
    except (httpx2.InvalidURL, ValueError, TypeError):
        raise ConfigError(f"'{url}' is no address; write one such as http://127.0.0.1:8000/v1") from None
    is_plain = parsed.scheme in _PORTS and parsed.host and 0 < (parsed.port or 80) < 2**16
    if not is_plain or parsed.userinfo or parsed.query or parsed.fragment:
        raise ConfigError(
            "the address of a server is http:// or https://, a host, a port and a path, such as "
            "http://127.0.0.1:8000/v1, without a user, a question mark or a #"
        )
    return parsed.scheme, parsed.host.lower().rstrip("."), parsed.port or _PORTS[parsed.scheme]
