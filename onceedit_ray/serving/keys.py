"""Bearer keys for asking, for editing, and for adding and removing targets.

Keys come from the environment or from a file with one key in each line; `#` begins a comment. Only hashes of the keys
are kept in memory.
"""

from __future__ import annotations

import functools
import hashlib
import hmac
import ipaddress
import os
from collections.abc import Iterable
from pathlib import Path

from onceedit_ray.errors import ConfigError

KEYS_VARIABLE = "ONCEEDIT_API_KEYS"
"""Environment variable with keys for asking, separated by commas."""
EDIT_KEYS_VARIABLE = "ONCEEDIT_EDIT_KEYS"
"""Environment variable with keys for editing; a key for asking cannot edit, and a key for editing cannot ask."""
ADMIN_KEYS_VARIABLE = "ONCEEDIT_ADMIN_KEYS"
"""Environment variable with keys for adding and removing targets; such a key can neither ask nor edit."""
SHORTEST_KEY = 8
LOOPBACK_NAMES = ("localhost",)


class Keys:
    """A set of keys; an empty set admits everybody, so it must be used on the loopback only."""

    def __init__(self, keys: Iterable[str] = ()) -> None:
        self._hashes = [_hash(key) for key in keys]

    def __bool__(self) -> bool:
        return bool(self._hashes)

    def admits(self, authorization: str) -> bool:
        """Whether an `Authorization` header holds one of the keys, compared in constant time."""
        if not self._hashes:
            return True
        scheme, _, key = authorization.partition(" ")
        given = _hash(key.strip())
        found = [hmac.compare_digest(given, known) for known in self._hashes]
        return scheme.lower() == "bearer" and any(found)


def read_keys(file: Path | None = None, variable: str = KEYS_VARIABLE) -> Keys:
    """The keys of the environment's `variable` and of `file`.

    Raises `ConfigError` for a file that cannot be read or a short key.
    """
    keys = [key.strip() for key in os.environ.get(variable, "").split(",")]
    if file is not None:
        try:
            lines = file.read_text(encoding="utf-8").split("\n")  # splitlines() cuts a comment at U+2028
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"the keys in {file} cannot be read: {error}") from None
        keys += [line.partition("#")[0].strip() for line in lines]
        if not any(keys):
            raise ConfigError(f"{file} holds no key; write one a line, or leave the file out")
    keys = [key for key in keys if key]
    if any(len(key) < SHORTEST_KEY or not key.isascii() or " " in key for key in keys):
        raise ConfigError(
            f"a key must have at least {SHORTEST_KEY} ASCII characters and no space; "
            'make one with `python -c "import secrets; print(secrets.token_urlsafe())"`'
        )
    return Keys(keys)


@functools.lru_cache(1024)
def is_loopback(host: str) -> bool:
    """Whether an address or name can only be reached from this machine."""
    try:
        address = ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return host in LOOPBACK_NAMES
    mapped = getattr(address, "ipv4_mapped", None)
    return (mapped or address).is_loopback


def check_binding(host: str, keys: Keys) -> None:
    """Refuse to listen for other machines without keys; raises `ConfigError`."""
    if not keys and not is_loopback(host):
        raise ConfigError(
            f"without API keys only 127.0.0.1 is served, not {host}; set {KEYS_VARIABLE} or give a file of keys"
        )


def _hash(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", errors="surrogateescape")).digest()
