"""The hash of a JSON value. The ids of versions and of comparison cells are made from it.

The bytes that are hashed here must never change, otherwise stored versions and cells are no longer found under their
ids. This module does not know what an id is made from.
"""

from __future__ import annotations

import hashlib
import json

from pydantic import BaseModel


def digest(value: object) -> str:
    """SHA-256, hexadecimal, of `value` as JSON; settings are written as their fields, other objects as their `str`."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, default=_plain)
    return hashlib.sha256(text.encode()).hexdigest()


def _plain(value: object) -> object:
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    return str(value)
